//! Standard streams between the runtime and the API.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use malha_api::backend::{ContainerLogLine, ContainerLogs, OutputChunk, OutputStream, Stdio};
use malha_runtime::{Attachment, LogStream, StdStream, StdinWriter};
use tokio::io::AsyncWrite;

pub(super) fn stdio(attachment: Attachment) -> Stdio {
    let chunk = |c: malha_runtime::OutputChunk| Ok(OutputChunk { stream: stream(c.stream), data: c.bytes });
    Stdio {
        tty: attachment.tty,
        output: attachment.output.map(chunk).boxed(),
        input: attachment.stdin.map(|w| Box::pin(Input::Idle(Some(w))) as Pin<Box<dyn AsyncWrite + Send>>),
    }
}

pub(super) fn logs(stream_of: LogStream) -> ContainerLogs {
    let line = |l: malha_runtime::Result<malha_runtime::LogLine>| match l {
        Ok(l) => Ok(ContainerLogLine { timestamp: l.time, stream: stream(l.stream), data: l.bytes }),
        Err(e) => Err(e.to_string()),
    };
    stream_of.map(line).boxed()
}

fn stream(s: StdStream) -> OutputStream {
    match s {
        StdStream::Stdout => OutputStream::Stdout,
        StdStream::Stderr => OutputStream::Stderr,
    }
}

/// The runtime's stdin, which takes whole messages, as a byte sink. One message is in flight at a time.
enum Input {
    Idle(Option<StdinWriter>),
    Writing(BoxFuture<'static, (StdinWriter, malha_runtime::Result<()>)>),
    Closing(BoxFuture<'static, ()>),
}

impl Input {
    /// Drives whatever is in flight; ready once a new message may be sent.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = match self {
            Self::Idle(_) => return Poll::Ready(Ok(())),
            Self::Writing(future) => {
                let (writer, result) = futures::ready!(future.poll_unpin(cx));
                *self = Self::Idle(Some(writer));
                result
            }
            Self::Closing(future) => {
                futures::ready!(future.poll_unpin(cx));
                *self = Self::Idle(None);
                Ok(())
            }
        };
        Poll::Ready(result.map_err(|e| io::Error::new(io::ErrorKind::BrokenPipe, e.to_string())))
    }
}

impl AsyncWrite for Input {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        futures::ready!(self.poll_idle(cx))?;
        let Self::Idle(writer) = &mut *self else { return Poll::Pending };
        let Some(mut writer) = writer.take() else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        let bytes = Bytes::copy_from_slice(buf);
        let future = async move {
            let result = writer.write(bytes).await;
            (writer, result)
        };
        *self = Self::Writing(future.boxed());
        // Start it now; its outcome is told by the next call.
        match self.poll_idle(cx) {
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            _ => Poll::Ready(Ok(buf.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_idle(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // An input that broke is closed already.
            if futures::ready!(self.poll_idle(cx)).is_err() {
                return Poll::Ready(Ok(()));
            }
            match &mut *self {
                Self::Idle(writer) => match writer.take() {
                    Some(writer) => *self = Self::Closing(writer.close().boxed()),
                    None => return Poll::Ready(Ok(())),
                },
                Self::Writing(_) | Self::Closing(_) => {}
            }
        }
    }
}
