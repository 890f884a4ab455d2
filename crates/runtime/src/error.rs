//! What can go wrong with containers and images, in Docker's words.
//!
//! The text of each variant is what a user of `docker` reads, so scripts that match on it keep working. [`ErrorKind`] is
//! what a caller decides by: it maps one to one to an HTTP status.

use malha_model::{ApiError, Code};

pub type Result<T> = std::result::Result<T, RuntimeError>;

/// The class of a [`RuntimeError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    NotFound,
    Conflict,
    InvalidArgument,
    /// Already in the state that was asked for (Docker's 304).
    NotModified,
    Unauthorized,
    Unsupported,
    /// containerd does not answer.
    Unavailable,
    Internal,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    #[error("No such image: {0}")]
    NoSuchImage(String),
    #[error("No such exec instance: {0}")]
    NoSuchExec(String),
    #[error("get {0}: no such volume")]
    NoSuchVolume(String),
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". \
         You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse { name: String, holder: String },
    #[error("container {0} is not running")]
    NotRunning(String),
    #[error(
        "cannot remove container \"{name}\": container is {state}: stop the container before removing or force remove"
    )]
    StillRunning { name: String, state: &'static str },
    #[error("removal of container {0} is already in progress")]
    RemovalInProgress(String),
    #[error("exec {0} has already been started")]
    ExecAlreadyStarted(String),
    /// The container is already running or already stopped.
    #[error("container {0} is already in the requested state")]
    NotModified(String),
    #[error("remove {name}: volume is in use - [{users}]")]
    VolumeInUse { name: String, users: String },
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    InvalidArgument(String),
    #[error("{0}")]
    Unauthorized(String),
    #[error("{0} is not supported by this version of Malha")]
    Unsupported(String),
    #[error("containerd is not reachable: {0}")]
    Unavailable(String),
    #[error("containerd: {0}")]
    Containerd(String),
    #[error("{context}: {error}")]
    Io { context: String, error: String },
    #[error("{0}")]
    Internal(String),
}

impl RuntimeError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchContainer(_)
            | Self::NoSuchImage(_)
            | Self::NoSuchExec(_)
            | Self::NoSuchVolume(_)
            | Self::NotFound(_) => ErrorKind::NotFound,
            Self::NameInUse { .. }
            | Self::NotRunning(_)
            | Self::StillRunning { .. }
            | Self::RemovalInProgress(_)
            | Self::ExecAlreadyStarted(_)
            | Self::VolumeInUse { .. }
            | Self::Conflict(_) => ErrorKind::Conflict,
            Self::NotModified(_) => ErrorKind::NotModified,
            Self::InvalidArgument(_) => ErrorKind::InvalidArgument,
            Self::Unauthorized(_) => ErrorKind::Unauthorized,
            Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::Unavailable(_) => ErrorKind::Unavailable,
            Self::Containerd(_) | Self::Io { .. } | Self::Internal(_) => ErrorKind::Internal,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.kind() == ErrorKind::NotFound
    }

    pub(crate) fn io(context: impl Into<String>, error: impl std::fmt::Display) -> Self {
        Self::Io { context: context.into(), error: error.to_string() }
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::InvalidArgument(text.into())
    }

    pub(crate) fn internal(text: impl std::fmt::Display) -> Self {
        Self::Internal(text.to_string())
    }
}

impl From<tonic::Status> for RuntimeError {
    fn from(status: tonic::Status) -> Self {
        let text = status.message().to_owned();
        match status.code() {
            tonic::Code::NotFound => Self::NotFound(text),
            tonic::Code::AlreadyExists => Self::Conflict(text),
            tonic::Code::InvalidArgument => Self::InvalidArgument(text),
            tonic::Code::Unavailable => Self::Unavailable(text),
            _ => Self::Containerd(text),
        }
    }
}

impl From<RuntimeError> for ApiError {
    fn from(e: RuntimeError) -> Self {
        let text = e.to_string();
        match e.kind() {
            ErrorKind::NotFound => Self::plain(Code::NotFound, text),
            ErrorKind::Conflict => Self::plain(Code::AlreadyExists, text),
            ErrorKind::InvalidArgument => Self::plain(Code::InvalidArgument, text),
            ErrorKind::NotModified => Self::plain(Code::AlreadyExists, text).with_status(304),
            ErrorKind::Unauthorized => Self::plain(Code::Unauthenticated, text),
            ErrorKind::Unsupported => Self::plain(Code::Unimplemented, text),
            ErrorKind::Unavailable => Self::plain(Code::Unavailable, text),
            ErrorKind::Internal => Self::plain(Code::Internal, text),
        }
    }
}
