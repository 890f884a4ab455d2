//! One node's daemon: start, kill, and commands in its place.

use std::{os::unix::process::CommandExt, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::{
    client,
    cluster::{Cluster, Process},
    layout::Layout,
    process, underlay,
};

const START_LIMIT: Duration = Duration::from_secs(30);

fn spawn_daemon(layout: &Layout, name: &str, extra: &[String]) -> Result<Process> {
    let exe = std::env::current_exe().context("own path")?;
    let mut command = Command::new(exe);
    command
        .args(["daemon", "--host"])
        .arg(format!("unix://{}", layout.socket(name).display()))
        .arg("--data-root")
        .arg(layout.node_state(name))
        .arg("--exec-root")
        .arg(layout.node_run(name))
        .arg("--containerd")
        .arg(layout.containerd_socket())
        .arg("--instance")
        .arg(layout.instance(name))
        .arg("--hostname")
        .arg(name)
        .arg("--config-file")
        .arg(layout.state.join("daemon.json"))
        .args(extra);
    let command = process::in_netns(&layout.netns_path(name), command)?;
    process::detach(command, &layout.log(name))
}

/// Waits until the API of a daemon answers.
async fn await_daemon(layout: &Layout, name: &str, daemon: Process) -> Result<()> {
    let log = layout.log(name);
    let until = tokio::time::Instant::now() + START_LIMIT;
    while !client::answers(&layout.socket(name)).await {
        if !daemon.is_alive() {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(8).collect();
            bail!("{name} ended at once:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        if tokio::time::Instant::now() > until {
            bail!("{name} does not answer after {START_LIMIT:?}; see {}", log.display());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Arguments that `up` was given for the daemons, kept beside the cluster.
pub(crate) fn saved_args(layout: &Layout) -> Vec<String> {
    std::fs::read(layout.state.join("daemon-args.json"))
        .ok()
        .and_then(|b| serde_json::from_slice(&b).ok())
        .unwrap_or_default()
}

pub(crate) async fn start(layout: &Layout, node: &str) -> Result<()> {
    let mut cluster = Cluster::require(layout)?;
    ensure_daemon(layout, &mut cluster, node, &saved_args(layout)).await
}

/// Starts the daemon of `name` unless it runs; either way it answers in the end. It is written down before it is waited for:
/// one that does not answer is to be found and ended.
pub(crate) async fn ensure_daemon(layout: &Layout, cluster: &mut Cluster, name: &str, extra: &[String]) -> Result<()> {
    let member = cluster.member(name)?;
    let daemon = match member.daemon.filter(|daemon| daemon.is_alive()) {
        Some(running) => running,
        None => {
            let started = spawn_daemon(layout, name, extra)?;
            member.daemon = Some(started);
            cluster.save(layout).inspect_err(|_| started.signal(Signal::SIGKILL))?;
            started
        }
    };
    await_daemon(layout, name, daemon).await
}

pub(crate) async fn kill(layout: &Layout, node: &str) -> Result<()> {
    let mut cluster = Cluster::require(layout)?;
    let Some(daemon) = cluster.member(node)?.daemon else { return Ok(()) };
    daemon.signal(Signal::SIGKILL);
    if !daemon.gone_within(Duration::from_secs(5)).await {
        bail!("process {} of {node} does not end", daemon.pid);
    }
    Ok(())
}

/// Replaces this process with `command`, run where the node (or the client) stands.
pub(crate) fn exec(layout: &Layout, node: &str, command: &[String]) -> Result<()> {
    let mut cluster = Cluster::require(layout)?;
    let [program, args @ ..] = command else { bail!("no command") };
    // so that `malha` itself is one of the commands, wherever it lies
    let own = std::env::current_exe().context("the path of malha")?;
    let mut process = Command::new(if program == "malha" { own.as_os_str() } else { program.as_ref() });
    process.args(args);
    if node != underlay::CLIENT {
        cluster.member(node)?;
        process.env("DOCKER_HOST", format!("unix://{}", layout.socket(node).display()));
    }
    let mut process = process::in_netns(&layout.netns_path(node), process)?;
    Err(process.exec()).with_context(|| format!("cannot run {program}"))
}
