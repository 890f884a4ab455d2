//! The one error that crosses a request boundary.
//!
//! Docker's engine answers most swarm requests with text of the form `rpc error: code = X desc = …`; scripts grep for it
//! (swarm-behaviour §1.1). [`ApiError`] keeps the code and the description apart and knows both spellings: the gRPC code
//! travels between nodes, the HTTP status and the text reach the CLI.

use serde::{Deserialize, Serialize};

/// gRPC status codes that Malha uses, with SwarmKit's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Code {
    InvalidArgument,
    FailedPrecondition,
    OutOfRange,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    Unauthenticated,
    Unimplemented,
    Unavailable,
    DeadlineExceeded,
    Internal,
    Unknown,
}

impl Code {
    /// Moby's mapping (`daemon/server/httpstatus/status.go`).
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidArgument | Self::FailedPrecondition | Self::OutOfRange => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::AlreadyExists => 409,
            Self::Unimplemented => 501,
            Self::Unavailable => 503,
            Self::DeadlineExceeded | Self::Internal | Self::Unknown => 500,
        }
    }
}

/// An error that a request is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: Code,
    /// The text that a user sees, already with the `rpc error: …` prefix where Docker has one.
    pub message: String,
    /// Overrides the status that `code` maps to, for Docker's irregular ones (503 for “not a swarm manager”).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

impl ApiError {
    /// An error whose text carries the `rpc error: code = … desc = …` prefix, as everything from the managers does.
    pub fn rpc(code: Code, desc: impl std::fmt::Display) -> Self {
        Self { code, message: format!("rpc error: code = {code:?} desc = {desc}"), status: None }
    }

    /// An error with plain text, as the engine itself words it.
    pub fn plain(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), status: None }
    }

    pub fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    pub fn invalid(desc: impl std::fmt::Display) -> Self {
        Self::rpc(Code::InvalidArgument, desc)
    }

    pub fn not_found(desc: impl std::fmt::Display) -> Self {
        Self::rpc(Code::NotFound, desc)
    }

    /// 501 that names the feature.
    pub fn unsupported(feature: impl std::fmt::Display) -> Self {
        Self::plain(Code::Unimplemented, format!("{feature} is not supported by this version of Malha"))
    }

    pub fn internal(desc: impl std::fmt::Display) -> Self {
        Self::plain(Code::Internal, desc.to_string())
    }

    pub fn http_status(&self) -> u16 {
        self.status.unwrap_or_else(|| self.code.http_status())
    }
}

pub type ApiResult<T> = Result<T, ApiError>;
