//! A few calls to a node's API over its unix socket.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, body::Bytes};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::UnixStream, time::timeout};

/// Longer than any request of the API waits by itself.
const LIMIT: Duration = Duration::from_secs(30);

/// One request; JSON in, JSON (or null) out; an API error as its own text.
pub(crate) async fn call(socket: &Path, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
    let exchange = async {
        let stream = UnixStream::connect(socket).await.with_context(|| format!("cannot reach {}", socket.display()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "malha")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        driver.abort();
        let value: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if !status.is_success() {
            let message = value["message"].as_str().map(str::to_owned);
            bail!("{}", message.unwrap_or_else(|| format!("{path}: {status}")));
        }
        Ok(value)
    };
    timeout(LIMIT, exchange).await.map_err(|_| anyhow!("{path}: no answer within {LIMIT:?}"))?
}

pub(crate) async fn get(socket: &Path, path: &str) -> Result<Value> {
    call(socket, Method::GET, path, None).await
}

pub(crate) async fn post(socket: &Path, path: &str, body: Value) -> Result<Value> {
    call(socket, Method::POST, path, Some(body)).await
}

/// True once the API answers. It does so without the other managers, which `/info` would ask.
pub(crate) async fn answers(socket: &Path) -> bool {
    timeout(Duration::from_secs(2), get(socket, "/_ping")).await.is_ok_and(|answer| answer.is_ok())
}
