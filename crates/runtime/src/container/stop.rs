//! `docker stop` and `kill`, and what a `restart` needs of both.

use std::{sync::Arc, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tonic::Code;

use super::{
    info::{ContainerStatus, WaitCondition},
    signal,
    table::Container,
    wait::WaitHandle,
};
use crate::{EventKind, Result, Runtime, RuntimeError, containerd::services::tasks::KillRequest, runtime::Inner};

const SIGKILL: i32 = 9;
/// Time that the kernel gets to end a killed process.
const KILL_PATIENCE: Duration = Duration::from_secs(30);

impl Runtime {
    /// Stop signal, then SIGKILL after `grace` (`None`: the container's own, else 10 s). `NotModified` where it does
    /// not run.
    pub async fn stop(&self, container: &str, grace: Option<Duration>, signal: Option<&str>) -> Result<()> {
        let container = self.inner.containers.find(container)?;
        if !container.runs().await {
            return Err(RuntimeError::NotModified(container.id.clone()));
        }
        self.inner.stop(&container, grace, signal).await
    }

    /// After a stop and a start that were one to whoever asked: `docker restart`.
    pub fn tell_restarted(&self, container: &str) {
        if let Ok(container) = self.inner.containers.find(container) {
            self.inner.emit(&container, EventKind::Restart);
        }
    }

    /// While `kept`, a container that removes itself when it exits does not.
    pub async fn keep(&self, container: &str, kept: bool) -> Result<()> {
        let container = self.inner.containers.find(container)?;
        let _changing = container.change().await?;
        container.live.send_modify(|live| live.kept = kept);
        Ok(())
    }

    /// Sends a signal (`SIGKILL` where `None`).
    pub async fn kill(&self, container: &str, signal: Option<&str>) -> Result<()> {
        let container = self.inner.containers.find(container)?;
        let number = signal.filter(|s| !s.is_empty()).map_or(Ok(SIGKILL), signal::parse)?;
        if !container.runs().await {
            return Err(RuntimeError::NotRunning(container.id.clone()));
        }
        self.inner.signal(&container, number).await?;
        if number == SIGKILL {
            let ended = WaitHandle::new(&container, WaitCondition::NotRunning);
            let _ = tokio::time::timeout(KILL_PATIENCE, ended.wait()).await;
        }
        Ok(())
    }
}

impl Inner {
    pub(crate) async fn stop(
        &self,
        container: &Arc<Container>,
        grace: Option<Duration>,
        given: Option<&str>,
    ) -> Result<()> {
        let record = container.record();
        let number = match given.filter(|s| !s.is_empty()) {
            Some(given) => signal::parse(given)?,
            None if record.process.stop_signal.is_empty() => 15,
            None => signal::parse(&record.process.stop_signal)?,
        };
        let own = record.options.stop_timeout.unwrap_or(10);
        // A negative time-out waits for ever.
        let grace = grace.unwrap_or_else(|| u64::try_from(own).map_or(Duration::MAX, Duration::from_secs));

        let ended = WaitHandle::new(container, WaitCondition::Ended);
        match self.signal(container, number).await {
            Ok(()) | Err(RuntimeError::NotRunning(_)) => {}
            Err(e) => return Err(e),
        }
        if tokio::time::timeout(grace, ended.wait()).await.is_err() {
            self.kill_and_wait(container).await?;
        } else {
            // What it wrote last has a time of its own.
            let drained = WaitHandle::new(container, WaitCondition::NotRunning);
            let _ = tokio::time::timeout(KILL_PATIENCE, drained.wait()).await;
        }
        self.emit(container, EventKind::Stop);
        Ok(())
    }

    pub(crate) async fn kill_and_wait(&self, container: &Arc<Container>) -> Result<()> {
        let ended = WaitHandle::new(container, WaitCondition::NotRunning);
        match self.signal(container, SIGKILL).await {
            Ok(()) | Err(RuntimeError::NotRunning(_)) => {}
            Err(e) => return Err(e),
        }
        let ended = tokio::time::timeout(KILL_PATIENCE, ended.wait()).await;
        ended.map(drop).map_err(|_| {
            RuntimeError::Internal(format!("cannot stop container: {}: the process does not end", container.id))
        })
    }

    async fn signal(&self, container: &Container, number: i32) -> Result<()> {
        let ended = || !container.state().status.is_running();
        let not_running = || RuntimeError::NotRunning(container.id.clone());
        if ended() {
            return Err(not_running());
        }
        if by_kernel(container, number) {
            self.emit(container, EventKind::Kill { signal: number });
            return Ok(());
        }
        let signal = u32::try_from(number).unwrap_or_default();
        let request = KillRequest { container_id: container.id.clone(), signal, ..KillRequest::default() };
        match self.containerd.tasks().kill(request).await {
            Ok(_) => {
                self.emit(container, EventKind::Kill { signal: number });
                Ok(())
            }
            Err(status) if status.code() == Code::NotFound || ended() => Err(not_running()),
            Err(status) => {
                Err(RuntimeError::Containerd(format!("signal {number} to {}: {}", container.id, status.message())))
            }
        }
    }
}

/// Sends the signal without containerd, which would start two programs for it. False where that is not possible (a
/// paused container must be thawed, a real-time signal has no name here) or the process is not certainly the container's.
fn by_kernel(container: &Container, number: i32) -> bool {
    let (pid, status) = {
        let live = container.live.borrow();
        (live.state.pid, live.state.status)
    };
    let (Ok(pid), Ok(signal)) = (i32::try_from(pid), Signal::try_from(number)) else { return false };
    if pid <= 1 || status != ContainerStatus::Running {
        return false;
    }
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    cgroup.contains(&container.id) && kill(Pid::from_raw(pid), signal).is_ok()
}
