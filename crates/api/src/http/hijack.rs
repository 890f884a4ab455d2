//! Connections that stop being HTTP: `attach` and `exec` of an interactive client.
//!
//! The client asks with `Upgrade: tcp`, gets 101, and from then on both directions are bytes. The end of the client's
//! input (a half-close) closes the process's stdin and nothing else; the end of the output ends the connection. A client
//! that did not ask for an upgrade gets the output as the body of a 200, and its request body is the input.

use std::{io, pin::Pin, time::Duration};

use axum::{
    body::Body,
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use http::{HeaderValue, StatusCode, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::io::StreamReader;

use super::{
    detach::DetachKeys,
    frames,
    reply::{self, Reply},
    version::ApiVersion,
};
use crate::backend::{OutputChunk, Stdio};

/// How long the client may take to hang up once all output has been sent.
const LINGER: Duration = Duration::from_secs(2);

/// The client's wish to leave HTTP, if it had one.
pub(crate) struct Upgrade(Option<OnUpgrade>);

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let wanted = parts.headers.contains_key(header::UPGRADE);
        Ok(Self(parts.extensions.remove::<OnUpgrade>().filter(|_| wanted)))
    }
}

/// What happens to the client's input.
#[derive(Default)]
pub(crate) struct InputRules {
    /// The end of the input is the end of the process's stdin.
    pub(crate) close_at_end: bool,
    /// Keys that end the connection, on a terminal.
    pub(crate) detach: Option<DetachKeys>,
}

type ProcessInput = Pin<Box<dyn AsyncWrite + Send>>;
type Output = BoxStream<'static, io::Result<Bytes>>;

/// Joins the client to the process. `body` is what is left of the request.
pub(crate) fn connect(upgrade: Upgrade, body: Body, version: ApiVersion, stdio: Stdio, rules: InputRules) -> Reply {
    let content_type = if !stdio.tty && version.at_least(42) { frames::MULTIPLEXED } else { frames::RAW };
    let tty = stdio.tty;
    let output: Output = stdio.output.map_ok(move |chunk| encode(&chunk, tty)).boxed();
    match upgrade.0 {
        Some(on_upgrade) => {
            tokio::spawn(async move {
                match on_upgrade.await {
                    Ok(io) => serve(TokioIo::new(io), stdio.input, output, rules).await,
                    Err(e) => tracing::debug!(error = %e, "a connection was not upgraded"),
                }
            });
            Ok(switching(content_type))
        }
        None => {
            if let Some(input) = stdio.input {
                let reader = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
                tokio::spawn(async move { feed(reader, input, rules).await });
            }
            reply::stream(content_type, output)
        }
    }
}

fn encode(chunk: &OutputChunk, tty: bool) -> Bytes {
    if tty { chunk.data.clone() } else { frames::frame(frames::number(chunk.stream), &chunk.data) }
}

fn switching(content_type: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("tcp")),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response()
}

async fn serve<C>(client: C, input: Option<ProcessInput>, mut output: Output, rules: InputRules)
where
    C: AsyncRead + AsyncWrite + Send,
{
    let (mut reader, mut writer) = tokio::io::split(client);
    let detached = {
        let sending = send(&mut output, &mut writer);
        let feeding = async {
            match input {
                Some(input) => feed(&mut reader, input, rules).await,
                None => false,
            }
        };
        tokio::pin!(sending, feeding);
        tokio::select! {
            biased;
            () = &mut sending => false,
            detached = &mut feeding => {
                if !detached {
                    sending.await;
                }
                detached
            }
        }
    };
    let _ = writer.shutdown().await;
    if !detached {
        // Closing while input is unread would reset the connection under the last of the output.
        let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut reader, &mut tokio::io::sink())).await;
    }
}

async fn send(output: &mut Output, writer: &mut (impl AsyncWrite + Unpin)) {
    while let Some(Ok(bytes)) = output.next().await {
        if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
}

/// Copies input to the process until it ends; true where the user typed the detach keys.
async fn feed(mut reader: impl AsyncRead + Unpin, mut input: ProcessInput, mut rules: InputRules) -> bool {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let n = match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => n,
        };
        let (kept, detached);
        let bytes = match &mut rules.detach {
            Some(keys) => {
                (kept, detached) = keys.filter(&buffer[..n]);
                &kept[..]
            }
            None => {
                detached = false;
                &buffer[..n]
            }
        };
        if input.write_all(bytes).await.is_err() || input.flush().await.is_err() {
            return false;
        }
        if detached {
            return true;
        }
    }
    if rules.close_at_end {
        let _ = input.shutdown().await;
    }
    false
}
