//! Turning blobs into an image: manifest and config written, layers unpacked, names set.
//!
//! Shared by load, import and pull. Everything happens under a lease, so a failure half way leaves only what the
//! garbage collector takes.

use super::{
    content::{self, Labels},
    manifest::{ConfigFile, Descriptor, Index, MAX_DOCUMENT, Manifest, OCI_CONFIG, OCI_MANIFEST},
};
use crate::{Result, RuntimeError, containerd::Containerd};

/// Labels by which a manifest keeps its config and layers.
pub(crate) fn manifest_labels(manifest: &Manifest) -> Labels {
    let mut labels = Labels::from([("containerd.io/gc.ref.content.config".into(), manifest.config.digest.clone())]);
    for (n, layer) in manifest.layers.iter().enumerate() {
        labels.insert(format!("containerd.io/gc.ref.content.l.{n}"), layer.digest.clone());
    }
    labels
}

/// Labels by which an index keeps the manifests that are here.
pub(crate) fn index_labels(index: &Index, here: &[String]) -> Labels {
    let kept = index.manifests.iter().enumerate().filter(|(_, m)| here.contains(&m.digest));
    kept.map(|(n, m)| (format!("containerd.io/gc.ref.content.m.{n}"), m.digest.clone())).collect()
}

/// Writes config and manifest of an image whose layers are stored already. Returns the manifest's descriptor.
pub(crate) async fn write_image(
    leased: &Containerd,
    config: Vec<u8>,
    layers: Vec<Descriptor>,
) -> Result<(Descriptor, Manifest)> {
    let config = content::write_document(leased, OCI_CONFIG, config, Labels::new()).await?;
    let manifest = Manifest { schema_version: 2, media_type: OCI_MANIFEST.into(), config, layers };
    let bytes = serde_json::to_vec(&manifest).map_err(RuntimeError::internal)?;
    let descriptor = content::write_document(leased, OCI_MANIFEST, bytes, manifest_labels(&manifest)).await?;
    Ok((descriptor, manifest))
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    if i64::try_from(bytes.len()).unwrap_or(i64::MAX) > MAX_DOCUMENT {
        return Err(RuntimeError::invalid(format!("{what} is too large")));
    }
    serde_json::from_slice(bytes).map_err(|e| RuntimeError::invalid(format!("{what}: {e}")))
}

/// The parts of an image that unpacking needs.
pub(crate) async fn config_of(containerd: &Containerd, manifest: &Manifest) -> Result<ConfigFile> {
    content::read_json(containerd, &manifest.config.digest).await
}
