//! The JSON lines of a pull, load or import.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use malha_model::ApiError;
use serde_json::{Value, json};

use crate::backend::{Progress, ProgressStream};

fn line(p: &Progress) -> Value {
    match p {
        Progress::Line(text) => json!({ "stream": text }),
        Progress::Aux(value) => json!({ "aux": value }),
        Progress::Status { id, status, current, total } => {
            let mut value = json!({ "status": status });
            if !id.is_empty() {
                let mut detail = json!({});
                if let Some(n) = current {
                    detail["current"] = json!(n);
                }
                if let Some(n) = total {
                    detail["total"] = json!(n);
                }
                value["progressDetail"] = detail;
                value["id"] = json!(id);
            }
            value
        }
    }
}

fn error(e: &ApiError) -> Value {
    json!({ "errorDetail": { "message": e.message }, "error": e.message })
}

/// One line per step; an error is the last one.
pub(crate) fn lines(progress: ProgressStream) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send {
    progress.map(|step| {
        let value = step.as_ref().map_or_else(error, line);
        Ok(format!("{value}\r\n").into())
    })
}
