//! What a member must know again after a restart, beside its certificate and the managers' log.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use malha_kit::durable;
use malha_model::{ApiError, ApiResult};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) listen: SocketAddr,
    pub(super) advertise: SocketAddr,
    pub(super) data_path: IpAddr,
    pub(super) data_path_port: u16,
    /// Managers that were known when this was written, `ip:port`.
    pub(super) managers: Vec<String>,
    /// Where the swarm's networks were or were to be then: `docker_gwbridge`, which is made anew after a reboot, is kept off.
    #[serde(default)]
    pub(super) subnets: Vec<IpNet>,
}

/// The directory of everything about the membership. Removed whole at `leave`.
pub(super) fn swarm_dir(data_root: &Path) -> PathBuf {
    data_root.join("swarm")
}

fn file(dir: &Path) -> PathBuf {
    dir.join("member.json")
}

pub(super) fn load(dir: &Path) -> anyhow::Result<Option<Saved>> {
    match std::fs::read(file(dir)) {
        Ok(bytes) => Ok(Some(
            serde_json::from_slice(&bytes).map_err(|e| anyhow::anyhow!("{} is damaged: {e}", file(dir).display()))?,
        )),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(anyhow::anyhow!("cannot read {}: {e}", file(dir).display())),
    }
}

pub(super) fn save(dir: &Path, saved: &Saved) -> ApiResult<()> {
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(dir)?;
        durable::replace(&file(dir), &serde_json::to_vec_pretty(saved)?, durable::PRIVATE)
    };
    write().map_err(|e| ApiError::internal(format!("cannot write {}: {e}", file(dir).display())))
}

/// Empties the directory; it may be a mount itself.
pub(super) fn clear(dir: &Path) -> ApiResult<()> {
    let failed = |e: std::io::Error| ApiError::internal(format!("cannot clear {}: {e}", dir.display()));
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) }.map_err(failed)?;
    }
    Ok(())
}
