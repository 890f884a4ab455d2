//! `docker images`, `image inspect`, `tag` and `rmi`.

use std::collections::BTreeMap;

use super::{
    catalog::{Found, is_dangling},
    manifest::Descriptor,
    types::{ImageDelete, ImageInfo},
};
use crate::{ContainerInfo, ImageAction, Result, Runtime, RuntimeError, reference::ImageName};

impl Runtime {
    /// Newest first.
    pub async fn image_list(&self) -> Result<Vec<ImageInfo>> {
        let mut images: Vec<ImageInfo> = self.inner.images.all().await?.iter().map(Found::info).collect();
        images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(images)
    }

    pub async fn image_inspect(&self, reference: &str) -> Result<ImageInfo> {
        Ok(self.inner.images.find(reference).await?.info())
    }

    pub async fn image_tag(&self, reference: &str, target: &str) -> Result<()> {
        let found = self.inner.images.find(reference).await?;
        let name = ImageName::parse(target)?.or_latest();
        if name.digest.is_some() {
            return Err(RuntimeError::invalid("refusing to create a tag with a digest reference"));
        }
        self.inner.images.set(Some(&name), &found.target, false).await?;
        let details = &found.details;
        self.inner.events.image(ImageAction::Tag, &details.id, &name.familiar(), &details.config.config.labels);
        Ok(())
    }

    /// Takes a name away; the image goes with its last one, unless something runs from it. An id takes all names.
    pub async fn image_remove(&self, reference: &str, force: bool) -> Result<Vec<ImageDelete>> {
        let found = self.inner.images.find(reference).await?;
        let users: Vec<ContainerInfo> = self.list().into_iter().filter(|c| c.image_id == found.details.id).collect();
        let names: Vec<&String> = found.records.iter().filter(|r| !is_dangling(r)).map(|r| &r.name).collect();
        let doomed: Vec<String> = match &found.named {
            Some(named) if names.len() > 1 => vec![named.clone()],
            Some(named) => {
                refuse_last_name(reference, &found, &users, force)?;
                if running(&users).is_some() {
                    return self.take_last_name(&found, named).await;
                }
                found.records.iter().map(|r| r.name.clone()).collect()
            }
            None => {
                refuse_by_id(&found, names.len(), &users, force)?;
                found.records.iter().map(|r| r.name.clone()).collect()
            }
        };
        let gone = doomed.len() == found.records.len();
        let (id, none) = (&found.details.id, BTreeMap::new());
        let mut told = Vec::new();
        for (n, name) in doomed.iter().enumerate() {
            // The last deletion waits for the garbage collector, so that the disk is free when this returns.
            self.inner.images.delete_record(name, gone && n + 1 == doomed.len()).await?;
            // That an image had no name is nothing to take away.
            if names.contains(&name) {
                told.extend(self.tell_untagged(id, name));
            }
        }
        if gone {
            self.inner.events.image(ImageAction::Delete, id, id, &none);
            told.push(ImageDelete::Deleted(id.clone()));
            let mut diff_ids = found.details.config.rootfs.diff_ids.as_slice();
            while !diff_ids.is_empty() {
                told.push(ImageDelete::Deleted(super::unpack::chain_id(diff_ids)));
                diff_ids = &diff_ids[..diff_ids.len() - 1];
            }
        }
        Ok(told)
    }

    /// What runs keeps its image, which lives on without a name.
    async fn take_last_name(&self, found: &Found, named: &str) -> Result<Vec<ImageDelete>> {
        let record = found.records.iter().find(|r| r.name == named);
        let target = record.and_then(|r| r.target.clone()).map_or_else(|| found.target.clone(), Descriptor::from);
        self.inner.images.leave_nameless(named, &target).await?;
        Ok(self.tell_untagged(&found.details.id, named).into_iter().collect())
    }

    fn tell_untagged(&self, id: &str, record: &str) -> Option<ImageDelete> {
        let name = ImageName::parse(record).ok()?.familiar();
        self.inner.events.image(ImageAction::Untag, id, &name, &BTreeMap::new());
        Some(ImageDelete::Untagged(name))
    }
}

fn short_id(found: &Found) -> String {
    super::load::short(&found.details.id)
}

fn refuse_last_name(reference: &str, found: &Found, users: &[ContainerInfo], force: bool) -> Result<()> {
    let Some(user) = users.first().filter(|_| !force) else { return Ok(()) };
    Err(RuntimeError::Conflict(format!(
        "conflict: unable to remove repository reference \"{reference}\" (must force) - container {} is using its \
         referenced image {}",
        user.short_id(),
        short_id(found)
    )))
}

fn refuse_by_id(found: &Found, names: usize, users: &[ContainerInfo], force: bool) -> Result<()> {
    refuse_running(found, users)?;
    if force {
        return Ok(());
    }
    if let Some(user) = users.first() {
        return Err(RuntimeError::Conflict(format!(
            "conflict: unable to delete {} (must be forced) - image is being used by stopped container {}",
            short_id(found),
            user.short_id()
        )));
    }
    if names > 1 {
        return Err(RuntimeError::Conflict(format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
            short_id(found)
        )));
    }
    Ok(())
}

fn running(users: &[ContainerInfo]) -> Option<&ContainerInfo> {
    users.iter().find(|c| c.state.status.is_running())
}

fn refuse_running(found: &Found, users: &[ContainerInfo]) -> Result<()> {
    let Some(user) = running(users) else { return Ok(()) };
    Err(RuntimeError::Conflict(format!(
        "conflict: unable to delete {} (cannot be forced) - image is being used by running container {}",
        short_id(found),
        user.short_id()
    )))
}
