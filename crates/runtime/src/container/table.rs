//! The containers of this node: what is known of each, by id and by name.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use malha_model::Timestamp;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::{MutexGuard, watch};

use super::{
    attach::PendingAttach,
    exec::Exec,
    info::{ContainerInfo, ContainerPaths, ContainerState, ExitStatus, MountPoint, Process},
    options::CreateOptions,
};
use crate::{ContainerEvent, EventKind, Result, RuntimeError, cgroup, clock, durable, runtime::Inner};

/// What is written to `container.json`: changes seldom.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) created: Timestamp,
    pub(crate) image_id: String,
    pub(crate) snapshotter: String,
    pub(crate) options: Arc<CreateOptions>,
    pub(crate) process: Arc<Process>,
    pub(crate) mounts: Arc<Vec<MountPoint>>,
}

/// The changing part and what waits need to tell one run from the next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live {
    pub(crate) state: ContainerState,
    pub(crate) starts: u64,
    pub(crate) exits: u64,
    pub(crate) last_exit: ExitStatus,
    /// The process has ended, but its output is still on its way to the log.
    pub(crate) draining: bool,
    pub(crate) removed: bool,
    /// Does not remove itself for now. In memory only: a daemon that dies meanwhile leaves nothing behind for good.
    pub(crate) kept: bool,
}

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    /// cgroup path.
    pub(crate) cgroup: String,
    record: RwLock<Arc<Record>>,
    pub(crate) live: watch::Sender<Live>,
    /// Start, exit and removal happen one after the other.
    pub(crate) changing: Arc<tokio::sync::Mutex<()>>,
    pub(crate) pending_attaches: Mutex<Vec<PendingAttach>>,
    pub(crate) execs: Mutex<BTreeMap<String, Arc<Exec>>>,
}

impl Container {
    pub(crate) fn new(record: Record, state: ContainerState, dir: PathBuf, cgroup: String) -> Self {
        let last_exit = ExitStatus {
            exit_code: state.exit_code,
            oom_killed: state.oom_killed,
            finished_at: state.finished_at,
            error: state.error.clone(),
        };
        Self {
            id: record.id.clone(),
            dir,
            cgroup,
            record: RwLock::new(Arc::new(record)),
            live: watch::Sender::new(Live { state, last_exit, ..Live::default() }),
            changing: Arc::default(),
            pending_attaches: Mutex::default(),
            execs: Mutex::default(),
        }
    }

    pub(crate) fn record(&self) -> Arc<Record> {
        Arc::clone(&self.record.read())
    }

    pub(crate) fn state(&self) -> ContainerState {
        self.live.borrow().state.clone()
    }

    /// Whether it runs, once a start that is under way has come to its end.
    pub(crate) async fn runs(&self) -> bool {
        let (runs, ending) = {
            let live = self.live.borrow();
            (live.state.status.is_running(), live.draining)
        };
        // No start is under way while it drains.
        if runs || ending {
            return runs;
        }
        let _changing = self.changing.lock().await;
        self.state().status.is_running()
    }

    /// Waits for what is being done to it; held while it is changed. It may have been removed meanwhile.
    pub(crate) async fn change(&self) -> Result<MutexGuard<'_, ()>> {
        let changing = self.changing.lock().await;
        self.still_there()?;
        Ok(changing)
    }

    /// For who holds `changing`.
    pub(crate) fn still_there(&self) -> Result<()> {
        let removed = self.live.borrow().removed;
        if removed { Err(RuntimeError::NoSuchContainer(self.id.clone())) } else { Ok(()) }
    }

    /// Writes first, then shows: what callers see is on disk.
    pub(crate) async fn set_record(&self, record: Record) -> Result<()> {
        durable::write_json(&self.dir.join("container.json"), &record).await?;
        *self.record.write() = Arc::new(record);
        Ok(())
    }

    /// Writes the state as it is now. The process matters more than its file: the caller decides what a failure means.
    pub(crate) async fn save_state(&self) -> Result<()> {
        let state = self.state();
        durable::write_json(&self.dir.join("state.json"), &state).await
    }

    pub(crate) fn info(&self) -> ContainerInfo {
        let record = self.record();
        ContainerInfo {
            id: self.id.clone(),
            name: record.name.clone(),
            created: record.created,
            image_id: record.image_id.clone(),
            options: Arc::clone(&record.options),
            process: Arc::clone(&record.process),
            state: self.state(),
            mounts: Arc::clone(&record.mounts),
            paths: self.paths(),
            driver: record.snapshotter.clone(),
        }
    }

    pub(crate) fn paths(&self) -> ContainerPaths {
        ContainerPaths {
            log: self.dir.join(crate::log::LOG_FILE),
            hosts: self.dir.join("hosts"),
            hostname: self.dir.join("hostname"),
            resolv_conf: self.dir.join("resolv.conf"),
            cgroup: cgroup::v2_dir(&self.cgroup),
            dir: self.dir.clone(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Table(RwLock<Index>);

#[derive(Debug, Default)]
struct Index {
    by_id: BTreeMap<String, Arc<Container>>,
    /// Names also of containers that are being created.
    names: BTreeMap<String, String>,
}

impl Table {
    /// Holds a name for an id, so that of two creations one wins.
    pub(crate) fn reserve(&self, name: &str, id: &str) -> Result<()> {
        let mut index = self.0.write();
        if let Some(holder) = index.names.get(name).filter(|holder| *holder != id) {
            return Err(RuntimeError::NameInUse { name: name.into(), holder: holder.clone() });
        }
        if index.by_id.contains_key(id) {
            return Err(RuntimeError::Conflict(format!("container id {id} exists already")));
        }
        index.names.insert(name.into(), id.into());
        Ok(())
    }

    pub(crate) fn release(&self, name: &str, id: &str) {
        let mut index = self.0.write();
        if index.names.get(name).is_some_and(|holder| holder == id) {
            index.names.remove(name);
        }
    }

    /// Moves a name; both belong to the same container until the caller releases one.
    pub(crate) fn reserve_second(&self, name: &str, id: &str) -> Result<()> {
        let mut index = self.0.write();
        if let Some(holder) = index.names.get(name) {
            return Err(RuntimeError::NameInUse { name: name.into(), holder: holder.clone() });
        }
        index.names.insert(name.into(), id.into());
        Ok(())
    }

    pub(crate) fn insert(&self, container: Arc<Container>) {
        let mut index = self.0.write();
        index.names.insert(container.record().name.clone(), container.id.clone());
        index.by_id.insert(container.id.clone(), container);
    }

    pub(crate) fn remove(&self, container: &Container) {
        let mut index = self.0.write();
        index.by_id.remove(&container.id);
        index.names.retain(|_, id| *id != container.id);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.0.read().by_id.values().cloned().collect()
    }

    pub(crate) fn labelled(&self, key: &str, value: &str) -> Option<Arc<Container>> {
        let has = |c: &&Arc<Container>| c.record.read().options.labels.get(key).is_some_and(|v| v == value);
        self.0.read().by_id.values().find(has).cloned()
    }

    /// Docker's order: full id, name, id prefix.
    pub(crate) fn find(&self, reference: &str) -> Result<Arc<Container>> {
        let index = self.0.read();
        let missing = || RuntimeError::NoSuchContainer(reference.to_owned());
        let name = reference.strip_prefix('/').unwrap_or(reference);
        if name.is_empty() {
            return Err(missing());
        }
        let by_name = || index.names.get(name).and_then(|id| index.by_id.get(id));
        if let Some(found) = index.by_id.get(reference).or_else(by_name) {
            return Ok(Arc::clone(found));
        }
        let from = index.by_id.range(reference.to_owned()..);
        let mut matches = from.take_while(|(id, _)| id.starts_with(reference)).map(|(_, c)| c);
        match (matches.next(), matches.next()) {
            (Some(found), None) => Ok(Arc::clone(found)),
            (Some(_), Some(_)) => {
                Err(RuntimeError::invalid(format!("multiple IDs found with provided prefix: {reference}")))
            }
            (None, _) => Err(missing()),
        }
    }

    pub(crate) fn find_exec(&self, exec: &str) -> Result<(Arc<Container>, Arc<Exec>)> {
        for container in self.all() {
            let found = container.execs.lock().get(exec).cloned();
            if let Some(found) = found {
                return Ok((container, found));
            }
        }
        Err(RuntimeError::NoSuchExec(exec.into()))
    }
}

impl Inner {
    pub(crate) fn emit(&self, container: &Container, kind: EventKind) {
        let record = container.record();
        let event = ContainerEvent {
            id: container.id.clone(),
            name: record.name.clone(),
            image: record.options.image.clone(),
            labels: Arc::new(record.process.labels.clone()),
            options: Arc::clone(&record.options),
            mounts: Arc::clone(&record.mounts),
            kind,
            time: clock::now(),
        };
        self.events.container(event);
    }

    pub(crate) fn container_dir(&self, id: &str) -> PathBuf {
        self.config.state_dir.join("containers").join(id)
    }

    pub(crate) fn container_cgroup(&self, id: &str) -> String {
        format!("{}/{id}", self.config.cgroup_parent)
    }
}
