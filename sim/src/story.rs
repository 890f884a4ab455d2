//! What happened, in the order it happened.

use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// Clones are the same story. Lines are stamped with virtual time.
#[derive(Clone, Debug)]
pub struct Story(Arc<Mutex<Told>>);

#[derive(Debug)]
struct Told {
    begin: Instant,
    lines: Vec<String>,
    digest: Sha256,
}

impl Story {
    pub(crate) fn begin() -> Self {
        Self(Arc::new(Mutex::new(Told { begin: Instant::now(), lines: Vec::new(), digest: Sha256::new() })))
    }

    pub(crate) fn tell(&self, what: impl std::fmt::Display) {
        let mut told = self.0.lock();
        let at = told.begin.elapsed();
        let line = format!("{:>8.3} s  {what}", at.as_secs_f64());
        told.digest.update(line.as_bytes());
        told.lines.push(line);
    }

    /// Goes into the hash, but is too much to read.
    pub(crate) fn imply(&self, what: &str) {
        self.0.lock().digest.update(what.as_bytes());
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.lock().lines.clone()
    }

    /// Equal for equal stories.
    pub fn hash(&self) -> String {
        hex::encode(&self.0.lock().digest.clone().finalize()[..8])
    }
}
