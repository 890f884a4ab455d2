//! The long answers of a container: `wait`, `attach`, `logs`.

use axum::{
    body::Body,
    extract::{Path, State},
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use malha_model::ApiResult;
use serde_json::{Value, json};

use crate::{
    backend::{AttachOptions, Exit, WaitCondition},
    http::{
        detach::DetachKeys,
        hijack::{self, InputRules, Upgrade},
        logs::{self, Show},
        query::{Query, bad},
        reply::{self, Reply},
        version::ApiVersion,
    },
    state::Shared,
};

/// The header goes out once the wait is registered, which is what clients start the container after.
pub(super) async fn wait(State(api): Shared, Path(id): Path<String>, query: Query) -> Reply {
    let condition = match query.text("condition").as_str() {
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(bad(format!("invalid condition: \"{other}\"")).into()),
    };
    let wait = api.engine.wait_container(&id, condition).await?;
    let body = stream::once(wait.map(|exit| Ok::<_, std::convert::Infallible>(exit_line(&exit))));
    reply::stream("application/json", body)
}

fn exit_line(exit: &ApiResult<Exit>) -> Bytes {
    let value = match exit {
        Ok(Exit { code, error: None }) => json!({ "StatusCode": code }),
        Ok(Exit { code, error: Some(text) }) => json!({ "StatusCode": code, "Error": { "Message": text } }),
        Err(e) => json!({ "StatusCode": -1, "Error": { "Message": e.message } }),
    };
    Value::to_string(&value).into()
}

pub(super) async fn attach(
    State(api): Shared,
    Path(id): Path<String>,
    query: Query,
    version: ApiVersion,
    upgrade: Upgrade,
    body: Body,
) -> Reply {
    let container = api.engine.container(&id).await?;
    let options = AttachOptions {
        logs: query.flag("logs"),
        stream: query.flag("stream"),
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
    };
    let detach = DetachKeys::parse(&query.text("detachKeys"))?;
    let stdio = api.engine.attach_container(&container.id, options).await?;
    let rules = InputRules {
        // Without StdinOnce, others may still write to the container after this client.
        close_at_end: container.config.stdin_once && !stdio.tty,
        detach: stdio.tty.then_some(detach),
    };
    hijack::connect(upgrade, body, version, stdio, rules)
}

pub(super) async fn container_logs(
    State(api): Shared,
    Path(id): Path<String>,
    query: Query,
    version: ApiVersion,
) -> Reply {
    let options = logs::options(&query)?;
    let container = api.engine.container(&id).await?;
    let lines = api.engine.container_logs(&container.id, options).await?;
    logs::of_container(lines.boxed(), Show::new(&query, container.config.tty), version)
}
