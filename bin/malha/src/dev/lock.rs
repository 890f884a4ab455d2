//! One command at a time changes a cluster: two of them would each write down what they know, and forget the other's.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::layout::Layout;

/// Dropped, it lets the next one in. No process that the command starts inherits it.
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

/// Waits for its turn.
pub(crate) fn take(layout: &Layout) -> Result<Lock> {
    let path = layout.lock_file();
    let locked = locked(&path, || eprintln!("malha dev: another command is at work on cluster {:?}", layout.name));
    let file = locked.with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(Lock { path, _file: file })
}

fn locked(path: &Path, busy: impl Fn()) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    loop {
        let file = File::create(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                busy();
                file.lock()?;
            }
            Err(TryLockError::Error(e)) => return Err(e),
        }
        // whoever had it removed it with its last act: then this is not the file that others find
        let own = file.metadata()?.ino();
        if fs::metadata(path).is_ok_and(|found| found.ino() == own) {
            return Ok(file);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // left behind it would hurt nobody
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_at_a_time_and_nothing_is_left() {
        let path = std::env::temp_dir().join(format!("malha-lock-{}", std::process::id()));
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let _lock = Lock { path: path.clone(), _file: locked(&path, || {}).unwrap() };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(!path.exists());
    }
}
