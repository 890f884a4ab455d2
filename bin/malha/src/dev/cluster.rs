//! The record of a development cluster: its nodes and their processes.

use std::{fs, net::Ipv4Addr};

use anyhow::{Context, Result, bail};
use malha_kit::durable;
use serde::{Deserialize, Serialize};

use super::layout::Layout;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Member>,
    pub(crate) containerd: Option<Process>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) manager: bool,
    pub(crate) addr: Ipv4Addr,
    pub(crate) daemon: Option<Process>,
}

/// A process by id and start time, so that a reused id is never taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    started: u64,
}

impl Process {
    pub(crate) fn of(pid: i32) -> Option<Self> {
        start_time(pid).map(|started| Self { pid, started })
    }

    pub(crate) fn is_alive(self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    pub(crate) fn signal(self, signal: nix::sys::signal::Signal) {
        if self.is_alive() {
            // It may end in between; then there is nothing left to signal.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), signal);
        }
    }

    /// Waits until it is gone; false when it outlives `limit`.
    pub(crate) async fn gone_within(self, limit: std::time::Duration) -> bool {
        let until = tokio::time::Instant::now() + limit;
        while self.is_alive() {
            if tokio::time::Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        true
    }
}

/// Field 22 of `/proc/PID/stat`; none for a process that is gone or a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    (state != "Z" && state != "X").then(|| fields.nth(18)?.parse().ok())?
}

impl Cluster {
    pub(crate) fn load(layout: &Layout) -> Result<Option<Self>> {
        let path = layout.cluster_file();
        match fs::read(&path) {
            Ok(bytes) => {
                Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    pub(crate) fn require(layout: &Layout) -> Result<Self> {
        Self::load(layout)?.with_context(|| format!("there is no cluster {:?}; `malha dev up` makes one", layout.name))
    }

    pub(crate) fn save(&self, layout: &Layout) -> Result<()> {
        let path = layout.cluster_file();
        durable::replace(&path, &serde_json::to_vec_pretty(self)?, durable::PUBLIC)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    pub(crate) fn member(&mut self, name: &str) -> Result<&mut Member> {
        let names: Vec<_> = self.nodes.iter().map(|n| n.name.clone()).collect();
        match self.nodes.iter_mut().find(|n| n.name == name) {
            Some(member) => Ok(member),
            None => bail!("no node {name:?}; there are {}", names.join(", ")),
        }
    }
}
