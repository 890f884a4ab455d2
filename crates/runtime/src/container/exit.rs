//! The end of a container's process: seen at once, told at once, then cleaned up.

use std::{sync::Arc, time::Duration};

use tonic::Code;

use super::{
    info::{ContainerStatus, ExitStatus},
    table::Container,
};
use crate::{
    EventKind, RuntimeError, cgroup, clock,
    containerd::{services::tasks::WaitRequest, timestamp},
    log,
    runtime::Inner,
};
use malha_model::Timestamp;

/// Code of an end that nobody saw.
pub(crate) const UNKNOWN_EXIT: i32 = 255;

const RETRY: Duration = Duration::from_millis(200);

/// Waits for the end of the current run in the background.
pub(crate) fn watch(inner: &Arc<Inner>, container: &Arc<Container>) {
    let (inner, container) = (Arc::clone(inner), Arc::clone(container));
    let run = container.live.borrow().starts;
    inner.tasks.clone().spawn("container exit", async move {
        let (code, at) = wait(&inner, &container.id).await;
        let _changing = container.changing.lock().await;
        if container.live.borrow().starts == run {
            inner.on_exit(&container, code, at).await;
        }
    });
}

/// Asks containerd until it knows: it may be restarting.
async fn wait(inner: &Inner, id: &str) -> (i32, Timestamp) {
    loop {
        let request = WaitRequest { container_id: id.into(), ..WaitRequest::default() };
        match inner.containerd.tasks().wait(request).await {
            Ok(response) => {
                let response = response.into_inner();
                return (exit_code(response.exit_status), timestamp(response.exited_at));
            }
            Err(status) if status.code() == Code::NotFound => return (UNKNOWN_EXIT, clock::now()),
            Err(status) => {
                tracing::debug!(container = id, %status, "wait for the exit failed; asking again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

pub(crate) fn exit_code(status: u32) -> i32 {
    i32::try_from(status).unwrap_or(UNKNOWN_EXIT)
}

impl Inner {
    /// The caller holds `changing`.
    pub(crate) async fn on_exit(self: &Arc<Self>, container: &Arc<Container>, exit_code: i32, at: Timestamp) {
        let at = if at.is_zero() { clock::now() } else { at };
        let ran = at.since(container.state().started_at);
        let killed = cgroup::oom_killed(&container.cgroup);
        container.live.send_modify(|live| {
            live.state.status = ContainerStatus::Exited;
            live.state.pid = 0;
            live.state.exit_code = exit_code;
            live.state.finished_at = at;
            live.exits += 1;
            live.draining = true;
            live.state.oom_killed |= killed;
            let oom_killed = live.state.oom_killed;
            live.last_exit = ExitStatus { exit_code, oom_killed, finished_at: at, error: String::new() };
        });
        self.emit(container, EventKind::Die { exit_code, ran });
        if let Err(error) = container.save_state().await {
            tracing::warn!(container = container.id, %error, "exit not saved");
        }
        // The shim lets go of the pipes only now; then the log writer has seen everything.
        self.delete_task(&container.id).await;
        log::drained(&container.dir).await;
        if let Err(error) = self.unregister(&container.id).await {
            tracing::warn!(container = container.id, %error, "containerd keeps the container");
        }
        cgroup::remove(&container.cgroup).await;
        container.live.send_modify(|live| live.draining = false);
        let kept = container.live.borrow().kept;
        if container.record().options.auto_remove && !kept {
            match self.remove_stopped(container, true).await {
                Ok(()) | Err(RuntimeError::RemovalInProgress(_)) => {}
                Err(error) => tracing::warn!(container = container.id, %error, "not removed after its exit"),
            }
        }
    }
}
