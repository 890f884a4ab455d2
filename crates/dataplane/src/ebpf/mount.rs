//! Where the kernel keeps what outlives the daemon: the bpf file system for pins, and the cgroup v2 tree that socket
//! programs are attached in.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{FsType, statfs},
};

use super::error::{EbpfError, EbpfResult, While};

/// Where every distribution mounts it.
pub const BPF_FS: &str = "/sys/fs/bpf";

const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// The machine's view of the file system. `ip netns exec` hides all that is mounted below /sys behind a fresh one, and
/// what a daemon pinned in a mount of its own would go with it.
const MACHINE: &str = "/proc/1/root";

/// Mounts the bpf file system where it is missing.
pub fn ensure_bpf_fs() -> EbpfResult<()> {
    if is_bpf_fs(Path::new(BPF_FS)) || is_bpf_fs(&of_machine(Path::new(BPF_FS))) {
        return Ok(());
    }
    mount(Some("bpf"), BPF_FS, Some("bpf"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0700"))
        .map_err(Into::into)
        .on(|| format!("mount the bpf file system at {BPF_FS}"))
}

/// `path` below [`BPF_FS`], as it is reached from here.
pub(super) fn reachable(path: &Path) -> PathBuf {
    if path.starts_with(BPF_FS) && !is_bpf_fs(Path::new(BPF_FS)) { of_machine(path) } else { path.to_owned() }
}

fn of_machine(path: &Path) -> PathBuf {
    Path::new(MACHINE).join(path.strip_prefix("/").unwrap_or(path))
}

fn is_bpf_fs(path: &Path) -> bool {
    statfs(path).is_ok_and(|s| s.filesystem_type() == FsType(BPF_FS_MAGIC))
}

/// The root of the cgroup v2 tree: `/sys/fs/cgroup`, or a directory below it where v1 is in use too.
pub fn cgroup2_root() -> EbpfResult<PathBuf> {
    let mounted = |table: &str| {
        let mounts = fs::read_to_string(table).on(|| format!("read {table}"))?;
        let mut fields = mounts.lines().map(|line| line.split(' ').skip(1).take(2).collect::<Vec<_>>());
        let found = fields.find(|f| f.get(1) == Some(&"cgroup2"));
        Ok(found.and_then(|f| f.first().map(PathBuf::from)))
    };
    match mounted("/proc/self/mounts")? {
        Some(root) => Ok(root),
        None => mounted("/proc/1/mounts")?.map(|root| of_machine(&root)).ok_or(EbpfError::NoCgroup2),
    }
}

/// Loopback must accept what ingress puts back there: packets whose source is one of the node's own addresses.
/// Concerns the network namespace of the calling thread.
pub(super) fn prepare_loopback() -> EbpfResult<()> {
    for name in ["accept_local", "route_localnet"] {
        let path = Path::new("/proc/sys/net/ipv4/conf/lo").join(name);
        fs::write(&path, "1").on(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
