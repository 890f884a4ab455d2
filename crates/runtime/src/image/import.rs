//! `docker import`: a root file system's tar becomes a one-layer image.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use tokio::io::AsyncRead;

use super::{
    changes,
    load::store_layer,
    manifest::{ConfigFile, History, RootFs},
    platform::Platform,
    spool::{self, GZIP},
    store,
    types::ImportOptions,
    unpack,
};
use crate::{ImageAction, Result, Runtime, RuntimeError, clock, reference::ImageName};

impl Runtime {
    /// Makes a one-layer image of a root file system's tar (gzipped or not); returns its id.
    pub async fn image_import(
        &self,
        rootfs: impl AsyncRead + Send + Unpin + 'static,
        options: ImportOptions,
    ) -> Result<String> {
        let name = options.reference.as_deref().map(ImageName::parse).transpose()?.map(ImageName::or_latest);
        let host = Platform::host();
        let mut config =
            ConfigFile { created: clock::now(), architecture: host.architecture, os: host.os, ..ConfigFile::default() };
        for change in &options.changes {
            changes::apply(&mut config.config, change)?;
        }
        let dir = spool::scratch(&self.inner.scratch_dir())?;
        let file = spool::spool_stream(rootfs, dir.path().join("layer")).await?;
        let diff_id = diff_id(file.path.clone(), file.digest.clone()).await?;
        config.rootfs = RootFs { kind: "layers".into(), diff_ids: vec![diff_id] };
        config.history =
            vec![History { created: config.created, comment: options.message.clone(), ..History::default() }];

        let lease = self.inner.containerd.lease().await?;
        let stored: Result<String> = async {
            let leased = &lease.containerd;
            let layer = store_layer(leased, &file).await?;
            let bytes = serde_json::to_vec(&config).map_err(RuntimeError::internal)?;
            let (target, manifest) = store::write_image(leased, bytes, vec![layer]).await?;
            unpack::unpack(leased, &self.inner.snapshotter, &manifest, &config, |_, _| {}).await?;
            self.inner.images.set(name.as_ref(), &target, false).await?;
            Ok(manifest.config.digest)
        }
        .await;
        lease.release().await?;
        let (id, labels) = (stored?, &config.config.labels);
        if let Some(name) = &name {
            self.inner.events.image(ImageAction::Tag, &id, &name.familiar(), labels);
        }
        self.inner.events.image(ImageAction::Import, &id, &id, labels);
        Ok(id)
    }
}

/// Digest of the layer without compression. `as_is` is the digest of the file.
async fn diff_id(path: PathBuf, as_is: String) -> Result<String> {
    let hashed = tokio::task::spawn_blocking(move || hash_plain(&path)).await.map_err(RuntimeError::internal)?;
    Ok(hashed.map_err(|e| RuntimeError::invalid(format!("read the archive: {e}")))?.unwrap_or(as_is))
}

fn hash_plain(path: &Path) -> io::Result<Option<String>> {
    if !spool::magic(path)?.starts_with(&GZIP) {
        return Ok(None);
    }
    let mut plain = flate2::bufread::MultiGzDecoder::new(BufReader::new(File::open(path)?));
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = plain.read(&mut buffer)?;
        if n == 0 {
            return Ok(Some(format!("sha256:{}", hex::encode(hash.finalize()))));
        }
        hash.update(&buffer[..n]);
    }
}
