//! `/exec`: further processes in a container.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    routing::{get, post},
};
use futures::StreamExt;
use http::StatusCode;
use malha_model::ApiError;
use serde::Deserialize;
use serde_json::json;

use super::{container_create::CONSOLE_SIZE, containers::size};
use crate::{
    backend::{ExecConfig, OutputChunk, OutputStream, Stdio, TerminalSize},
    convert,
    http::{
        body::{Json, MaybeJson},
        detach::DetachKeys,
        hijack::{self, InputRules, Upgrade},
        query::{Query, bad},
        reply::{Reply, created, empty, ok},
        version::ApiVersion,
    },
    state::{Api, Shared},
};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/containers/{id}/exec", post(create))
        .route("/exec/{id}/json", get(inspect))
        .route("/exec/{id}/start", post(start))
        .route("/exec/{id}/resize", post(resize))
}

async fn create(
    State(api): Shared,
    Path(id): Path<String>,
    version: ApiVersion,
    Json(mut config): Json<ExecConfig>,
) -> Reply {
    if config.cmd.is_empty() {
        return Err(bad("No exec command specified").into());
    }
    DetachKeys::parse(&config.detach_keys)?;
    config.console_size = config.console_size.filter(|_| version.at_least(CONSOLE_SIZE));
    created(&json!({ "Id": api.engine.create_exec(&id, config).await? }))
}

async fn inspect(State(api): Shared, Path(id): Path<String>) -> Reply {
    ok(&convert::exec::inspect(&api.engine.exec(&id).await?))
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct StartRequest {
    detach: bool,
    tty: bool,
    /// Rows, then columns.
    console_size: Option<[u16; 2]>,
}

async fn start(
    State(api): Shared,
    Path(id): Path<String>,
    version: ApiVersion,
    upgrade: Upgrade,
    MaybeJson(request): MaybeJson<StartRequest>,
) -> Reply {
    let exec = api.engine.exec(&id).await?;
    // Without a terminal it says nothing.
    let size = request.console_size.filter(|_| request.tty && version.at_least(CONSOLE_SIZE));
    let size = size.map(|[height, width]| TerminalSize { width, height });
    let stdio = match api.engine.start_exec(&exec.id, request.detach, size).await {
        Ok(Some(stdio)) => stdio,
        Ok(None) => return empty(StatusCode::OK),
        // A client that waits for a stream finds the reason in it, and the exit code where it always looks.
        Err(e) if !request.detach && api.engine.exec(&exec.id).await?.exit_code.is_some() => refusal(&e, request.tty),
        Err(e) => return Err(e.into()),
    };
    let detach = DetachKeys::parse(&exec.config.detach_keys)?;
    let rules = InputRules { close_at_end: true, detach: stdio.tty.then_some(detach) };
    hijack::connect(upgrade, Body::empty(), version, stdio, rules)
}

/// The output of a command that could not be started.
fn refusal(error: &ApiError, tty: bool) -> Stdio {
    let data = format!("{error}\r\n").into();
    let chunk = Ok(OutputChunk { stream: OutputStream::Stdout, data });
    Stdio { tty, output: futures::stream::iter([chunk]).boxed(), input: None }
}

async fn resize(State(api): Shared, Path(id): Path<String>, query: Query) -> Reply {
    api.engine.resize_exec(&id, size(&query)?).await?;
    empty(StatusCode::OK)
}
