//! The streams of a process: what callers of attach, exec and logs hold.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::Stream;
use malha_model::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::{Result, RuntimeError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdStream {
    Stdout,
    Stderr,
}

/// A piece of output. With a terminal everything is `Stdout`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputChunk {
    pub stream: StdStream,
    pub bytes: Bytes,
}

/// Both directions of an attached process. Dropping a half lets go of it; the process stays.
#[derive(Debug)]
pub struct Attachment {
    /// `None` where stdin was not asked for or is not open.
    pub stdin: Option<StdinWriter>,
    pub output: OutputStream,
    pub tty: bool,
}

/// Ends when the process has ended and everything it wrote was handed out.
#[derive(Debug)]
pub struct OutputStream(mpsc::UnboundedReceiver<(OutputChunk, Option<OwnedSemaphorePermit>)>);

impl Stream for OutputStream {
    type Item = OutputChunk;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // The permit goes back as its chunk is taken.
        self.0.poll_recv(cx).map(|taken| taken.map(|(chunk, _)| chunk))
    }
}

/// Output that may wait for its reader, in bytes.
const OUTPUT_ROOM: usize = 256 << 10;

/// The other end of an [`OutputStream`].
#[derive(Clone, Debug)]
pub(crate) struct OutputSender {
    chunks: mpsc::UnboundedSender<(OutputChunk, Option<OwnedSemaphorePermit>)>,
    room: Arc<Semaphore>,
}

impl OutputSender {
    pub(crate) fn new() -> (Self, OutputStream) {
        let (chunks, stream) = mpsc::unbounded_channel();
        (Self { chunks, room: Arc::new(Semaphore::new(OUTPUT_ROOM)) }, OutputStream(stream))
    }

    /// Waits while the reader is behind, or until `hurry`: then what is left must be taken now or be lost.
    /// False when nobody listens.
    pub(crate) async fn send(&self, chunk: OutputChunk, hurry: impl Future<Output = ()>) -> bool {
        let size = u32::try_from(chunk.bytes.len().min(OUTPUT_ROOM)).unwrap_or(u32::MAX);
        let permit = tokio::select! {
            biased;
            () = self.chunks.closed() => return false,
            permit = Arc::clone(&self.room).acquire_many_owned(size) => permit.ok(),
            () = hurry => None,
        };
        self.chunks.send((chunk, permit)).is_ok()
    }

    pub(crate) async fn closed(&self) {
        self.chunks.closed().await;
    }
}

/// The process's stdin. [`close`](Self::close) or a drop ends it where the container says so (`stdin_once`, exec).
#[derive(Debug)]
pub struct StdinWriter(pub(crate) mpsc::Sender<StdinMessage>);

#[derive(Debug)]
pub(crate) enum StdinMessage {
    Data(Bytes),
    Close(oneshot::Sender<()>),
}

impl StdinWriter {
    /// Waits while the process does not read; fails once it has ended.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.0.send(StdinMessage::Data(bytes)).await.map_err(|_| RuntimeError::Conflict("stdin is closed".into()))
    }

    /// Hands over what was written, then the end of input.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        if self.0.send(StdinMessage::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }
}

/// What an attach wants.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttachOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// What was logged before comes first.
    pub logs: bool,
    /// Live output; without it the output ends after the logs.
    pub stream: bool,
}

/// Which part of the log is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogOptions {
    pub stdout: bool,
    pub stderr: bool,
    /// Stay until the container stops.
    pub follow: bool,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Last lines only; `None` is all.
    pub tail: Option<u64>,
}

/// One logged line, with its line end where it had one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub stream: StdStream,
    pub time: Timestamp,
    pub bytes: Bytes,
}

#[derive(Debug)]
pub struct LogStream(pub(crate) mpsc::Receiver<Result<LogLine>>);

impl Stream for LogStream {
    type Item = Result<LogLine>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}
