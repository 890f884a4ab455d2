//! Writing to a process's stdin: a pipe that the shim reads.
//!
//! The shim keeps its own writing end, so the process sees an end of input only when the shim is told to close it. That
//! is what lets a container's stdin survive the daemon.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    net::unix::pipe,
    sync::{mpsc, oneshot},
};

use super::stream::{StdinMessage, StdinWriter};
use crate::{containerd::services::tasks::CloseIoRequest, runtime::Inner};

/// The pipe in a container's directory.
pub(crate) const FIFO: &str = "stdin";

/// Pieces that may wait for the process.
const BACKLOG: usize = 16;
/// How long the shim may take to open its end.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
const OPEN_RETRY: Duration = Duration::from_millis(5);

/// Whose stdin.
pub(crate) struct Target {
    pub(crate) fifo: PathBuf,
    pub(crate) container: String,
    /// Empty for the container's first process.
    pub(crate) exec: String,
    /// Whether the end of what the caller writes is the process's end of input.
    pub(crate) close: bool,
}

/// Starts the transfer. It begins to write once `started` resolves, and stops when that was dropped.
pub(crate) fn pump(inner: &Arc<Inner>, target: Target, started: oneshot::Receiver<()>) -> StdinWriter {
    let (sender, messages) = mpsc::channel(BACKLOG);
    let worker = Arc::clone(inner);
    inner.tasks.spawn("stdin", async move {
        if started.await.is_ok() {
            run(&worker, target, messages).await;
        }
    });
    StdinWriter(sender)
}

async fn run(inner: &Inner, target: Target, mut messages: mpsc::Receiver<StdinMessage>) {
    let Some(mut pipe) = open(&target).await else { return };
    let mut closed = None;
    while let Some(message) = messages.recv().await {
        match message {
            // The process has ended, or closed its stdin: what else comes is for nobody.
            StdinMessage::Data(bytes) => {
                if pipe.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            StdinMessage::Close(done) => {
                closed = Some(done);
                break;
            }
        }
    }
    drop(pipe);
    if target.close {
        let request = CloseIoRequest { container_id: target.container, exec_id: target.exec, stdin: true };
        if let Err(status) = inner.containerd.tasks().close_io(request).await {
            tracing::debug!(%status, "stdin was closed already");
        }
    }
    if let Some(done) = closed {
        let _ = done.send(());
    }
}

/// Opening for writing works once there is a reader.
async fn open(target: &Target) -> Option<pipe::Sender> {
    let opened = tokio::time::timeout(OPEN_PATIENCE, async {
        loop {
            match pipe::OpenOptions::new().open_sender(&target.fifo) {
                Ok(sender) => return Some(sender),
                Err(e) if e.raw_os_error() == Some(libc::ENXIO) => tokio::time::sleep(OPEN_RETRY).await,
                Err(_) => return None,
            }
        }
    });
    opened.await.ok().flatten()
}
