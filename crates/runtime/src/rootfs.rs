//! A look into a container's file system while nothing runs in it.
//!
//! Lookups stay inside whatever the image's symbolic links say (`openat2` with `RESOLVE_IN_ROOT`). The view is read-only
//! and has no place in the file tree once it is open, so nothing of it can be left behind.

use std::{
    fs::{self, File},
    io::Read,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::Mode,
};

use crate::{Result, RuntimeError, containerd::types::Mount};

/// Larger files are not what is looked up here.
const MAX_FILE: u64 = 16 << 20;

#[derive(Debug)]
pub(crate) struct Rootfs(OwnedFd);

impl Rootfs {
    /// Opens the file system that these mounts make up. `scratch` is for a mount point that lives for an instant.
    pub(crate) fn open(mounts: &[Mount], scratch: &Path) -> Result<Self> {
        let layers = layers(mounts)?;
        match layers.as_slice() {
            [only] => open_dir(only).map(Self),
            several => overlay(several, scratch).map(Self),
        }
    }

    /// A file's text; `None` where there is none.
    pub(crate) fn read(&self, path: &str) -> Result<Option<String>> {
        let fail = |e: std::io::Error| RuntimeError::io(format!("read the image's {path}"), e);
        let Some(fd) = self.find(path, OFlag::O_RDONLY).map_err(|e| fail(e.into()))? else { return Ok(None) };
        let mut bytes = Vec::new();
        File::from(fd).take(MAX_FILE).read_to_end(&mut bytes).map_err(fail)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// A directory of the image; `None` where there is none.
    pub(crate) fn directory(&self, path: &str) -> Result<Option<OwnedFd>> {
        let found = self.find(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY);
        found.map_err(|e| RuntimeError::io(format!("open the image's {path}"), e))
    }

    fn find(&self, path: &str, flags: OFlag) -> nix::Result<Option<OwnedFd>> {
        let how =
            OpenHow::new().flags(flags | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        match openat2(&self.0, path, how) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| RuntimeError::io(format!("open {}", path.display()), e))
}

/// The directories that a snapshot is stacked from, top first.
fn layers(mounts: &[Mount]) -> Result<Vec<PathBuf>> {
    let [mount] = mounts else {
        return Err(RuntimeError::internal(format!("a snapshot of {} mounts", mounts.len())));
    };
    if mount.r#type != "overlay" {
        return Ok(vec![PathBuf::from(&mount.source)]);
    }
    let option = |key: &str| mount.options.iter().find_map(|o| o.strip_prefix(key)?.strip_prefix('='));
    let upper = option("upperdir").into_iter();
    Ok(upper.chain(option("lowerdir").into_iter().flat_map(|l| l.split(':'))).map(PathBuf::from).collect())
}

fn overlay(layers: &[PathBuf], scratch: &Path) -> Result<OwnedFd> {
    let fds = layers.iter().map(|l| open_dir(l)).collect::<Result<Vec<_>>>()?;
    // Names by descriptor: 127 layers fit into the one page that mount(2) takes.
    let stacked: Vec<String> = fds.iter().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd())).collect();
    let fail = |e: std::io::Error| RuntimeError::io("look into the image", e);
    fs::create_dir_all(scratch).map_err(fail)?;
    let point = tempfile::Builder::new().prefix("view-").tempdir_in(scratch).map_err(fail)?;
    let data = format!("lowerdir={}", stacked.join(":"));
    mount(Some("overlay"), point.path(), Some("overlay"), MsFlags::MS_RDONLY, Some(data.as_str()))
        .map_err(|e| fail(e.into()))?;
    let opened = open_dir(point.path());
    umount2(point.path(), MntFlags::MNT_DETACH).map_err(|e| fail(e.into()))?;
    opened
}
