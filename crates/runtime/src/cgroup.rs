//! Where containers are in the cgroup tree.
//!
//! Every process of a node's containers is below one cgroup v2 directory, as kernel programs are attached there. runc
//! sees to it on unified and hybrid machines alike; [`ensure_member`] checks and, where a runc does not, moves the
//! process before it runs a single instruction of the image. Changes wait for one lock of the whole machine, so they are
//! made on threads that nothing else waits for.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{Result, RuntimeError};

/// Mount point of the v2 hierarchy: all of it, or the part that systemd calls `unified`.
pub(crate) fn v2_root() -> &'static Path {
    const HYBRID: &str = "/sys/fs/cgroup/unified";
    if Path::new(HYBRID).join("cgroup.procs").exists() { Path::new(HYBRID) } else { Path::new("/sys/fs/cgroup") }
}

pub(crate) fn check_parent(parent: &str) -> Result<()> {
    let plain = parent.starts_with('/') && parent.len() > 1 && !parent.ends_with('/') && !parent.contains("..");
    if plain { Ok(()) } else { Err(RuntimeError::invalid(format!("bad cgroup parent {parent:?}"))) }
}

/// The v2 directory of a cgroup path.
pub(crate) fn v2_dir(path: &str) -> PathBuf {
    v2_root().join(path.trim_start_matches('/'))
}

pub(crate) fn make_v2(path: &str) -> Result<PathBuf> {
    let dir = v2_dir(path);
    fs::create_dir_all(&dir).map_err(|e| RuntimeError::io(format!("make cgroup {}", dir.display()), e))?;
    Ok(dir)
}

/// Makes sure that `pid` is in the v2 cgroup `path` or below it.
pub(crate) async fn ensure_member(pid: u32, path: &str) -> Result<()> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || move_into(pid, &path)).await.map_err(RuntimeError::internal)?
}

fn move_into(pid: u32, path: &str) -> Result<()> {
    let listed = fs::read_to_string(format!("/proc/{pid}/cgroup"));
    let listed = listed.map_err(|e| RuntimeError::io(format!("read the cgroup of process {pid}"), e))?;
    let current = listed.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/");
    if current == path || current.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')) {
        return Ok(());
    }
    let procs = make_v2(path)?.join("cgroup.procs");
    fs::write(&procs, pid.to_string()).map_err(|e| RuntimeError::io(format!("move process {pid} to {path}"), e))
}

/// Processes of a cgroup and those below.
pub(crate) fn members(path: &str) -> Vec<u32> {
    let mut pids = Vec::new();
    let mut dirs = vec![v2_dir(path)];
    while let Some(dir) = dirs.pop() {
        let listed = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        pids.extend(listed.lines().filter_map(|l| l.parse::<u32>().ok()));
        dirs.extend(subdirs(&dir));
    }
    pids.sort_unstable();
    pids
}

/// Whether the kernel has killed a process of a cgroup for want of memory. It counts before it kills, so whoever has
/// seen an end reads the truth about it, until the cgroup is removed.
pub(crate) fn oom_killed(path: &str) -> bool {
    let dirs = hierarchies().into_iter().map(|root| root.join(path.trim_start_matches('/')));
    // Of v2 and v1, in the same words.
    let mut files = dirs.flat_map(|dir| ["memory.events", "memory.oom_control"].map(|file| dir.join(file)));
    files.any(|file| counts_a_kill(&fs::read_to_string(file).unwrap_or_default()))
}

fn counts_a_kill(events: &str) -> bool {
    events.lines().filter_map(|l| l.strip_prefix("oom_kill ")).any(|count| count.trim() != "0")
}

/// Removes a cgroup, with the empty ones below it, from every hierarchy. One that still has processes stays.
pub(crate) async fn remove(path: &str) {
    for root in hierarchies() {
        let dir = root.join(path.trim_start_matches('/'));
        for _ in 0..20 {
            let tree = dir.clone();
            let gone = tokio::task::spawn_blocking(move || !tree.exists() || remove_tree(&tree).is_ok()).await;
            if gone.unwrap_or(false) {
                break;
            }
            // The kernel takes a moment to see a process off.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Removes a node's own cgroup, and those above it that are empty then.
pub(crate) async fn remove_parent(path: &str) {
    remove(path).await;
    for root in hierarchies() {
        let mut above = Path::new(path.trim_start_matches('/')).parent();
        while let Some(dir) = above.filter(|d| !d.as_os_str().is_empty()) {
            if fs::remove_dir(root.join(dir)).is_err() {
                break;
            }
            above = dir.parent();
        }
    }
}

fn remove_tree(dir: &Path) -> std::io::Result<()> {
    for sub in subdirs(dir) {
        remove_tree(&sub)?;
    }
    fs::remove_dir(dir)
}

fn subdirs(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

/// The v2 root, or with the legacy layout each directory of its own.
fn hierarchies() -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    if top.join("cgroup.procs").exists() { vec![top.to_owned()] } else { subdirs(top) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_read_from_both_versions() {
        assert!(counts_a_kill("low 0\nhigh 0\nmax 8\noom 1\noom_kill 1\noom_group_kill 0\n"));
        assert!(counts_a_kill("oom_kill_disable 0\nunder_oom 0\noom_kill 12\n"));
        assert!(!counts_a_kill("max 8\noom 1\noom_kill 0\noom_group_kill 0\n"));
        assert!(!counts_a_kill("oom_kill_disable 1\nunder_oom 1\noom_kill 0\n") && !counts_a_kill(""));
    }
}
