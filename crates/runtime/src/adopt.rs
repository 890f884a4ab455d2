//! Taking over what an earlier daemon left: metadata on disk, tasks in containerd.
//!
//! containerd is the truth about processes, the state directory about everything else. Where the two disagree a crash
//! lies between them, and the half that was being made or removed is removed.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use tokio::time::Instant;
use tonic::Code;

use crate::{
    Result, RuntimeError, cgroup, clock,
    container::{self, Container, ContainerState, ContainerStatus, Record, UNKNOWN_EXIT},
    containerd::{
        services::{containers::ListContainersRequest, tasks::GetRequest},
        timestamp,
        v1::types::{Process, Status},
    },
    durable,
    runtime::Inner,
};

/// How long a task's state is asked for: the shim of a busy machine may be slow to answer.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);
/// Containers taken over at once.
const AT_ONCE: usize = 16;

pub(crate) async fn adopt(inner: &Arc<Inner>) -> Result<()> {
    let root = inner.config.state_dir.join("containers");
    let fail = |e| RuntimeError::io(format!("read {}", root.display()), e);
    let (mut known, mut found) = (BTreeSet::new(), Vec::new());
    for entry in fs::read_dir(&root).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let id = entry.file_name().to_string_lossy().into_owned();
        match load(inner, &id, &entry.path()) {
            Ok(Some(container)) => {
                known.insert(id);
                inner.containers.insert(Arc::clone(&container));
                found.push(container);
            }
            // A creation that did not come to its end.
            Ok(None) => {
                inner.delete_task(&id).await;
                inner.unregister(&id).await?;
                inner.unmake(&id, &entry.path()).await;
            }
            Err(error) => {
                tracing::warn!(container = id, %error, "metadata cannot be read; left alone");
                known.insert(id);
            }
        }
    }
    // Beside each other: of slow shims, the slowest alone holds up the start.
    stream::iter(found)
        .for_each_concurrent(AT_ONCE, |container| async move { take_over(inner, &container).await })
        .await;
    remove_strangers(inner, &known).await
}

/// One that cannot be taken over must not keep the others.
async fn take_over(inner: &Arc<Inner>, container: &Arc<Container>) {
    let Err(error) = adopt_one(inner, container).await else { return };
    tracing::warn!(container = container.id, %error, "container not taken over");
    // Its end is seen as soon as containerd answers again.
    if container.state().status.is_running() {
        container::watch_exit(inner, container);
    }
}

fn load(inner: &Inner, id: &str, dir: &Path) -> Result<Option<Arc<Container>>> {
    let Some(record): Option<Record> = durable::read_json(&dir.join("container.json"))? else { return Ok(None) };
    let state: ContainerState = durable::read_json(&dir.join("state.json"))?.unwrap_or_default();
    let container = Container::new(record, state, dir.to_owned(), inner.container_cgroup(id));
    Ok(Some(Arc::new(container)))
}

async fn adopt_one(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<()> {
    remove_exec_pipes(&container.dir);
    if container.state().status == ContainerStatus::Removing {
        let _changing = container.changing.lock().await;
        return inner.remove_stopped(container, container.record().options.auto_remove).await;
    }
    match task(inner, &container.id).await? {
        Some(process) => match process.status() {
            Status::Running | Status::Paused | Status::Pausing => resume(inner, container, &process),
            Status::Stopped => {
                let code = container::exit_code(process.exit_status);
                ended(inner, container, code, timestamp(process.exited_at)).await;
            }
            // Created, never started: the daemon died in between.
            Status::Created => {
                inner.delete_task(&container.id).await;
                inner.unregister(&container.id).await?;
                if container.state().status.is_running() {
                    ended(inner, container, UNKNOWN_EXIT, clock::now()).await;
                }
            }
            Status::Unknown => return Err(RuntimeError::internal("its shim does not answer")),
        },
        // The machine restarted, or the shim is gone: nobody saw the end.
        None if container.state().status.is_running() => {
            ended(inner, container, UNKNOWN_EXIT, clock::now()).await;
        }
        None => {
            // An exit that was told but not tidied up after.
            let removes_itself = container.record().options.auto_remove;
            if removes_itself && container.state().status == ContainerStatus::Exited {
                let _changing = container.changing.lock().await;
                inner.remove_stopped(container, true).await?;
            }
        }
    }
    Ok(())
}

/// Asks again while the shim does not answer in time, which containerd tells as an unknown state or as an error.
async fn task(inner: &Inner, id: &str) -> Result<Option<Process>> {
    let until = Instant::now() + PATIENCE;
    loop {
        let request = GetRequest { container_id: id.into(), ..GetRequest::default() };
        let last = Instant::now() > until;
        match inner.containerd.tasks().get(request).await.map(|r| r.into_inner().process) {
            Ok(Some(process)) if process.status() == Status::Unknown && !last => {}
            Ok(process) => return Ok(process),
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) if last => return Err(status.into()),
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// It runs: the state may be older than the start.
fn resume(inner: &Arc<Inner>, container: &Arc<Container>, process: &Process) {
    container.live.send_modify(|live| {
        let was_running = live.state.status.is_running();
        live.state.status = ContainerStatus::Running;
        live.state.pid = process.pid;
        live.state.exit_code = 0;
        live.starts += 1;
        if !was_running {
            live.state.started_at = clock::now();
        }
    });
    container::watch_exit(inner, container);
}

/// It ended while nobody looked. Marked as running first, so that the exit is told like any other.
async fn ended(inner: &Arc<Inner>, container: &Arc<Container>, code: i32, at: malha_model::Timestamp) {
    let _changing = container.changing.lock().await;
    inner.on_exit(container, code, at).await;
}

fn remove_exec_pipes(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("exec-") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Containers of our namespace that the state directory does not know: removed, but for their metadata, before a crash.
async fn remove_strangers(inner: &Arc<Inner>, known: &BTreeSet<String>) -> Result<()> {
    let listed = inner.containerd.containers().list(ListContainersRequest::default()).await?;
    for stranger in listed.into_inner().containers {
        if known.contains(&stranger.id) {
            continue;
        }
        tracing::info!(container = stranger.id, "removing a container that the state directory does not know");
        inner.delete_task(&stranger.id).await;
        inner.unregister(&stranger.id).await?;
        container::remove_snapshot(&inner.containerd, &stranger.snapshotter, &stranger.snapshot_key).await?;
        cgroup::remove(&inner.container_cgroup(&stranger.id)).await;
    }
    Ok(())
}
