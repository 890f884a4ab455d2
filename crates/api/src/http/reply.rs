//! Answers: JSON values, errors as `{"message": …}`, empty ones.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use malha_model::ApiError;
use serde::Serialize;
use serde_json::json;

/// What every handler returns.
pub(crate) type Reply = Result<Response, Failure>;

/// An error on its way to the client.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) ApiError);

impl From<ApiError> for Failure {
    fn from(e: ApiError) -> Self {
        Self(e)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error()
            && status != StatusCode::NOT_IMPLEMENTED
            && status != StatusCode::SERVICE_UNAVAILABLE
        {
            tracing::warn!(status = status.as_u16(), error = %self.0.message, "request failed");
        }
        with_status(status, &json!({ "message": self.0.message }))
    }
}

/// 200 with JSON.
pub(crate) fn ok(value: &(impl Serialize + ?Sized)) -> Reply {
    Ok(with_status(StatusCode::OK, value))
}

/// 201 with JSON.
pub(crate) fn created(value: &(impl Serialize + ?Sized)) -> Reply {
    Ok(with_status(StatusCode::CREATED, value))
}

pub(crate) fn empty(status: StatusCode) -> Reply {
    Ok((status, Body::empty()).into_response())
}

pub(crate) fn no_content() -> Reply {
    empty(StatusCode::NO_CONTENT)
}

/// 204 where the request changed something, 304 where all was so already.
pub(crate) fn changed(changed: bool) -> Reply {
    empty(if changed { StatusCode::NO_CONTENT } else { StatusCode::NOT_MODIFIED })
}

/// A body that is sent as it comes; the header goes out at once.
pub(crate) fn stream<S, E>(content_type: &'static str, body: S) -> Reply
where
    S: futures::Stream<Item = Result<bytes::Bytes, E>> + Send + 'static,
    E: Into<axum::BoxError>,
{
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(content_type))];
    Ok((StatusCode::OK, headers, Body::from_stream(body)).into_response())
}

fn with_status(status: StatusCode, value: &(impl Serialize + ?Sized)) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            let headers = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
            (status, headers, bytes).into_response()
        }
        Err(e) => {
            tracing::error!(error = %e, "an answer could not be encoded");
            (StatusCode::INTERNAL_SERVER_ERROR, Body::empty()).into_response()
        }
    }
}
