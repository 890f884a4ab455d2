//! What can go wrong between the daemon and its kernel programs.

use std::{io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum EbpfError {
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// The kernel refused a program; the verifier's words are in the source.
    #[error("load {object}: {source}")]
    Load { object: &'static str, source: Box<aya::EbpfError> },
    #[error("load program {program}: {source}")]
    Program { program: &'static str, source: Box<aya::programs::ProgramError> },
    #[error("map {map}: {source}")]
    Map { map: &'static str, source: Box<aya::maps::MapError> },
    #[error("map {map} at {path} cannot be opened: {source}", path = path.display())]
    OpenMap { map: &'static str, path: PathBuf, source: Box<aya::maps::MapError> },
    #[error("{what} has more addresses than the {limit} that a link can have")]
    TooManyAddresses { what: String, limit: usize },
    #[error("{what} is on {count} networks; a container can be on {limit}")]
    TooManyNetworks { what: String, count: usize, limit: usize },
    #[error("no cgroup v2 hierarchy is mounted")]
    NoCgroup2,
}

pub type EbpfResult<T> = Result<T, EbpfError>;

/// Says of a failed system call what it was for.
pub(super) trait While<T> {
    fn on(self, what: impl FnOnce() -> String) -> EbpfResult<T>;
}

impl<T> While<T> for io::Result<T> {
    fn on(self, what: impl FnOnce() -> String) -> EbpfResult<T> {
        self.map_err(|source| EbpfError::Io { what: what(), source })
    }
}
