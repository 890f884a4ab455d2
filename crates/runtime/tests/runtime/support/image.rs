//! Images made of Debian's static busybox, small enough to be built for each test.

use std::io::Write;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An image before it is packed: its config and its layers, plain tars.
pub(crate) struct TestImage {
    pub(crate) config: Value,
    pub(crate) layers: Vec<Vec<u8>>,
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Two layers: the programs, then files of users, data and one deletion.
pub(crate) fn busybox() -> TestImage {
    let mut programs = tar::Builder::new(Vec::new());
    for dir in ["bin", "tmp", "etc", "root", "data"] {
        directory(&mut programs, dir, if dir == "tmp" { 0o1777 } else { 0o755 }, 0);
    }
    file(&mut programs, "bin/busybox", &std::fs::read("/bin/busybox").unwrap(), 0o755, 0);
    for name in [
        "sh", "cat", "echo", "sleep", "id", "ls", "stat", "true", "false", "head", "wc", "tty", "stty", "hostname",
        "env", "seq", "dd", "mount", "touch", "grep", "kill", "yes", "ps",
    ] {
        link(&mut programs, &format!("bin/{name}"), "busybox");
    }
    file(&mut programs, "etc/gone", b"deleted above\n", 0o644, 0);

    let mut data = tar::Builder::new(Vec::new());
    file(&mut data, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/data:/bin/sh\n", 0o644, 0);
    file(&mut data, "etc/group", b"root:x:0:\nweb:x:1000:\nextra:x:2000:web\n", 0o644, 0);
    file(&mut data, "etc/.wh.gone", b"", 0o644, 0);
    directory(&mut data, "data/sub", 0o750, 1000);
    file(&mut data, "data/sub/file", b"from the image\n", 0o640, 1000);
    link(&mut data, "data/link", "sub/file");

    let layers = vec![programs.into_inner().unwrap(), data.into_inner().unwrap()];
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "created": "2025-01-02T03:04:05Z",
        "config": {"Env": ["PATH=/bin", "FROM_IMAGE=1"], "Cmd": ["sh"], "Labels": {"made": "here"}},
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| digest(l)).collect::<Vec<_>>()},
        "history": [{"created_by": "programs"}, {"created_by": "data"}],
    });
    TestImage { config, layers }
}

/// As `docker save` writes it.
pub(crate) fn docker_archive(names: &[&str], image: &TestImage) -> Vec<u8> {
    let config = serde_json::to_vec(&image.config).unwrap();
    let config_name = format!("{}.json", &digest(&config)["sha256:".len()..]);
    let mut archive = tar::Builder::new(Vec::new());
    let mut layers = Vec::new();
    for (n, layer) in image.layers.iter().enumerate() {
        let name = format!("layer-{n}/layer.tar");
        file(&mut archive, &name, layer, 0o644, 0);
        layers.push(name);
    }
    file(&mut archive, &config_name, &config, 0o644, 0);
    let manifest = json!([{"Config": config_name, "RepoTags": names, "Layers": layers}]);
    file(&mut archive, "manifest.json", manifest.to_string().as_bytes(), 0o644, 0);
    archive.into_inner().unwrap()
}

/// As an OCI layout, layers gzipped, the whole gzipped again.
pub(crate) fn oci_archive(name: &str, image: &TestImage) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut blob = |bytes: &[u8]| {
        let digest = digest(bytes);
        file(&mut archive, &format!("blobs/{}", digest.replacen(':', "/", 1)), bytes, 0o644, 0);
        digest
    };
    let (config, layers, manifest) = registry_parts(image);
    blob(&config);
    for layer in &layers {
        blob(layer);
    }
    let manifest_digest = blob(&manifest);
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": manifest_digest, "size": manifest.len(),
        "annotations": {"io.containerd.image.name": name},
    }]});
    file(&mut archive, "index.json", index.to_string().as_bytes(), 0o644, 0);
    file(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644, 0);
    gzip(&archive.into_inner().unwrap())
}

/// Config, gzipped layers, manifest.
pub(crate) fn registry_parts(image: &TestImage) -> (Vec<u8>, Vec<Vec<u8>>, Vec<u8>) {
    let config = serde_json::to_vec(&image.config).unwrap();
    let layers: Vec<Vec<u8>> = image.layers.iter().map(|l| gzip(l)).collect();
    let described: Vec<Value> = layers
        .iter()
        .map(|l| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(l), "size": l.len()}))
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        "layers": described,
    });
    (config, layers, manifest.to_string().into_bytes())
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn header(kind: tar::EntryType, size: usize, mode: u32, owner: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime(1_735_787_045);
    header
}

pub(crate) fn file(tar: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8], mode: u32, owner: u64) {
    let mut header = header(tar::EntryType::Regular, content.len(), mode, owner);
    tar.append_data(&mut header, name, content).unwrap();
}

fn directory(tar: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, owner: u64) {
    let mut header = header(tar::EntryType::Directory, 0, mode, owner);
    tar.append_data(&mut header, name, std::io::empty()).unwrap();
}

fn link(tar: &mut tar::Builder<Vec<u8>>, name: &str, target: &str) {
    let mut header = header(tar::EntryType::Symlink, 0, 0o777, 0);
    tar.append_link(&mut header, name, target).unwrap();
}
