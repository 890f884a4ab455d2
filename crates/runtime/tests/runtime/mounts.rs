//! Volumes, binds, tmpfs, secrets, and the files that name a container.

use std::{collections::BTreeMap, path::Path};

use crate::support::with_node;
use malha_runtime::*;

fn volume(name: &str, target: &str, no_copy: bool) -> Mount {
    let source = MountSource::Volume { name: name.into(), no_copy, labels: BTreeMap::new() };
    Mount { source, target: target.into(), read_only: false }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_take_the_images_content_and_keep_their_own() {
    with_node(|node| async move {
        let runtime = &node.runtime;
        let mut events = runtime.events();
        let with = |mount: Mount, script: &str| CreateOptions { mounts: vec![mount], ..node.script(script) };
        let script = "cat /data/link; stat -c '%u %g %a %n' /data/sub /data/sub/file; echo own >/data/own";
        let (_, out, err) = node.run(with(volume("vol", "/data", false), script)).await;
        assert_eq!(
            (out.as_str(), err.as_str()),
            ("from the image\n1000 1000 750 /data/sub\n1000 1000 640 /data/sub/file\n", "")
        );
        let (_, out, _) = node.run(with(volume("vol", "/elsewhere", false), "cat /elsewhere/own")).await;
        assert_eq!(out, "own\n");
        let (_, out, _) = node.run(with(volume("bare", "/data", true), "ls /data")).await;
        assert_eq!(out, "");
        let names: Vec<String> = runtime.volume_list().await.unwrap().into_iter().map(|v| v.name).collect();
        assert_eq!(names, ["bare", "vol"]);

        let holder = runtime.create(with(volume("vol", "/data", false), "true")).await.unwrap();
        let error = runtime.volume_remove("vol", false).await.unwrap_err();
        assert_eq!(error.to_string(), format!("remove vol: volume is in use - [{}]", holder.id));
        runtime.remove(&holder.id, false, true).await.unwrap();
        runtime.volume_remove("vol", false).await.unwrap();
        assert_eq!(runtime.volume_remove("vol", false).await.unwrap_err().to_string(), "get vol: no such volume");
        runtime.volume_remove("vol", true).await.unwrap();

        // Anonymous ones go with their container.
        let id = runtime.create(with(volume("", "/data", false), "true")).await.unwrap();
        let mount = id.mounts[0].clone();
        assert!(mount.anonymous && mount.name.len() == 64 && mount.source.join("sub/file").exists());
        runtime.remove(&id.id, false, true).await.unwrap();
        assert!(runtime.volume_inspect(&mount.name).await.unwrap_err().is_not_found());
        for bad in ["../x", "a/b", ".hidden"] {
            assert!(runtime.volume_create(bad, BTreeMap::new(), BTreeMap::new()).await.is_err(), "{bad}");
        }

        let mut told = Vec::new();
        while let Ok(event) = events.try_recv() {
            if let RuntimeEvent::Volume(event) = event {
                told.push((event.action, event.name));
            }
        }
        let wanted = [
            (VolumeAction::Create, "vol"),
            (VolumeAction::Create, "bare"),
            (VolumeAction::Destroy, "vol"),
            (VolumeAction::Create, mount.name.as_str()),
            (VolumeAction::Destroy, mount.name.as_str()),
        ];
        assert_eq!(told, wanted.map(|(action, name)| (action, name.to_owned())));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_else_that_is_mounted() {
    with_node(|node| async move {
        let runtime = &node.runtime;
        let shared = node.dir.join("shared");
        std::fs::create_dir(&shared).unwrap();
        std::fs::write(shared.join("f"), "bound\n").unwrap();
        let bind = MountSource::Bind { path: shared.clone(), create: false, propagation: String::new() };
        let secret = MountSource::File { content: b"hush".to_vec(), mode: 0o400, uid: 1000, gid: 1000 };
        let mounts = vec![
            Mount { source: bind.clone(), target: "/ro".into(), read_only: true },
            Mount { source: bind, target: "/rw".into(), read_only: false },
            Mount {
                source: MountSource::Tmpfs { size: 1 << 20, mode: Some(0o700), options: vec![] },
                target: "/scratch".into(),
                read_only: false,
            },
            Mount { source: secret, target: "/run/secrets/s".into(), read_only: true },
        ];
        let files = ContainerFiles {
            hosts: Some("10.1.2.3 named\n".into()),
            resolv_conf: Some("nameserver 127.0.0.11\n".into()),
            hostname: None,
        };
        let script = "cat /ro/f; touch /ro/x; touch /rw/y; grep scratch /proc/mounts; stat -c %a /scratch; \
                      stat -c '%u %a' /run/secrets/s; cat /run/secrets/s; echo; cat /etc/hosts /etc/resolv.conf; \
                      cat /etc/hostname; sleep 1000";
        let id = node.started(CreateOptions { mounts, files, shm_size: 1 << 20, ..node.script(script) }).await;
        let mut out = String::new();
        for _ in 0..200 {
            out = node.log_text(&id, true, false).await;
            if out.contains(&id[..12]) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        assert!(out.starts_with("bound\n"), "{out}");
        assert!(out.contains("size=1024k") && out.contains("\n700\n1000 400\nhush\n"), "{out}");
        assert!(out.contains("10.1.2.3 named\nnameserver 127.0.0.11\n"), "{out}");
        assert!(node.log_text(&id, false, true).await.contains("Read-only file system"));
        assert!(shared.join("y").exists() && !shared.join("x").exists());

        let changed = ContainerFiles { hosts: Some("10.9.9.9 later\n".into()), ..ContainerFiles::default() };
        runtime.set_files(&id, changed).await.unwrap();
        assert_eq!(node.exec_sh(&id, "cat /etc/hosts").await.1, "10.9.9.9 later\n");

        // A secret is nowhere on disk, and gone with its container.
        let info = runtime.inspect(&id).unwrap();
        let secret = info.mounts.iter().find(|m| m.target == "/run/secrets/s").unwrap().source.clone();
        assert!(secret.starts_with("/run") && secret.exists());
        let record = std::fs::read_to_string(info.paths.dir.join("container.json")).unwrap();
        assert!(!record.contains("hush") && !record.contains("104,117,115,104"), "{record}");
        runtime.remove(&id, true, true).await.unwrap();
        assert!(!Path::new(&secret).exists());
    })
    .await;
}
