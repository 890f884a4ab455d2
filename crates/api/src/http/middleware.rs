//! What surrounds every request: the version prefix, the common headers, the wall that a panic stops at, and that a
//! change outlives its client.
//!
//! It lies outside the router, because a path is routed by what is left once its version is taken off.

use std::{convert::Infallible, panic::AssertUnwindSafe};

use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use http::{HeaderName, HeaderValue, Uri, uri::PathAndQuery};
use malha_kit::Tasks;
use malha_model::ApiError;
use tokio::sync::oneshot;
use tower::Service;

use super::{
    query::bad,
    reply::Failure,
    version::{self, MAX_API_VERSION},
};

/// Answers one request; whatever happens in a handler, there is an answer.
pub(crate) async fn answer(
    router: Router,
    server: HeaderValue,
    changes: Tasks,
    request: http::Request<Body>,
) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = match strip_version(request) {
        Ok(request) => handle(router, &changes, request).await.unwrap_or_else(|| {
            tracing::error!(%method, path, "a request handler panicked");
            Failure(ApiError::internal("internal error: the request handler failed unexpectedly")).into_response()
        }),
        Err(e) => Failure(e).into_response(),
    };
    tracing::debug!(%method, path, status = response.status().as_u16(), "request");
    add_headers(&mut response, server);
    response
}

/// `None` where the handler panicked, or where a change did not come to its end before the server did. This future ends
/// with its connection; a change then still goes on, as nobody asked for half of one.
async fn handle(mut router: Router, changes: &Tasks, request: Request) -> Option<Response> {
    if request.method().is_safe() {
        return match AssertUnwindSafe(router.call(request)).catch_unwind().await {
            Ok(Ok::<_, Infallible>(response)) => Some(response),
            Err(_) => None,
        };
    }
    let (tell, told) = oneshot::channel();
    changes.spawn("request", async move {
        let Ok::<_, Infallible>(response) = router.call(request).await;
        // The client may be gone.
        let _ = tell.send(response);
    });
    told.await.ok()
}

fn strip_version(mut request: Request) -> Result<Request, ApiError> {
    let (version, rest) = version::split(request.uri().path())?;
    if rest.len() != request.uri().path().len() {
        let target = match request.uri().query() {
            Some(q) => format!("{rest}?{q}"),
            None => rest.to_owned(),
        };
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(target).map_err(|e| bad(format!("invalid path: {e}")))?);
        *request.uri_mut() = Uri::from_parts(parts).map_err(|e| bad(format!("invalid path: {e}")))?;
    }
    request.extensions_mut().insert(version);
    Ok(request)
}

fn add_headers(response: &mut Response, server: HeaderValue) {
    let headers = response.headers_mut();
    let fixed = [("docker-experimental", "false"), ("ostype", "linux")];
    for (name, value) in fixed {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.insert(http::header::SERVER, server);
    if let Ok(value) = HeaderValue::try_from(MAX_API_VERSION.to_string()) {
        headers.insert(HeaderName::from_static("api-version"), value);
    }
}
