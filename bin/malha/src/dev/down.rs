//! Taking a cluster down: every step is tried, what fails is told at the end.
//!
//! Order matters: daemons first (they would restart containers), then containerd (it may be starting some), then what it
//! has started, then what held that.

use std::{path::Path, time::Duration};

use anyhow::{Result, anyhow, bail};
use nix::sys::signal::Signal;

use super::{cluster::Cluster, layout::Layout, underlay};

pub(crate) async fn down(layout: &Layout) -> Result<()> {
    let cluster = Cluster::load(layout)?.unwrap_or_default();
    let mut errors: Vec<anyhow::Error> = Vec::new();
    for daemon in cluster.nodes.iter().filter_map(|n| n.daemon) {
        daemon.signal(Signal::SIGKILL);
        if !daemon.gone_within(Duration::from_secs(5)).await {
            errors.push(anyhow!("daemon {} does not end", daemon.pid));
        }
    }
    if let Some(containerd) = cluster.containerd {
        containerd.signal(Signal::SIGTERM);
        if !containerd.gone_within(Duration::from_secs(5)).await {
            containerd.signal(Signal::SIGKILL);
            containerd.gone_within(Duration::from_secs(5)).await;
        }
    }
    stop_starters(layout, &mut errors).await;
    for node in &cluster.nodes {
        kill_cgroup(&layout.instance(&node.name), &mut errors).await;
    }
    unmount_below(&[&layout.state, &layout.run], &mut errors);
    for node in &cluster.nodes {
        let instance = layout.instance(&node.name);
        remove_cgroups(&instance, &mut errors).await;
        remove_dir(&crate::paths::pin_dir(&instance), &mut errors);
    }
    errors.extend(underlay::remove(layout));
    remove_dir(&layout.run, &mut errors);
    remove_dir(&layout.state, &mut errors);
    if errors.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> = errors.iter().map(|e| format!("{e:#}")).collect();
    bail!("not everything could be removed:\n  {}", texts.join("\n  "))
}

/// Kills what `list` finds until it finds nothing; false where that takes too long.
async fn kill_until_none(list: impl Fn() -> Vec<i32>) -> bool {
    for _ in 0..100 {
        let pids = list();
        if pids.is_empty() {
            return true;
        }
        for pid in pids {
            // It may have ended since it was listed.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

/// Ends every process of the node's containers. All cgroup hierarchies carry the same path.
async fn kill_cgroup(instance: &str, errors: &mut Vec<anyhow::Error>) {
    if !kill_until_none(|| cgroup_dirs(instance).iter().flat_map(|d| pids_below(d)).collect()).await {
        errors.push(anyhow!("processes in cgroup {instance} do not end"));
    }
}

/// Shims, and runtimes that are making a container: both carry a path of the cluster's containerd on their command line.
async fn stop_starters(layout: &Layout, errors: &mut Vec<anyhow::Error>) {
    let dir = layout.containerd();
    let needle = dir.as_os_str().as_encoded_bytes();
    let starters = || -> Vec<i32> {
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let ours = |pid: &i32| {
            let cmd = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut args = cmd.split(|b| *b == 0);
            let program = args.next().and_then(|path| path.rsplit(|b| *b == b'/').next()).unwrap_or_default();
            [&b"containerd-shim-runc-v2"[..], b"runc", b"crun"].contains(&program)
                && args.any(|a| a.starts_with(needle))
        };
        entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(ours).collect()
    };
    if !kill_until_none(starters).await {
        errors.push(anyhow!("shims of {} do not end", dir.display()));
    }
}

fn cgroup_dirs(instance: &str) -> Vec<std::path::PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|l| {
            let mut f = l.split(' ');
            let (mount, kind) = (f.nth(1)?, f.next()?);
            kind.starts_with("cgroup").then(|| Path::new(mount).join("malha").join(instance))
        })
        .filter(|d| d.exists())
        .collect()
}

fn pids_below(dir: &Path) -> Vec<i32> {
    let own = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let children = std::fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir());
    own.lines().filter_map(|l| l.parse().ok()).chain(children.flat_map(|e| pids_below(&e.path()))).collect()
}

async fn remove_cgroups(instance: &str, errors: &mut Vec<anyhow::Error>) {
    fn remove(dir: &Path) -> std::io::Result<()> {
        for entry in std::fs::read_dir(dir)?.flatten() {
            if entry.path().is_dir() {
                remove(&entry.path())?;
            }
        }
        std::fs::remove_dir(dir)
    }
    for dir in cgroup_dirs(instance) {
        // The kernel takes a moment to see processes off.
        let mut removed = remove(&dir);
        for _ in 0..100 {
            if removed.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            removed = remove(&dir);
        }
        if let Err(e) = removed {
            errors.push(anyhow!(e).context(format!("cannot remove {}", dir.display())));
        }
        // The parent goes with its last cluster.
        let _ = dir.parent().map(std::fs::remove_dir);
    }
}

/// Unmounts everything below `roots`, deepest first.
fn unmount_below(roots: &[&Path], errors: &mut Vec<anyhow::Error>) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut paths: Vec<&Path> = mounts
        .lines()
        .filter_map(|l| l.split(' ').nth(1).map(Path::new))
        .filter(|p| roots.iter().any(|r| p.starts_with(r)))
        .collect();
    paths.sort_unstable();
    for path in paths.into_iter().rev() {
        if let Err(e) = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH) {
            errors.push(anyhow!(e).context(format!("cannot unmount {}", path.display())));
        }
    }
}

fn remove_dir(dir: &Path, errors: &mut Vec<anyhow::Error>) {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            errors.push(anyhow!(e).context(format!("cannot remove {}", dir.display())));
        }
        _ => {}
    }
}
