//! `docker pull`.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    content::{self, Labels},
    load::short,
    manifest::{ConfigFile, Descriptor, Index, Manifest, is_index},
    platform::Platform,
    registry::{self, Fetched, Source},
    store,
    types::{Progress, ProgressSink, PullOptions, PulledImage},
    unpack::{self, Stage},
};
use crate::{ImageAction, Result, Runtime, RuntimeError, containerd::Containerd, reference::ImageName};

/// Layers fetched at once, as Docker does.
const AT_ONCE: usize = 3;
const TRIES: u32 = 5;
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

impl Runtime {
    /// Fetches an image and unpacks it. Progress is in Docker's words.
    pub async fn image_pull(
        &self,
        reference: &str,
        options: PullOptions,
        progress: Option<ProgressSink>,
    ) -> Result<PulledImage> {
        let name = ImageName::parse(reference)?.or_latest();
        let wanted = match &options.platform {
            Some(text) => Platform::parse(text)?,
            None => Platform::host(),
        };
        let teller = Teller(progress);
        let fetched = registry::fetch(&self.inner.config.registries, &name, options.auth.as_ref()).await?;
        let title = name.digest.as_ref().or(name.tag.as_ref()).cloned().unwrap_or_default();
        teller.say(Some(title), format!("Pulling from {}", name.path));
        let before = self.inner.images.get(&name.record()).await?;
        let newer = before.and_then(|r| r.target).is_none_or(|t| t.digest != fetched.descriptor.digest);

        let lease = self.inner.containerd.lease().await?;
        let stored = self.pull_content(&lease.containerd, &fetched, &wanted, &teller).await;
        let stored = match stored {
            Ok(id) => self.inner.images.set(Some(&name), &fetched.descriptor, true).await.map(|()| id),
            Err(e) => Err(e),
        };
        lease.release().await?;
        let id = stored?;
        let details = self.inner.images.details(&fetched.descriptor).await;
        let labels = details.map(|d| d.config.config.labels.clone()).unwrap_or_default();
        self.inner.events.image(ImageAction::Pull, &name.familiar(), &name.familiar_repository(), &labels);
        let digest = fetched.descriptor.digest;
        teller.say(None, format!("Digest: {digest}"));
        let verb = if newer { "Downloaded newer image for" } else { "Image is up to date for" };
        teller.say(None, format!("Status: {verb} {}", name.familiar()));
        Ok(PulledImage { id, digest, newer })
    }

    /// Stores and unpacks; returns the image's id.
    async fn pull_content(
        &self,
        leased: &Containerd,
        fetched: &Fetched,
        wanted: &Platform,
        teller: &Teller,
    ) -> Result<String> {
        let source = &fetched.source;
        let manifest = store_manifests(leased, fetched, wanted).await?;
        fetch_blob(leased, source, &manifest.config, &Teller(None), None).await?;
        let config: ConfigFile = store::config_of(leased, &manifest).await?;
        let present = self.layers_present(&manifest, &config).await?;
        let ids: Vec<String> = manifest.layers.iter().map(|l| short(&l.digest)).collect();
        for (id, here) in ids.iter().zip(&present) {
            teller.say(Some(id.clone()), if *here { "Already exists" } else { "Pulling fs layer" });
        }
        stream::iter(manifest.layers.iter().zip(&ids).zip(&present).map(Ok))
            .try_for_each_concurrent(AT_ONCE, |((layer, id), here)| async move {
                // What is unpacked is not needed packed, but a registry blob that is here keeps the image whole.
                let quiet = Teller(None);
                fetch_blob(leased, source, layer, if *here { &quiet } else { teller }, Some(id)).await
            })
            .await?;
        unpack::unpack(leased, &self.inner.snapshotter, &manifest, &config, |n, stage| {
            if present.get(n).copied().unwrap_or(false) {
                return;
            }
            let status = if stage == Stage::Extracting { "Extracting" } else { "Pull complete" };
            teller.say(ids.get(n).cloned(), status);
        })
        .await?;
        Ok(manifest.config.digest)
    }

    /// Which layers are unpacked already: always the lowest ones.
    async fn layers_present(&self, manifest: &Manifest, config: &ConfigFile) -> Result<Vec<bool>> {
        let diff_ids = &config.rootfs.diff_ids;
        let mut present = vec![false; manifest.layers.len()];
        for (n, slot) in present.iter_mut().enumerate() {
            let Some(chain) = diff_ids.get(..=n).map(unpack::chain_id) else { break };
            *slot = unpack::exists(&self.inner.containerd, &self.inner.snapshotter, &chain).await?;
            if !*slot {
                break;
            }
        }
        Ok(present)
    }
}

/// Stores what the name points at, and the manifest behind it where that is an index.
async fn store_manifests(leased: &Containerd, fetched: &Fetched, wanted: &Platform) -> Result<Manifest> {
    let (top, bytes) = (&fetched.descriptor, &fetched.bytes);
    if !is_index(&top.media_type) {
        let manifest: Manifest = store::parse("manifest", bytes)?;
        content::write(leased, top, once(bytes), store::manifest_labels(&manifest)).await?;
        return Ok(manifest);
    }
    let index: Index = store::parse("index", bytes)?;
    let suits = |m: &&Descriptor| m.platform.as_ref().is_some_and(|p| p.serves(wanted) && p.os != "unknown");
    let chosen = index.manifests.iter().find(suits).ok_or_else(|| {
        RuntimeError::NotFound(format!(
            "no matching manifest for {}/{} in the manifest list entries",
            wanted.os, wanted.architecture
        ))
    })?;
    let chosen_bytes = fetched.source.manifest(&chosen.digest).await?;
    let manifest: Manifest = store::parse("manifest", &chosen_bytes)?;
    content::write(leased, chosen, once(&chosen_bytes), store::manifest_labels(&manifest)).await?;
    let labels = store::index_labels(&index, std::slice::from_ref(&chosen.digest));
    content::write(leased, top, once(bytes), labels).await?;
    Ok(manifest)
}

fn once(bytes: &[u8]) -> impl futures::Stream<Item = io::Result<Bytes>> + Send + use<> {
    stream::iter([Ok(Bytes::copy_from_slice(bytes))])
}

/// Fetches one blob into the content store, trying again where the network fails.
async fn fetch_blob(
    leased: &Containerd,
    source: &Source,
    blob: &Descriptor,
    teller: &Teller,
    id: Option<&String>,
) -> Result<()> {
    let mut tried = 0;
    loop {
        tried += 1;
        let outcome = match source.blob(&blob.digest).await {
            Ok(data) => content::write(leased, blob, teller.watch(data, blob.size, id), Labels::new()).await,
            Err(e) => Err(RuntimeError::io(format!("fetch {}", blob.digest), e)),
        };
        match outcome {
            Ok(()) => break,
            Err(RuntimeError::Io { .. }) if tried < TRIES => {
                teller.say(id.cloned(), format!("Retrying in {tried} seconds"));
                tokio::time::sleep(Duration::from_secs(tried.into())).await;
            }
            Err(e) => return Err(e),
        }
    }
    if id.is_some() {
        teller.say(id.cloned(), "Download complete");
    }
    Ok(())
}

/// Says lines of progress to whoever listens.
struct Teller(Option<ProgressSink>);

impl Teller {
    fn say(&self, id: Option<String>, status: impl Into<String>) {
        if let Some(sink) = &self.0 {
            let _ = sink.try_send(Progress { id, status: status.into(), ..Progress::default() });
        }
    }

    /// Passes data on and tells now and then how far it is.
    fn watch<'a>(
        &'a self,
        data: stream::BoxStream<'static, io::Result<Bytes>>,
        total: i64,
        id: Option<&'a String>,
    ) -> impl futures::Stream<Item = io::Result<Bytes>> + Send + 'a {
        let mut current = 0_u64;
        let mut told = Instant::now();
        data.inspect_ok(move |bytes| {
            current += bytes.len() as u64;
            let Some(sink) = self.0.as_ref().filter(|_| id.is_some() && told.elapsed() > PROGRESS_EVERY) else {
                return;
            };
            told = Instant::now();
            let total = u64::try_from(total).ok();
            let line = Progress { id: id.cloned(), status: "Downloading".into(), current: Some(current), total };
            let _ = sink.try_send(line);
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_channel_never_holds_a_pull_up() {
        let (sink, mut lines) = tokio::sync::mpsc::channel(1);
        let teller = Teller(Some(sink));
        teller.say(None, "one");
        teller.say(None, "two");
        assert_eq!(lines.try_recv().unwrap().status, "one");
        assert!(lines.try_recv().is_err());
    }
}
