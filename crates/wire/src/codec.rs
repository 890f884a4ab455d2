//! Values to bytes and back, with errors that say what did not fit.

use bytes::Bytes;
use malha_model::{ApiError, ApiResult, Code};
use serde::{Serialize, de::DeserializeOwned};

use crate::proto::{Reply, reply::Result as Outcome};

/// Largest message either way between managers and known nodes.
pub const MAX_MESSAGE: usize = 64 << 20;

/// Largest message from somebody without a certificate: a signing request fits many times.
pub(crate) const MAX_ANONYMOUS_MESSAGE: usize = 64 << 10;

/// Room for the envelope around a payload.
const ENVELOPE: usize = 64;

pub(crate) fn encode(value: &impl Serialize) -> ApiResult<Bytes> {
    let bytes = serde_json::to_vec(value).map_err(|e| ApiError::internal(format!("cannot encode message: {e}")))?;
    sized(bytes)
}

/// Refuses a payload that the other end would refuse anyway, before it is sent.
pub(crate) fn sized(payload: Vec<u8>) -> ApiResult<Bytes> {
    if payload.len() + ENVELOPE > MAX_MESSAGE {
        let text = format!("message of {} bytes is larger than the limit of {MAX_MESSAGE}", payload.len());
        return Err(ApiError::rpc(Code::OutOfRange, text));
    }
    Ok(payload.into())
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    serde_json::from_slice(bytes).map_err(|e| ApiError::invalid(format!("malformed message: {e}")))
}

pub(crate) fn reply(result: ApiResult<Bytes>) -> Reply {
    let outcome = match result {
        Ok(bytes) => Outcome::Ok(bytes),
        Err(e) => Outcome::ErrorJson(serde_json::to_vec(&e).unwrap_or_default().into()),
    };
    Reply { result: Some(outcome) }
}

pub(crate) fn result(reply: Reply) -> ApiResult<Bytes> {
    match reply.result {
        Some(Outcome::Ok(bytes)) => Ok(bytes),
        Some(Outcome::ErrorJson(bytes)) => Err(decode(&bytes).unwrap_or_else(|e| e)),
        None => Err(ApiError::internal("empty reply")),
    }
}

/// What the transport itself has to say: mostly that the connection is gone.
pub(crate) fn transport_error(status: &tonic::Status) -> ApiError {
    let code = match status.code() {
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => Code::OutOfRange,
        tonic::Code::Unimplemented => Code::Unimplemented,
        tonic::Code::DeadlineExceeded => Code::DeadlineExceeded,
        _ => Code::Unavailable,
    };
    ApiError::rpc(code, status.message())
}
