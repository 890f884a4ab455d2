//! The image's content under a mount point, copied into a fresh volume.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink},
    },
    path::{Path, PathBuf},
};

/// Copies what is in `from` into the empty directory `to`, with owners and modes. A volume that has content stays.
pub(crate) fn copy_up(from: &OwnedFd, to: &Path) -> io::Result<()> {
    if fs::read_dir(to)?.next().is_some() {
        return Ok(());
    }
    let source = PathBuf::from(format!("/proc/self/fd/{}", from.as_raw_fd()));
    // The trailing dot follows the link that the descriptor is in /proc.
    copy_directory(&source.join("."), to)
}

fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
            let meta = fs::symlink_metadata(&source)?;
            lchown(&target, Some(meta.uid()), Some(meta.gid()))?;
            continue;
        }
        if kind.is_dir() {
            fs::create_dir(&target)?;
            copy_directory(&source, &target)?;
        } else if kind.is_file() {
            fs::copy(&source, &target)?;
        } else if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
            // Devices do not belong into volumes.
            continue;
        }
        like(&fs::symlink_metadata(&source)?, &target)?;
    }
    like(&fs::metadata(from)?, to)
}

fn like(meta: &fs::Metadata, target: &Path) -> io::Result<()> {
    chown(target, Some(meta.uid()), Some(meta.gid()))?;
    fs::set_permissions(target, fs::Permissions::from_mode(meta.mode() & 0o7777))
}
