//! The socket that a shim listens on, for the time after the shim.
//!
//! Shims of 1.6 that end in a hurry leave theirs behind. The name is fixed by containerd's shim library: a hash of
//! containerd's own socket, the namespace and the container.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::runtime::Inner;

const DIRECTORY: &str = "/run/containerd/s";

fn path(containerd: &Path, namespace: &str, id: &str) -> PathBuf {
    let name = containerd.join(namespace).join(id);
    Path::new(DIRECTORY).join(hex::encode(Sha256::digest(name.as_os_str().as_encoded_bytes())))
}

impl Inner {
    /// Only after the task was deleted.
    pub(crate) fn remove_shim_socket(&self, id: &str) {
        let _ = std::fs::remove_file(path(&self.config.containerd_socket, self.containerd.namespace(), id));
    }
}
