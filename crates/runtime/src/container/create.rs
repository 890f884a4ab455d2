//! `docker create`.

use std::{fs, path::Path, sync::Arc};

use tokio::sync::oneshot;
use tonic::Code;

use super::{
    files,
    info::{ContainerInfo, ContainerState, Process},
    mounts::Prepared,
    name,
    options::{CreateOptions, NetworkMode},
    process, signal,
    table::{Container, Record},
};
use crate::{
    EventKind, Result, Runtime, RuntimeError, clock,
    containerd::{
        Containerd,
        services::snapshots::{MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest},
        types::Mount,
    },
    durable,
    image::{Found, Platform, snapshot_exists, unpack},
    reference::is_hex,
    rootfs::Rootfs,
    runtime::Inner,
    volume,
};

impl Runtime {
    /// Makes a container that does not run yet. One whose caller does not wait for it is removed again.
    pub async fn create(&self, options: CreateOptions) -> Result<ContainerInfo> {
        let inner = &self.inner;
        check(&options)?;
        let platform = options.platform.as_deref().map(Platform::parse).transpose()?;
        let image = inner.images.find(&options.image).await?;
        if let Some(wanted) = platform {
            check_platform(&options.image, &image, &wanted)?;
        }
        let id = options.id.clone().unwrap_or_else(name::random_id);
        let process = process::merge(&id, &options, &(&image.details.config).into())?;
        if !process.stop_signal.is_empty() {
            signal::parse(&process.stop_signal)?;
        }
        let name = reserve_name(inner, &id, options.name.as_deref())?;
        // In a task of its own: broken off half-way, it would keep its name, and what containerd still makes for it.
        let (tell, told) = oneshot::channel();
        let maker = Arc::clone(inner);
        inner.tasks.spawn("create", async move {
            let made = maker.make(&id, &name, options, process, &image).await;
            match &made {
                // Nobody has seen it, and nobody is to.
                Ok(container) if tell.is_closed() => {
                    maker.unmake(&id, &container.dir).await;
                    maker.remove_anonymous(&container.record()).await;
                    return maker.containers.release(&name, &id);
                }
                Ok(container) => {
                    maker.containers.insert(Arc::clone(container));
                    maker.emit(container, EventKind::Create);
                }
                Err(_) => maker.containers.release(&name, &id),
            }
            if let Err(Ok(unwanted)) = tell.send(made) {
                maker.discard(&unwanted).await;
            }
        });
        let made = told.await.unwrap_or_else(|_| Err(RuntimeError::internal("the creation was broken off")));
        made.map(|container| container.info())
    }

    /// Where the processes' network is, if it was not said at creation. Only while it does not run.
    pub async fn set_network(&self, container: &str, network: NetworkMode) -> Result<()> {
        self.change_options(container, |options| options.network = network).await
    }

    /// Replaces what the caller keeps with the container.
    pub async fn set_caller_data(&self, container: &str, data: serde_json::Value) -> Result<()> {
        self.change_options(container, |options| options.caller_data = data).await
    }

    async fn change_options(&self, container: &str, change: impl FnOnce(&mut CreateOptions)) -> Result<()> {
        let container = self.inner.containers.find(container)?;
        let _changing = container.change().await?;
        let mut record = (*container.record()).clone();
        change(Arc::make_mut(&mut record.options));
        container.set_record(record).await
    }
}

fn check(options: &CreateOptions) -> Result<()> {
    if options.init {
        return Err(RuntimeError::Unsupported("an init process (--init)".into()));
    }
    if let Some(id) = options.id.as_ref().filter(|id| id.len() != 64 || !is_hex(id)) {
        return Err(RuntimeError::invalid(format!("invalid container id {id:?}")));
    }
    if let Some(dir) = options.working_dir.as_ref().filter(|d| !d.is_empty() && !d.starts_with('/')) {
        return Err(RuntimeError::invalid(format!(
            "the working directory '{dir}' is invalid, it needs to be an absolute path"
        )));
    }
    Ok(())
}

/// Docker's 404, upon which its CLI pulls the image for the wanted platform and asks again.
fn check_platform(reference: &str, image: &Found, wanted: &Platform) -> Result<()> {
    let actual = image.details.config.platform();
    if actual.serves(wanted) {
        return Ok(());
    }
    Err(RuntimeError::NotFound(format!(
        "image with reference {reference} was found but does not match the specified platform: wanted {wanted}, \
         actual: {actual}"
    )))
}

fn reserve_name(inner: &Inner, id: &str, wanted: Option<&str>) -> Result<String> {
    if let Some(wanted) = wanted.filter(|w| !w.is_empty()) {
        let wanted = wanted.strip_prefix('/').unwrap_or(wanted);
        name::check(wanted)?;
        inner.containers.reserve(wanted, id)?;
        return Ok(wanted.to_owned());
    }
    let mut last = Err(RuntimeError::internal("no free name"));
    for attempt in 0..20 {
        let drawn = name::made_up(attempt);
        last = inner.containers.reserve(&drawn, id).map(|()| drawn);
        if last.is_ok() {
            break;
        }
    }
    last
}

impl Inner {
    /// Everything on disk and in containerd that a container needs before its start; all of it or nothing.
    async fn make(
        &self,
        id: &str,
        name: &str,
        options: CreateOptions,
        process: Process,
        image: &Found,
    ) -> Result<Arc<Container>> {
        let dir = self.container_dir(id);
        let mut prepared = Prepared::default();
        let made = async {
            fs::create_dir_all(&dir).map_err(|e| RuntimeError::io(format!("create {}", dir.display()), e))?;
            let config = (&image.details.config).into();
            self.prepare_mounts(id, &options, &config, &mut prepared).await?;
            let mounts = self.prepare_snapshot(id, image).await?;
            self.fill_volumes(&mounts, &prepared).await?;
            let record = Record {
                id: id.into(),
                name: name.into(),
                created: clock::now(),
                image_id: image.details.id.clone(),
                snapshotter: self.snapshotter.clone(),
                options: Arc::new(options),
                process: Arc::new(process),
                mounts: Arc::new(prepared.points.clone()),
            };
            let state = ContainerState::default();
            let cgroup = self.container_cgroup(id);
            let container = Arc::new(Container::new(record.clone(), state, dir.clone(), cgroup));
            files::write_all(&container.paths(), &record.process.hostname, &record.options.files)?;
            // Last: a directory without this file is a creation that did not come to its end.
            durable::write_json(&dir.join("container.json"), &record).await?;
            Ok(container)
        }
        .await;
        if made.is_err() {
            self.unmake(id, &dir).await;
            for volume in &prepared.fresh {
                let _ = self.volumes.remove(&volume.name).await;
            }
        }
        made
    }

    async fn discard(&self, container: &Arc<Container>) {
        let _changing = container.changing.lock().await;
        if let Err(error) = self.remove_stopped(container, true).await {
            tracing::warn!(container = container.id, %error, "a container that nobody waited for stays");
        }
    }

    /// Removes what a container has in containerd and on disk, as far as it is there.
    pub(crate) async fn unmake(&self, id: &str, dir: &Path) {
        if let Err(error) = remove_snapshot(&self.containerd, &self.snapshotter, id).await {
            tracing::warn!(container = id, %error, "snapshot not removed");
        }
        let _ = fs::remove_dir_all(self.secrets_dir(id));
        // First of the files: without it the rest is half a container, which the next start removes.
        let _ = fs::remove_file(dir.join("container.json"));
        if let Err(error) = fs::remove_dir_all(dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(container = id, %error, "directory not removed");
        }
    }

    async fn prepare_snapshot(&self, id: &str, image: &Found) -> Result<Vec<Mount>> {
        let details = &image.details;
        if !details.chain.is_empty() && !snapshot_exists(&self.containerd, &self.snapshotter, &details.chain).await? {
            let lease = self.containerd.lease().await?;
            unpack(&lease.containerd, &self.snapshotter, &details.manifest, &details.config, |_, _| {}).await?;
            lease.release().await?;
        }
        let request = PrepareSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: id.into(),
            parent: details.chain.clone(),
            // Nothing in containerd refers to it until the first start.
            labels: [("containerd.io/gc.root".to_owned(), clock::now().to_string())].into(),
        };
        Ok(self.containerd.snapshots().prepare(request).await?.into_inner().mounts)
    }

    /// First use of a volume: it starts with what the image has at that place.
    async fn fill_volumes(&self, mounts: &[Mount], prepared: &Prepared) -> Result<()> {
        if prepared.copy_up.is_empty() {
            return Ok(());
        }
        let (mounts, wanted, scratch) = (mounts.to_vec(), prepared.copy_up.clone(), self.scratch_dir());
        let filled = tokio::task::spawn_blocking(move || {
            let rootfs = Rootfs::open(&mounts, &scratch)?;
            for (volume, target) in &wanted {
                let Some(from) = rootfs.directory(target)? else { continue };
                volume::copy_up(&from, &volume.mountpoint).map_err(|e| {
                    RuntimeError::io(format!("copy the image's {target} into volume {}", volume.name), e)
                })?;
            }
            Ok(())
        });
        filled.await.map_err(RuntimeError::internal)?
    }

    pub(crate) async fn snapshot_mounts(&self, record: &Record) -> Result<Vec<Mount>> {
        let request = MountsRequest { snapshotter: record.snapshotter.clone(), key: record.id.clone() };
        Ok(self.containerd.snapshots().mounts(request).await?.into_inner().mounts)
    }
}

/// Fine with one that is not there.
pub(crate) async fn remove_snapshot(containerd: &Containerd, snapshotter: &str, key: &str) -> Result<()> {
    let request = RemoveSnapshotRequest { snapshotter: snapshotter.into(), key: key.into() };
    match containerd.snapshots().remove(request).await {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::NotFound => Ok(()),
        Err(status) => Err(status.into()),
    }
}
