//! Why a sandbox cannot be given names.

use std::{io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("network namespace {path}: {source}")]
    Netns { path: PathBuf, source: io::Error },
    #[error("cannot listen on 127.0.0.11 of sandbox {sandbox}: {source}")]
    Listen { sandbox: String, source: io::Error },
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
}
