//! Sockets that live in another network namespace.
//!
//! A socket keeps the namespace of the thread that opened it. The thread here is made for one call and ends with it, so
//! that no thread of ours is ever left in a foreign namespace and no namespace is kept alive by one.

use std::{fs::File, io, os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

/// A network namespace, kept open.
#[derive(Clone, Debug)]
pub(crate) struct Netns {
    file: Arc<File>,
    /// Device and inode: equal for equal namespaces.
    id: (u64, u64),
}

impl Netns {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let about = file.metadata()?;
        Ok(Self { file: Arc::new(file), id: (about.dev(), about.ino()) })
    }

    /// Runs `make` inside. It should do no more than open sockets.
    pub(crate) async fn inside<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (file, (done, made)) = (self.file.clone(), oneshot::channel());
        std::thread::Builder::new().name("dns netns".into()).spawn(move || {
            let result = setns(&*file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from).and_then(|()| make());
            let _ = done.send(result); // whoever asked has gone
        })?;
        made.await.unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace died")))
    }
}

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}
