//! The handle: what it holds, how it is opened and how it ends.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use malha_kit::Tasks;
use tokio::sync::broadcast;

use crate::{
    Result, RuntimeConfig, RuntimeError, RuntimeEvent, adopt, cgroup,
    container::Table,
    containerd::{Containerd, services::snapshots::PrepareSnapshotRequest},
    events::Events,
    image::Catalog,
    volume::VolumeStore,
};

/// One node's containers, images and volumes. Cheap to clone.
///
/// When the last clone is dropped the background work ends; containers stay as they are.
#[derive(Clone, Debug)]
pub struct Runtime {
    pub(crate) inner: Arc<Inner>,
    _background: Arc<Background>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: RuntimeConfig,
    pub(crate) containerd: Containerd,
    pub(crate) snapshotter: String,
    pub(crate) log_writer: PathBuf,
    pub(crate) events: Events,
    pub(crate) containers: Table,
    pub(crate) images: Catalog,
    pub(crate) volumes: VolumeStore,
    pub(crate) tasks: Tasks,
}

/// Ends the background tasks with the last handle: they hold [`Inner`], not this.
#[derive(Debug)]
struct Background(Tasks);

impl Drop for Background {
    fn drop(&mut self) {
        self.0.token().cancel();
    }
}

impl Runtime {
    /// Connects to containerd and takes over every container of the state directory.
    pub async fn open(config: RuntimeConfig) -> Result<Self> {
        let fail = |e| RuntimeError::io(format!("prepare {}", config.state_dir.display()), e);
        std::fs::create_dir_all(config.state_dir.join("containers")).map_err(fail)?;
        let config = RuntimeConfig { state_dir: config.state_dir.canonicalize().map_err(fail)?, ..config };
        let scratch = config.state_dir.join("tmp");
        if scratch.exists() {
            std::fs::remove_dir_all(&scratch).map_err(fail)?;
        }
        cgroup::check_parent(&config.cgroup_parent)?;

        let containerd = Containerd::new(&config.containerd_socket, &config.namespace)?;
        containerd.ensure_namespace().await?;
        let snapshotter = match &config.snapshotter {
            Some(given) => given.clone(),
            None => pick_snapshotter(&containerd).await?,
        };
        let log_writer = match &config.log_writer {
            Some(given) => given.clone(),
            None => own_executable()?,
        };
        let (tasks, events) = (Tasks::new(), Events::new());
        let inner = Arc::new(Inner {
            images: Catalog::new(containerd.clone()),
            volumes: VolumeStore::open(&config.state_dir.join("volumes"), events.clone())?,
            containers: Table::default(),
            events,
            tasks: tasks.clone(),
            config,
            containerd,
            snapshotter,
            log_writer,
        });
        let runtime = Self { inner, _background: Arc::new(Background(tasks)) };
        adopt::adopt(&runtime.inner).await?;
        runtime.inner.watch_oom();
        Ok(runtime)
    }

    /// Lags are the receiver's to handle: read the list again.
    pub fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.inner.events.subscribe()
    }

    /// containerd's own version, for `docker version` and `info`.
    pub async fn containerd_version(&self) -> Result<String> {
        self.inner.containerd.server_version().await
    }

    pub fn snapshotter(&self) -> &str {
        &self.inner.snapshotter
    }

    /// Where Docker's `DockerRootDir` points.
    pub fn state_dir(&self) -> &Path {
        &self.inner.config.state_dir
    }

    /// The cgroup v2 directory that holds every container of this node. Made where it is not there yet.
    pub fn cgroup_dir(&self) -> Result<PathBuf> {
        cgroup::make_v2(&self.inner.config.cgroup_parent)
    }
}

impl Inner {
    /// Work in progress; emptied at each start.
    pub(crate) fn scratch_dir(&self) -> PathBuf {
        self.config.state_dir.join("tmp")
    }
}

/// An executable that was replaced while it runs is found under its name: the new one does as well.
fn own_executable() -> Result<PathBuf> {
    let path = std::env::current_exe().map_err(|e| RuntimeError::io("find the running executable", e))?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map(PathBuf::from).unwrap_or(path.clone()))
}

/// overlayfs where it works here, native otherwise.
async fn pick_snapshotter(containerd: &Containerd) -> Result<String> {
    let key = format!("malha-probe-{:016x}", rand::random::<u64>());
    let request = PrepareSnapshotRequest { snapshotter: "overlayfs".into(), key: key.clone(), ..Default::default() };
    match containerd.snapshots().prepare(request).await {
        Ok(_) => {
            crate::container::remove_snapshot(containerd, "overlayfs", &key).await?;
            Ok("overlayfs".into())
        }
        Err(status) if status.code() == tonic::Code::Unavailable => Err(status.into()),
        Err(status) => {
            tracing::warn!(%status, "overlayfs does not work here; snapshots are full copies");
            Ok("native".into())
        }
    }
}
