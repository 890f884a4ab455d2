//! Images from archives and from a registry.

use std::{
    io::Cursor,
    process::{Child, Command, Stdio},
};

use crate::support::{
    image::{busybox, docker_archive, oci_archive, registry_parts},
    with_node,
};
use malha_runtime::*;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_are_loaded_listed_tagged_and_removed() {
    with_node(|node| async move {
        let runtime = &node.runtime;
        let info = runtime.image_inspect("busybox").await.unwrap();
        assert_eq!(info.repo_tags, ["busybox:latest"]);
        assert_eq!(
            (info.config.env.as_slice(), info.config.cmd.as_slice()),
            (["PATH=/bin".to_owned(), "FROM_IMAGE=1".to_owned()].as_slice(), ["sh".to_owned()].as_slice())
        );
        assert_eq!((info.layers.len(), info.os.as_str()), (2, "linux"));
        assert!(info.layer_sizes.len() == 2 && info.layer_sizes.iter().sum::<i64>() == info.size);
        assert_eq!(info.created.to_string(), "2025-01-02T03:04:05Z");
        for name in [&info.id, &info.id[7..], &info.id[7..19], "docker.io/library/busybox:latest"] {
            assert_eq!(runtime.image_inspect(name).await.unwrap().id, info.id, "{name}");
        }
        // The same image in the other form, packed twice over: the same id.
        let oci = oci_archive("reg.test:5000/team/box:v1", &busybox());
        let loaded = runtime.image_load(Cursor::new(oci), None).await.unwrap();
        assert_eq!(loaded[0].to_string(), "Loaded image: reg.test:5000/team/box:v1");
        let mut tags = runtime.image_inspect("busybox").await.unwrap().repo_tags;
        assert_eq!(tags, ["busybox:latest", "reg.test:5000/team/box:v1"]);
        runtime.image_tag("busybox", "mine:1").await.unwrap();
        tags = runtime.image_inspect("mine:1").await.unwrap().repo_tags;
        assert_eq!(tags.len(), 3);
        assert_eq!(runtime.image_list().await.unwrap().len(), 1);
        let other = CreateOptions { image: "reg.test:5000/team/box:v1".into(), ..node.script("exit 3") };
        assert_eq!(node.run(other).await.0, 3);

        // A name that moves on leaves the image behind without one.
        let mut second = busybox();
        second.config["config"]["Env"] = json!(["SECOND=1"]);
        let (sink, mut lines) = tokio::sync::mpsc::channel(64);
        let archive = docker_archive(&["mine:1", "mine:2"], &second);
        let loaded = runtime.image_load(Cursor::new(archive.clone()), Some(sink)).await.unwrap();
        assert_eq!(loaded.len(), 2);
        assert!(lines.recv().await.is_none(), "all layers are here already");
        let untagged = crate::support::image::docker_archive(&[], &{
            let mut third = busybox();
            third.config["config"]["Env"] = json!(["THIRD=1"]);
            third
        });
        let loaded = runtime.image_load(Cursor::new(untagged), None).await.unwrap();
        assert!(loaded[0].to_string().starts_with("Loaded image ID: sha256:"));
        assert_eq!(runtime.image_list().await.unwrap().len(), 3);

        // Removal.
        let container =
            runtime.create(CreateOptions { image: "mine:2".into(), ..node.script("sleep 1000") }).await.unwrap();
        let removed = runtime.image_remove("mine:1", false).await.unwrap();
        assert_eq!(removed, [ImageDelete::Untagged("mine:1".into())]);
        let error = runtime.image_remove("mine:2", false).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains("(must force)"), "{error}");
        runtime.start(&container.id).await.unwrap();
        let removed = runtime.image_remove("mine:2", true).await.unwrap();
        assert_eq!(removed, [ImageDelete::Untagged("mine:2".into())], "what runs keeps its image");
        assert!(runtime.image_inspect(&container.image_id).await.unwrap().repo_tags.is_empty());
        let error = runtime.image_remove(&container.image_id, true).await.unwrap_err();
        assert!(error.to_string().contains("(cannot be forced) - image is being used by running container"), "{error}");
        runtime.remove(&container.id, true, false).await.unwrap();
        runtime.image_tag(&container.image_id, "mine:2").await.unwrap();
        let removed = runtime.image_remove("mine:2", false).await.unwrap();
        assert_eq!(removed[..2], [ImageDelete::Untagged("mine:2".into()), ImageDelete::Deleted(container.image_id)]);
        let error = runtime.image_remove(&info.id, false).await.unwrap_err();
        assert!(error.to_string().contains("image is referenced in multiple repositories"), "{error}");
        let orphan = runtime.create(node.script("exit 6")).await.unwrap().id;
        runtime.image_remove(&info.id, true).await.unwrap();
        // A container keeps the layers that it stands on.
        runtime.start(&orphan).await.unwrap();
        assert_eq!(node.exit_of(&orphan).await, 6);
        runtime.remove(&orphan, false, false).await.unwrap();
        let error = runtime.image_inspect("busybox").await.unwrap_err();
        assert_eq!(error.to_string(), "No such image: busybox:latest");

        // What was removed can come back, from nothing but the archive.
        runtime.image_load(Cursor::new(archive), None).await.unwrap();
        assert_eq!(node.run(CreateOptions { image: "mine:2".into(), ..node.script("exit 5") }).await.0, 5);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_system_is_imported_and_rubbish_is_refused() {
    with_node(|node| async move {
        let runtime = &node.runtime;
        let rootfs = crate::support::image::gzip(&busybox().layers[0]);
        let options = ImportOptions {
            reference: Some("flat:1".into()),
            changes: vec![r#"CMD ["sh", "-c", "echo $X"]"#.into(), "ENV X=imported PATH=/bin".into()],
            message: "by hand".into(),
        };
        let id = runtime.image_import(Cursor::new(rootfs.clone()), options).await.unwrap();
        let info = runtime.image_inspect("flat:1").await.unwrap();
        assert_eq!((info.id.as_str(), info.history[0].comment.as_str()), (id.as_str(), "by hand"));
        let plain = CreateOptions { image: "flat:1".into(), ..CreateOptions::default() };
        assert_eq!(node.run(plain).await, (0, "imported\n".into(), String::new()));

        let bad_change = ImportOptions { changes: vec!["RUN x".into()], ..ImportOptions::default() };
        assert!(runtime.image_import(Cursor::new(rootfs), bad_change).await.is_err());
        for rubbish in [b"rubbish".to_vec(), vec![0; 100_000], crate::support::image::gzip(b"x"), Vec::new()] {
            let error = runtime.image_load(Cursor::new(rubbish), None).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        }
        // A layer that is not what the image says.
        let mut forged = busybox();
        forged.config["rootfs"]["diff_ids"][1] = json!(format!("sha256:{}", "0".repeat(64)));
        let error = runtime.image_load(Cursor::new(docker_archive(&["forged"], &forged)), None).await.unwrap_err();
        assert!(error.to_string().contains("the image says sha256:000"), "{error}");
        assert!(runtime.image_inspect("forged").await.is_err());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_of_images_is_told() {
    with_node(|node| async move {
        let runtime = &node.runtime;
        let mut events = runtime.events();
        let mut image = busybox();
        image.config["config"]["Labels"] = json!({"tier": "db"});
        runtime.image_load(Cursor::new(docker_archive(&["told:1"], &image)), None).await.unwrap();
        let id = runtime.image_inspect("told:1").await.unwrap().id;
        runtime.image_tag("told:1", "told:2").await.unwrap();
        let options = ImportOptions { reference: Some("flat".into()), ..ImportOptions::default() };
        let flat = runtime.image_import(Cursor::new(busybox().layers[0].clone()), options).await.unwrap();
        runtime.image_remove("told:1", false).await.unwrap();
        runtime.image_remove("told:2", false).await.unwrap();

        let mut told = Vec::new();
        while let Ok(RuntimeEvent::Image(event)) = events.try_recv() {
            told.push((event.action, event.id, event.name, event.labels.contains_key("tier")));
        }
        let (id, flat) = (id.as_str(), flat.as_str());
        let wanted = [
            (ImageAction::Load, id, id, true),
            (ImageAction::Tag, id, "told:2", true),
            (ImageAction::Tag, flat, "flat:latest", false),
            (ImageAction::Import, flat, flat, false),
            (ImageAction::Untag, id, "told:1", false),
            (ImageAction::Untag, id, "told:2", false),
            (ImageAction::Delete, id, id, false),
        ];
        let wanted = wanted.map(|(action, id, name, labelled)| (action, id.to_owned(), name.to_owned(), labelled));
        assert_eq!(told, wanted);
    })
    .await;
}

/// Debian's docker-registry on a free port of loopback.
struct Registry {
    child: Child,
    host: String,
    _dir: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let config = json!({
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": dir.path()}},
            "http": {"addr": host},
        });
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, host, _dir: dir }
    }

    /// Pushes with oci-client; returns the digest of the manifest.
    async fn push(&self, name: &str, image: &crate::support::image::TestImage) -> String {
        use oci_client::client::{ClientConfig, ClientProtocol};
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = oci_client::Client::new(ClientConfig { protocol: ClientProtocol::Http, ..Default::default() });
        let target: oci_client::Reference = format!("{}/{name}", self.host).parse().unwrap();
        for _ in 0..200 {
            if std::net::TcpStream::connect(&self.host).is_ok() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let anonymous = oci_client::secrets::RegistryAuth::Anonymous;
        client.store_auth_if_needed(&self.host, &anonymous).await;
        let (config, layers, manifest) = registry_parts(image);
        for blob in layers.iter().chain([&config]) {
            let digest = crate::support::image::digest(blob);
            client.push_blob(&target, blob.clone(), &digest).await.unwrap();
        }
        let media_type = "application/vnd.oci.image.manifest.v1+json".parse().unwrap();
        client.push_manifest_raw(&target, manifest.clone(), media_type).await.unwrap();
        crate::support::image::digest(&manifest)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_pulled_from_a_registry() {
    with_node(|node| async move {
        let runtime = &node.runtime;
        let registry = Registry::start();
        let mut image = busybox();
        image.config["config"]["Env"] = json!(["PATH=/bin", "PULLED=1"]);
        image.layers[1] = {
            let mut tar = tar::Builder::new(Vec::new());
            crate::support::image::file(&mut tar, "etc/new", &vec![b'n'; 300_000], 0o644, 0);
            tar.into_inner().unwrap()
        };
        image.config["rootfs"]["diff_ids"][1] = json!(crate::support::image::digest(&image.layers[1]));
        let digest = registry.push("team/box:v1", &image).await;
        let name = format!("{}/team/box:v1", registry.host);

        let asked = runtime.distribution_inspect(&name, None).await.unwrap();
        assert_eq!(asked.digest, digest);
        assert_eq!(asked.platforms[0].os, "linux");
        assert!(!asked.platforms[0].architecture.is_empty());

        let (sink, mut lines) = tokio::sync::mpsc::channel(256);
        let mut events = runtime.events();
        let pulled = runtime.image_pull(&name, PullOptions::default(), Some(sink)).await.unwrap();
        let Ok(RuntimeEvent::Image(event)) = events.try_recv() else { unreachable!("a pull is told") };
        assert_eq!((event.action, &event.id), (ImageAction::Pull, &name));
        assert_eq!(event.name, format!("{}/team/box", registry.host));
        assert!(pulled.newer && pulled.digest == digest);
        let mut statuses = Vec::new();
        while let Some(line) = lines.recv().await {
            statuses.push(line.status);
        }
        println!("{statuses:?}");
        assert_eq!(statuses[0], "Pulling from team/box");
        for wanted in ["Already exists", "Pulling fs layer", "Download complete", "Pull complete"] {
            assert!(statuses.iter().any(|s| s == wanted), "{wanted} in {statuses:?}");
        }
        let last = [format!("Digest: {digest}"), format!("Status: Downloaded newer image for {name}")];
        assert!(statuses.ends_with(&last), "{statuses:?}");
        let info = runtime.image_inspect(&name).await.unwrap();
        assert_eq!(info.repo_digests, [format!("{}/team/box@{digest}", registry.host)]);
        let (code, out, _) =
            node.run(CreateOptions { image: name.clone(), ..node.script("echo $PULLED; wc -c </etc/new") }).await;
        assert_eq!((code, out.as_str()), (0, "1\n300000\n"));

        assert!(!runtime.image_pull(&name, PullOptions::default(), None).await.unwrap().newer);
        // A tag with a digest, as services are pinned: found without a pull, pulled without the tag.
        let pinned = format!("{name}@{digest}");
        assert_eq!(runtime.image_inspect(&pinned).await.unwrap().id, info.id);
        runtime.image_remove(&name, false).await.unwrap();
        assert!(runtime.image_inspect(&pinned).await.is_err());
        runtime.image_pull(&pinned, PullOptions::default(), None).await.unwrap();
        let info = runtime.image_inspect(&pinned).await.unwrap();
        assert!(info.repo_tags.is_empty() && info.repo_digests.len() == 1);

        let absent = format!("{}/team/none:v1", registry.host);
        let error = runtime.image_pull(&absent, PullOptions::default(), None).await.unwrap_err();
        assert_eq!(error.to_string(), format!("manifest for {absent} not found: manifest unknown: manifest unknown"));
        assert_eq!(error.kind(), ErrorKind::NotFound);
        drop(registry);
        let error = runtime.image_pull(&name, PullOptions::default(), None).await.unwrap_err();
        assert!(error.to_string().contains("onnection refused"), "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mirrors_stand_in_for_docker_io() {
    with_node(|node| async move {
        let registry = Registry::start();
        let digest = registry.push("library/tiny:latest", &busybox()).await;
        let mut config = node.config.clone();
        config.registries.mirrors = vec![format!("http://{}", registry.host)];
        config.state_dir = node.dir.join("mirrored");
        config.namespace = format!("{}-mirrored", config.namespace);
        let runtime = Runtime::open(config).await.unwrap();
        let pulled = runtime.image_pull("tiny", PullOptions::default(), None).await.unwrap();
        assert_eq!(pulled.digest, digest);
        assert_eq!(runtime.image_inspect("tiny").await.unwrap().repo_tags, ["tiny:latest"]);
        runtime.destroy_everything().await.unwrap();
    })
    .await;
}
