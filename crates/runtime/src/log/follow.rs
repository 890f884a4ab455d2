//! The daemon's end of a log writer's socket.

use std::{fs, io, os::fd::AsRawFd, path::Path, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{SOCKET, TAG_STDERR, WANT_OUTPUT, WANT_TICKS};
use crate::container::{OutputChunk, StdStream};

async fn connect(dir: &Path, want: u8) -> io::Result<UnixStream> {
    let handle = fs::File::open(dir)?;
    let mut stream = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd())).await?;
    stream.write_all(&[want]).await?;
    Ok(stream)
}

/// Output as it is written, from the moment of connecting.
#[derive(Debug)]
pub(crate) struct LiveOutput {
    stream: UnixStream,
    /// Length of the log file at that moment: what is before it is not repeated here.
    pub(crate) log_length: u64,
}

impl LiveOutput {
    /// `None` where no writer runs any more: all there was is in the log.
    pub(crate) async fn connect(dir: &Path) -> io::Result<Option<Self>> {
        match Self::greet(dir).await {
            Ok(live) => Ok(Some(live)),
            Err(e) if is_end(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn greet(dir: &Path) -> io::Result<Self> {
        let mut stream = connect(dir, WANT_OUTPUT).await?;
        let mut hello = [0; 13];
        stream.read_exact(&mut hello).await?;
        let mut length = [0; 8];
        length.copy_from_slice(&hello[5..]);
        Ok(Self { stream, log_length: u64::from_be_bytes(length) })
    }

    /// `None` when the process and its output have ended.
    pub(crate) async fn next(&mut self) -> Option<OutputChunk> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        // The writer never sends more than its buffer at once.
        let mut data = vec![0; length.min(1 << 20)];
        self.stream.read_exact(&mut data).await.ok()?;
        let stream = if head[0] == TAG_STDERR { StdStream::Stderr } else { StdStream::Stdout };
        Some(OutputChunk { stream, bytes: Bytes::from(data) })
    }
}

/// Whether a failure to connect says that the writer is gone, or goes just now.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset | BrokenPipe | UnexpectedEof)
}

/// Tells when the log has grown, and when it will not grow any more.
#[derive(Debug)]
pub(crate) struct Subscription(UnixStream);

impl Subscription {
    /// `None` where no writer runs.
    pub(crate) async fn connect(dir: &Path) -> Option<Self> {
        connect(dir, WANT_TICKS).await.ok().map(Self)
    }

    /// False at the end.
    pub(crate) async fn changed(&mut self) -> bool {
        let mut ticks = [0; 64];
        self.0.read(&mut ticks).await.is_ok_and(|n| n > 0)
    }
}

/// Waits until the writer has written everything, though not for ever.
pub(crate) async fn drained(dir: &Path) {
    let ended = async {
        if let Some(mut subscription) = Subscription::connect(dir).await {
            while subscription.changed().await {}
        }
    };
    if tokio::time::timeout(Duration::from_secs(5), ended).await.is_err() {
        tracing::warn!(dir = %dir.display(), "the log writer has not ended");
    }
}

/// What the log's first `length` bytes hold.
pub(crate) async fn replay(path: &Path, length: u64) -> Vec<OutputChunk> {
    use tokio::io::AsyncReadExt;
    let Ok(file) = tokio::fs::File::open(path).await else { return Vec::new() };
    let mut bytes = Vec::new();
    if file.take(length).read_to_end(&mut bytes).await.is_err() {
        return Vec::new();
    }
    let lines = bytes.split(|b| *b == b'\n').filter_map(super::entry::decode);
    lines.map(|line| OutputChunk { stream: line.stream, bytes: line.bytes }).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_writer_that_has_ended_or_ends_just_now_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(LiveOutput::connect(dir.path()).await.unwrap().is_none());
        let listener = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
        let ending = std::thread::spawn(move || drop(listener.accept()));
        assert!(LiveOutput::connect(dir.path()).await.unwrap().is_none());
        ending.join().unwrap();
        // The socket of one that was killed.
        assert!(LiveOutput::connect(dir.path()).await.unwrap().is_none());
    }
}
