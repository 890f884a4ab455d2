//! `docker attach`, also to a container that starts later.

use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::{oneshot, watch};

use super::{
    stdin::{self, Target},
    stream::{AttachOptions, Attachment, LogOptions, OutputChunk, OutputSender, StdStream},
    table::{Container, Live},
};
use crate::{EventKind, Result, Runtime, RuntimeError, log::LiveOutput, runtime::Inner};

/// An attach that waits for the start.
#[derive(Debug)]
pub(crate) struct PendingAttach {
    options: AttachOptions,
    output: OutputSender,
    started: Option<oneshot::Sender<()>>,
}

impl Runtime {
    /// Counts from before the start where the container does not run yet: no byte is missed.
    pub async fn attach(&self, container: &str, options: AttachOptions) -> Result<Attachment> {
        let container = self.inner.containers.find(container)?;
        let record = container.record();
        let _changing = container.change().await?;
        let (output, stream) = OutputSender::new();
        let (start, started) = oneshot::channel();
        let stdin = (options.stdin && record.options.open_stdin).then(|| {
            let target = Target {
                fifo: container.dir.join(stdin::FIFO),
                container: container.id.clone(),
                exec: String::new(),
                close: record.options.stdin_once && !record.options.tty,
            };
            stdin::pump(&self.inner, target, started)
        });
        let pending = PendingAttach { options, output, started: Some(start) };
        if !options.stream {
            self.replay_only(&container, pending).await?;
        } else if container.state().status.is_running() {
            self.inner.connect(&container, pending).await?;
        } else {
            container.pending_attaches.lock().push(pending);
        }
        self.inner.emit(&container, EventKind::Attach);
        Ok(Attachment { stdin, output: stream, tty: record.options.tty })
    }

    async fn replay_only(&self, container: &Container, pending: PendingAttach) -> Result<()> {
        let options = LogOptions {
            stdout: pending.options.stdout && pending.options.logs,
            stderr: pending.options.stderr && pending.options.logs,
            ..LogOptions::default()
        };
        let mut lines = self.logs(&container.id, options).await?;
        self.inner.tasks.spawn("attach logs", async move {
            while let Some(Ok(line)) = lines.next().await {
                let chunk = OutputChunk { stream: line.stream, bytes: line.bytes };
                if !pending.output.send(chunk, std::future::pending()).await {
                    return;
                }
            }
        });
        Ok(())
    }
}

impl Inner {
    /// Connects everybody who attached before the start. The process does not run yet.
    pub(crate) async fn connect_pending(self: &Arc<Self>, container: &Container) -> Result<()> {
        let waiting = std::mem::take(&mut *container.pending_attaches.lock());
        for pending in waiting {
            self.connect(container, pending).await?;
        }
        Ok(())
    }

    async fn connect(self: &Arc<Self>, container: &Container, mut pending: PendingAttach) -> Result<()> {
        let live = LiveOutput::connect(&container.dir).await;
        let live = live.map_err(|e| RuntimeError::io("attach to the output", e))?;
        // Before the start nothing can have ended but the log writer, without which the process must not run.
        if live.is_none() && !container.state().status.is_running() {
            return Err(RuntimeError::io("attach to the output", "the log writer has ended"));
        }
        if let Some(started) = pending.started.take_if(|_| live.is_some()) {
            let _ = started.send(());
        }
        let log_length = live.as_ref().map_or(u64::MAX, |l| l.log_length);
        let log = container.dir.join(crate::log::LOG_FILE);
        let mut state = container.live.subscribe();
        self.tasks.spawn("attach", async move {
            if pending.options.logs {
                for chunk in crate::log::replay(&log, log_length).await {
                    if !pending.pass(chunk, &mut state).await {
                        return;
                    }
                }
            }
            // It has just ended.
            let Some(mut live) = live else { return };
            loop {
                let next = tokio::select! {
                    biased;
                    () = pending.output.closed() => return,
                    next = live.next() => next,
                };
                let Some(chunk) = next else { return };
                if !pending.pass(chunk, &mut state).await {
                    return;
                }
            }
        });
        Ok(())
    }
}

impl PendingAttach {
    /// False when nobody listens any more. The log writer waits only so long once the process has ended, so then all
    /// of the rest, which is bounded, is taken at once.
    async fn pass(&self, chunk: OutputChunk, state: &mut watch::Receiver<Live>) -> bool {
        let wanted = match chunk.stream {
            StdStream::Stdout => self.options.stdout,
            StdStream::Stderr => self.options.stderr,
        };
        let ended = async {
            let _ = state.wait_for(|live| live.draining).await;
        };
        !wanted || self.output.send(chunk, ended).await
    }
}
