//! Taking a cluster down: every step is tried, what fails is told at the end.
//!
//! Order matters: daemons first (they would restart containers), then containers, then what held them.

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
    for node in &cluster.nodes {
        kill_cgroup(&layout.instance(&node.name), &mut errors).await;
    }
    stop_shims(layout, &mut errors).await;
    if let Some(containerd) = cluster.containerd {
        containerd.signal(Signal::SIGTERM);
        if !containerd.gone_within(Duration::from_secs(5)).await {
            containerd.signal(Signal::SIGKILL);
            containerd.gone_within(Duration::from_secs(5)).await;
        }
    }
    unmount_below(&[&layout.state, &layout.run], &mut errors);
    for node in &cluster.nodes {
        let instance = layout.instance(&node.name);
        remove_cgroups(&instance, &mut errors);
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

/// Shims carry the cluster's containerd address on their command line.
async fn stop_shims(layout: &Layout, errors: &mut Vec<anyhow::Error>) {
    let socket = layout.containerd_socket();
    let needle = socket.as_os_str().as_encoded_bytes();
    let shims = || -> Vec<i32> {
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let ours = |pid: &i32| {
            let cmd = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let is_shim = cmd.split(|b| *b == 0).next().is_some_and(|c| c.ends_with(b"containerd-shim-runc-v2"));
            is_shim && cmd.split(|b| *b == 0).any(|arg| arg == needle)
        };
        entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(ours).collect()
    };
    if !kill_until_none(shims).await {
        errors.push(anyhow!("shims of {} do not end", socket.display()));
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

fn remove_cgroups(instance: &str, errors: &mut Vec<anyhow::Error>) {
    fn remove(dir: &Path) -> std::io::Result<()> {
        for entry in std::fs::read_dir(dir)?.flatten() {
            if entry.path().is_dir() {
                remove(&entry.path())?;
            }
        }
        std::fs::remove_dir(dir)
    }
    for dir in cgroup_dirs(instance) {
        if let Err(e) = remove(&dir) {
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
