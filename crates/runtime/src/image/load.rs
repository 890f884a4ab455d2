//! `docker load`: archives of `docker save` and OCI layouts.
//!
//! A current `docker save` writes both forms into one archive; `manifest.json` is preferred as it has Docker's tags.

use std::path::PathBuf;

use futures::StreamExt;
use serde::Deserialize;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use super::{
    content::{self, Labels},
    manifest::{ConfigFile, Descriptor, Index, Manifest, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, is_index},
    platform::Platform,
    spool::{self, GZIP, Spool, Spooled, ZSTD},
    store,
    types::{LoadedImage, Progress, ProgressSink},
    unpack,
};
use crate::{ImageAction, Result, Runtime, RuntimeError, containerd::Containerd, reference::ImageName};

/// One entry of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct SavedImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Runtime {
    /// Loads a `docker save` archive or an OCI layout in a tar, gzipped or not.
    pub async fn image_load(
        &self,
        archive: impl AsyncRead + Send + Unpin + 'static,
        progress: Option<ProgressSink>,
    ) -> Result<Vec<LoadedImage>> {
        let spool = Spool::read(archive, &self.inner.scratch_dir()).await?;
        let lease = self.inner.containerd.lease().await?;
        let loaded = self.load_spooled(&lease.containerd, &spool, progress.as_ref()).await;
        lease.release().await?;
        loaded
    }

    async fn load_spooled(
        &self,
        leased: &Containerd,
        spool: &Spool,
        progress: Option<&ProgressSink>,
    ) -> Result<Vec<LoadedImage>> {
        if let Some(bytes) = spool.document("manifest.json")? {
            let saved: Vec<SavedImage> = store::parse("manifest.json", &bytes)?;
            let mut loaded = Vec::new();
            for image in &saved {
                loaded.extend(self.load_saved(leased, spool, image, progress).await?);
            }
            return Ok(loaded);
        }
        if let Some(bytes) = spool.document("index.json")? {
            let index: Index = store::parse("index.json", &bytes)?;
            return self.load_layout(leased, spool, &index, progress).await;
        }
        Err(RuntimeError::invalid("the archive is neither from docker save nor an OCI layout"))
    }

    async fn load_saved(
        &self,
        leased: &Containerd,
        spool: &Spool,
        image: &SavedImage,
        progress: Option<&ProgressSink>,
    ) -> Result<Vec<LoadedImage>> {
        let missing = |name: &str| RuntimeError::invalid(format!("the archive has no {name}"));
        let names = image.repo_tags.iter().flatten().map(|t| ImageName::parse(t).map(ImageName::or_latest));
        let names = names.collect::<Result<Vec<_>>>()?;
        let config = spool.document(&image.config)?.ok_or_else(|| missing(&image.config))?;
        let mut layers = Vec::new();
        for name in &image.layers {
            let file = spool.get(name).ok_or_else(|| missing(name))?;
            layers.push(store_layer(leased, file).await?);
        }
        let (target, manifest) = store::write_image(leased, config, layers).await?;
        self.finish_load(leased, &target, &manifest, &names, progress).await
    }

    async fn load_layout(
        &self,
        leased: &Containerd,
        spool: &Spool,
        index: &Index,
        progress: Option<&ProgressSink>,
    ) -> Result<Vec<LoadedImage>> {
        let mut loaded = Vec::new();
        for entry in &index.manifests {
            let names = layout_name(entry).into_iter().collect::<Vec<_>>();
            let (target, manifest) = store_layout_image(leased, spool, entry).await?;
            loaded.extend(self.finish_load(leased, &target, &manifest, &names, progress).await?);
        }
        if loaded.is_empty() {
            return Err(RuntimeError::invalid("the OCI layout has no image"));
        }
        Ok(loaded)
    }

    async fn finish_load(
        &self,
        leased: &Containerd,
        target: &Descriptor,
        manifest: &Manifest,
        names: &[ImageName],
        progress: Option<&ProgressSink>,
    ) -> Result<Vec<LoadedImage>> {
        let config: ConfigFile = store::config_of(leased, manifest).await?;
        let tell = |n: usize, stage: unpack::Stage| {
            let (Some(sink), unpack::Stage::Extracting) = (progress, stage) else { return };
            let layer = &manifest.layers[n];
            let size = u64::try_from(layer.size).ok();
            let id = config.rootfs.diff_ids.get(n).map(|d| short(d));
            let _ = sink.try_send(Progress { id, status: "Loading layer".into(), current: size, total: size });
        };
        unpack::unpack(leased, &self.inner.snapshotter, manifest, &config, tell).await?;
        let id = manifest.config.digest.clone();
        let told = || self.inner.events.image(ImageAction::Load, &id, &id, &config.config.labels);
        if names.is_empty() {
            self.inner.images.set(None, target, false).await?;
            told();
            return Ok(vec![LoadedImage::Untagged { id }]);
        }
        let mut loaded = Vec::new();
        for name in names {
            self.inner.images.set(Some(name), target, false).await?;
            told();
            loaded.push(LoadedImage::Tagged { reference: name.familiar(), id: id.clone() });
        }
        Ok(loaded)
    }
}

/// 12 digits of a digest.
pub(crate) fn short(digest: &str) -> String {
    digest.trim_start_matches("sha256:").chars().take(12).collect()
}

/// Buildkit, containerd and skopeo each have their own way to put a name into a layout.
fn layout_name(entry: &Descriptor) -> Option<ImageName> {
    let full = entry.annotations.get("io.containerd.image.name");
    let reference = entry.annotations.get("org.opencontainers.image.ref.name");
    let name = full.or(reference.filter(|r| r.contains([':', '/'])))?;
    ImageName::parse(name).ok().map(ImageName::or_latest)
}

fn blob<'a>(spool: &'a Spool, digest: &str) -> Result<&'a Spooled> {
    let missing = || RuntimeError::invalid(format!("the OCI layout has no blob {digest}"));
    spool.get(&format!("blobs/{}", digest.replacen(':', "/", 1))).ok_or_else(missing)
}

fn blob_document(spool: &Spool, digest: &str) -> Result<Vec<u8>> {
    blob(spool, digest)?;
    let name = format!("blobs/{}", digest.replacen(':', "/", 1));
    spool.document(&name)?.ok_or_else(|| RuntimeError::invalid(format!("the OCI layout has no blob {digest}")))
}

/// Copies a manifest, or this machine's manifest of an index, with all that hangs on it.
async fn store_layout_image(leased: &Containerd, spool: &Spool, entry: &Descriptor) -> Result<(Descriptor, Manifest)> {
    let bytes = blob_document(spool, &entry.digest)?;
    if !is_index(&entry.media_type) {
        let manifest = store_layout_manifest(leased, spool, bytes.clone()).await?;
        let labels = store::manifest_labels(&manifest);
        return Ok((content::write_document(leased, &entry.media_type, bytes, labels).await?, manifest));
    }
    let index: Index = store::parse("index", &bytes)?;
    let host = Platform::host();
    let suits = |d: &&Descriptor| d.platform.as_ref().is_none_or(|p| p.serves(&host)) && blob(spool, &d.digest).is_ok();
    let chosen = index.manifests.iter().find(suits).ok_or_else(|| {
        RuntimeError::invalid(format!("the OCI layout has no image for {}/{}", host.os, host.architecture))
    })?;
    let manifest_bytes = blob_document(spool, &chosen.digest)?;
    let manifest = store_layout_manifest(leased, spool, manifest_bytes.clone()).await?;
    content::write_document(leased, &chosen.media_type, manifest_bytes, store::manifest_labels(&manifest)).await?;
    let labels = store::index_labels(&index, std::slice::from_ref(&chosen.digest));
    Ok((content::write_document(leased, &entry.media_type, bytes, labels).await?, manifest))
}

async fn store_layout_manifest(leased: &Containerd, spool: &Spool, bytes: Vec<u8>) -> Result<Manifest> {
    let manifest: Manifest = store::parse("manifest", &bytes)?;
    for part in std::iter::once(&manifest.config).chain(&manifest.layers) {
        let file = blob(spool, &part.digest)?;
        content::write(leased, part, file_stream(file.path.clone()), Labels::new()).await?;
    }
    Ok(manifest)
}

/// Stores a layer as it is, compressed or not.
pub(crate) async fn store_layer(leased: &Containerd, file: &Spooled) -> Result<Descriptor> {
    let magic = spool::magic(&file.path).map_err(|e| RuntimeError::io("read a layer", e))?;
    let media_type = match magic.as_slice() {
        m if m.starts_with(&GZIP) => OCI_LAYER_GZIP,
        m if m.starts_with(&ZSTD) => OCI_LAYER_ZSTD,
        _ => OCI_LAYER,
    };
    let descriptor = Descriptor {
        media_type: media_type.into(),
        digest: file.digest.clone(),
        size: i64::try_from(file.size).unwrap_or(i64::MAX),
        ..Descriptor::default()
    };
    content::write(leased, &descriptor, file_stream(file.path.clone()), Labels::new()).await?;
    Ok(descriptor)
}

fn file_stream(path: PathBuf) -> impl futures::Stream<Item = std::io::Result<bytes::Bytes>> + Send {
    futures::stream::once(tokio::fs::File::open(path)).flat_map(|opened| match opened {
        Ok(file) => ReaderStream::with_capacity(file, 512 << 10).left_stream(),
        Err(e) => futures::stream::iter([Err(e)]).right_stream(),
    })
}
