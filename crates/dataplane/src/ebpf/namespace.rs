//! The node's network namespace, for the few calls that mean the one of their thread.

use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
    thread,
};

use nix::sched::{CloneFlags, setns};

use super::error::{EbpfResult, While};

const OWN: &str = "/proc/thread-self/ns/net";

pub(super) struct Namespace {
    file: File,
    id: u64,
}

impl Namespace {
    pub(super) fn open(path: &Path) -> EbpfResult<Self> {
        let file = File::open(path).on(|| format!("open namespace {}", path.display()))?;
        let id = file.metadata().on(|| format!("look at namespace {}", path.display()))?.ino();
        Ok(Self { file, id })
    }

    /// Runs `work` inside: here, where this thread is in it already (a daemon's always are), else on a thread that
    /// enters it.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> EbpfResult<T> + Send) -> EbpfResult<T> {
        if std::fs::metadata(OWN).is_ok_and(|own| own.ino() == self.id) {
            return work();
        }
        let inside = || {
            setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)
                .map_err(io::Error::from)
                .on(|| "enter the node's namespace".to_owned())?;
            work()
        };
        let panicked = |_| Err(io::Error::other("it panicked")).on(|| "run in the node's namespace".to_owned());
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(panicked)
    }
}
