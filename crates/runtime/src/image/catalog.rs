//! Which images are here: records by name in containerd, read as Docker reads them.
//!
//! An image is its config blob; several records may lead to one. A record that lost its last name lives on under a
//! `dangling` one, as Docker's `<none>` images do.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tonic::Code;

use super::{
    content,
    manifest::{ConfigFile, Descriptor, Index, Manifest, is_index},
    platform::Platform,
    types::ImageInfo,
    unpack::chain_id,
};
use crate::{
    Result, RuntimeError,
    containerd::{
        Containerd,
        services::images::{
            CreateImageRequest, DeleteImageRequest, GetImageRequest, Image as Record, ListImagesRequest,
            UpdateImageRequest,
        },
    },
    reference::{ImageName, is_digest, is_hex},
};

const DANGLING: &str = "malha-dangling@";
/// Label of records that a registry gave us: their digest may be shown.
const PULLED: &str = "malha/pulled";

/// What never changes about an image, read once.
#[derive(Debug)]
pub(crate) struct Details {
    /// Digest of the config.
    pub(crate) id: String,
    pub(crate) manifest: Manifest,
    pub(crate) config: ConfigFile,
    /// Name of the top snapshot.
    pub(crate) chain: String,
}

/// The records of one containerd namespace.
#[derive(Debug)]
pub(crate) struct Catalog {
    containerd: Containerd,
    details: Mutex<BTreeMap<String, Arc<Details>>>,
    /// Changes of records happen one after the other.
    changing: tokio::sync::Mutex<()>,
}

/// A record that a reference led to.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) target: Descriptor,
    pub(crate) details: Arc<Details>,
    /// All records of the same image, by name.
    pub(crate) records: Vec<Record>,
    /// The record that was named; `None` where an id was given.
    pub(crate) named: Option<String>,
}

impl Catalog {
    pub(crate) fn new(containerd: Containerd) -> Self {
        Self { containerd, details: Mutex::default(), changing: tokio::sync::Mutex::default() }
    }

    pub(crate) async fn records(&self) -> Result<Vec<Record>> {
        Ok(self.containerd.images().list(ListImagesRequest::default()).await?.into_inner().images)
    }

    /// The image that a record's target leads to on this machine.
    pub(crate) async fn details(&self, target: &Descriptor) -> Result<Arc<Details>> {
        if let Some(known) = self.details.lock().get(&target.digest) {
            return Ok(Arc::clone(known));
        }
        let manifest = self.manifest(target).await?;
        let config: ConfigFile = content::read_json(&self.containerd, &manifest.config.digest).await?;
        let chain = chain_id(&config.rootfs.diff_ids);
        let details = Arc::new(Details { id: manifest.config.digest.clone(), manifest, config, chain });
        self.details.lock().insert(target.digest.clone(), Arc::clone(&details));
        Ok(details)
    }

    async fn manifest(&self, target: &Descriptor) -> Result<Manifest> {
        if !is_index(&target.media_type) {
            return content::read_json(&self.containerd, &target.digest).await;
        }
        let index: Index = content::read_json(&self.containerd, &target.digest).await?;
        let host = Platform::host();
        let suits = |d: &&Descriptor| d.platform.as_ref().is_none_or(|p| p.serves(&host));
        let (first, rest): (Vec<_>, Vec<_>) = index.manifests.iter().partition(suits);
        for entry in first.into_iter().chain(rest) {
            // Only what was asked for was fetched.
            if content::info(&self.containerd, &entry.digest).await?.is_some() {
                return content::read_json(&self.containerd, &entry.digest).await;
            }
        }
        Err(RuntimeError::NotFound(format!("no manifest of {} is here", target.digest)))
    }

    /// Every image with its records. Records whose content is broken are left out.
    pub(crate) async fn all(&self) -> Result<Vec<Found>> {
        let mut images: BTreeMap<String, Found> = BTreeMap::new();
        for record in self.records().await? {
            let target = Descriptor::from(record.target.clone().unwrap_or_default());
            match self.details(&target).await {
                Ok(details) => images
                    .entry(details.id.clone())
                    .or_insert_with(|| Found { target, details, records: Vec::new(), named: None })
                    .records
                    .push(record),
                Err(error) => tracing::warn!(image = record.name, %error, "image record cannot be read"),
            }
        }
        Ok(images.into_values().collect())
    }

    /// Follows a name, an id or an id prefix.
    pub(crate) async fn find(&self, reference: &str) -> Result<Found> {
        let all = self.all().await?;
        if is_digest(reference) {
            let by_id = |f: &&Found| f.details.id == reference || f.target.digest == reference;
            return all.iter().find(by_id).cloned().ok_or_else(|| RuntimeError::NoSuchImage(reference.into()));
        }
        let name = ImageName::parse(reference).map(ImageName::or_latest);
        if let Ok(name) = &name {
            for found in &all {
                if let Some(record) = found.records.iter().find(|r| is_named(r, name)) {
                    return Ok(Found { named: Some(record.name.clone()), ..found.clone() });
                }
            }
        }
        let prefix = reference.strip_prefix("sha256:").unwrap_or(reference);
        if is_hex(prefix) {
            let mut matches = all.iter().filter(|f| f.details.id["sha256:".len()..].starts_with(prefix));
            match (matches.next(), matches.next()) {
                (Some(found), None) => return Ok(found.clone()),
                (Some(_), Some(_)) => {
                    return Err(RuntimeError::invalid(format!("No such image: {reference}: ambiguous id prefix")));
                }
                (None, _) => {}
            }
        }
        let shown = name.map_or_else(|_| reference.to_owned(), |n| n.familiar());
        Err(RuntimeError::NoSuchImage(shown))
    }

    /// Gives `target` a name (`None`: a dangling one). What the name meant before becomes dangling where nothing else
    /// names it.
    pub(crate) async fn set(&self, name: Option<&ImageName>, target: &Descriptor, pulled: bool) -> Result<()> {
        let _changing = self.changing.lock().await;
        let record_name = name.map_or_else(|| format!("{DANGLING}{}", target.digest), ImageName::record);
        let before = self.get(&record_name).await?;
        let mut record = Record { name: record_name.clone(), target: Some(target.into()), ..Record::default() };
        if pulled {
            record.labels.insert(PULLED.into(), "1".into());
        }
        match &before {
            None => {
                let request = CreateImageRequest { image: Some(record), ..CreateImageRequest::default() };
                self.containerd.images().create(request).await?;
            }
            Some(_) => {
                let request = UpdateImageRequest { image: Some(record), ..UpdateImageRequest::default() };
                self.containerd.images().update(request).await?;
            }
        }
        self.settle_dangling(before, target).await
    }

    /// Keeps the rule: an image is dangling exactly while nothing names it.
    async fn settle_dangling(&self, before: Option<Record>, target: &Descriptor) -> Result<()> {
        let records = self.records().await?;
        let digest_of = |r: &Record| r.target.as_ref().map(|t| t.digest.clone()).unwrap_or_default();
        let named = |digest: &str| records.iter().any(|r| digest_of(r) == digest && !r.name.starts_with(DANGLING));
        if named(&target.digest) {
            self.delete_record(&format!("{DANGLING}{}", target.digest), false).await?;
        }
        let Some(old) = before.and_then(|r| r.target).map(Descriptor::from) else { return Ok(()) };
        if old.digest == target.digest || named(&old.digest) {
            return Ok(());
        }
        // The same image behind another manifest is not worth a name of its own.
        let same = match (self.details(&old).await, self.details(target).await) {
            (Ok(a), Ok(b)) => a.id == b.id,
            _ => false,
        };
        if same {
            return Ok(());
        }
        self.keep_dangling(&old).await
    }

    /// Takes a last name away and keeps the image.
    pub(crate) async fn leave_nameless(&self, name: &str, target: &Descriptor) -> Result<()> {
        let _changing = self.changing.lock().await;
        // In this order: at no moment does the garbage collector find the image without a record.
        self.keep_dangling(target).await?;
        self.delete_record(name, false).await
    }

    async fn keep_dangling(&self, target: &Descriptor) -> Result<()> {
        let name = format!("{DANGLING}{}", target.digest);
        let record = Record { name, target: Some(target.into()), ..Record::default() };
        let request = CreateImageRequest { image: Some(record), ..CreateImageRequest::default() };
        match self.containerd.images().create(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(status.into()),
        }
    }

    pub(crate) async fn get(&self, record: &str) -> Result<Option<Record>> {
        match self.containerd.images().get(GetImageRequest { name: record.into() }).await {
            Ok(response) => Ok(response.into_inner().image),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// `collect` waits until content and snapshots that only it kept are gone.
    pub(crate) async fn delete_record(&self, name: &str, collect: bool) -> Result<()> {
        let request = DeleteImageRequest { name: name.into(), sync: collect, ..DeleteImageRequest::default() };
        match self.containerd.images().delete(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(status.into()),
        }
    }
}

fn is_named(record: &Record, wanted: &ImageName) -> bool {
    if record.name == wanted.record() {
        return true;
    }
    // `x@digest` is also what any tag of x with that digest means.
    let Some(digest) = &wanted.digest else { return false };
    record.target.as_ref().is_some_and(|t| t.digest == *digest)
        && ImageName::parse(&record.name).is_ok_and(|n| n.repository() == wanted.repository())
}

pub(crate) fn is_dangling(record: &Record) -> bool {
    record.name.starts_with(DANGLING)
}

impl Found {
    pub(crate) fn info(&self) -> ImageInfo {
        let names: Vec<(ImageName, &Record)> = self
            .records
            .iter()
            .filter(|r| !is_dangling(r))
            .filter_map(|r| ImageName::parse(&r.name).ok().map(|n| (n, r)))
            .collect();
        let mut repo_tags: Vec<String> =
            names.iter().filter(|(n, _)| n.digest.is_none()).map(|(n, _)| n.familiar()).collect();
        let mut repo_digests: Vec<String> = names
            .iter()
            .filter(|(n, r)| n.digest.is_some() || r.labels.contains_key(PULLED))
            .map(|(n, r)| {
                let digest = r.target.as_ref().map(|t| t.digest.as_str()).unwrap_or_default();
                format!("{}@{digest}", n.familiar_repository())
            })
            .collect();
        repo_tags.sort();
        repo_digests.sort();
        repo_digests.dedup();
        let config = &self.details.config;
        let layer_sizes: Vec<i64> = self.details.manifest.layers.iter().map(|l| l.size).collect();
        ImageInfo {
            id: self.details.id.clone(),
            repo_tags,
            repo_digests,
            target: self.target.digest.clone(),
            size: layer_sizes.iter().sum(),
            layer_sizes,
            created: config.created,
            architecture: config.architecture.clone(),
            os: config.os.clone(),
            author: config.author.clone(),
            config: Arc::new(config.into()),
            layers: config.rootfs.diff_ids.clone(),
            history: Arc::new(config.history.iter().map(Into::into).collect()),
        }
    }
}
