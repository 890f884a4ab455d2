//! JSON request bodies: bounded, and refused with Docker's texts.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use malha_model::{ApiError, ApiResult, Code};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{query::bad, reply::Failure};

/// The largest JSON body that is read. Docker's own objects stay far below.
pub(crate) const MAX_JSON: usize = 8 << 20;
/// For the whole of it to arrive.
const BODY_WAIT: Duration = Duration::from_secs(60);

/// A JSON body of type `T`. An empty one is refused.
pub(crate) struct Json<T>(pub(crate) T);

/// A JSON body that may be absent.
pub(crate) struct MaybeJson<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let bytes = read(request).await?;
        Ok(Self(decode(&bytes)?))
    }
}

impl<S: Sync, T: DeserializeOwned + Default> FromRequest<S> for MaybeJson<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let bytes = read(request).await?;
        Ok(Self(if bytes.trim_ascii().is_empty() { T::default() } else { decode(&bytes)? }))
    }
}

async fn read(request: Request) -> ApiResult<Bytes> {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|n| n > MAX_JSON as u64) {
        return Err(too_large());
    }
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let collected = timeout(BODY_WAIT, Limited::new(request.into_body(), MAX_JSON).collect()).await;
    let bytes = match collected {
        Ok(Ok(all)) => all.to_bytes(),
        Ok(Err(e)) if e.is::<LengthLimitError>() => return Err(too_large()),
        Ok(Err(e)) => return Err(bad(format!("the request body could not be read: {e}"))),
        Err(_) => return Err(bad("the request body did not arrive").with_status(StatusCode::REQUEST_TIMEOUT.as_u16())),
    };
    let media = kind.split(';').next().unwrap_or_default().trim();
    if !bytes.is_empty() && !media.eq_ignore_ascii_case("application/json") {
        return Err(bad(format!("unsupported Content-Type header ({kind}): must be 'application/json'")));
    }
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    if bytes.trim_ascii().is_empty() {
        return Err(bad("invalid JSON: got EOF while reading request body"));
    }
    serde_json::from_slice(bytes).map_err(|e| bad(format!("invalid JSON: {e}")))
}

fn too_large() -> ApiError {
    ApiError::plain(Code::InvalidArgument, format!("request body is larger than {} MiB", MAX_JSON >> 20))
        .with_status(StatusCode::PAYLOAD_TOO_LARGE.as_u16())
}
