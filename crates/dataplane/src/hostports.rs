//! Ports published on this node alone (`mode=host`).
//!
//! A port is held (see `hold`), so that a port already in use is an error of the task that wants it and nobody takes it
//! later; the node's rules lead its packets to the container. What is held is written down beside the namespaces: rules
//! outlive the daemon, and a daemon that returns must not cut them.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use malha_model::{PortConfig, Protocol};
use malha_netplan::SandboxId;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Doing, NetError, NetResult},
    hold,
    meshports::MeshPorts,
    netns::Netns,
};

/// Port of the node → container's gateway address and port.
pub(crate) type PortMap = BTreeMap<(Protocol, u16), SocketAddrV4>;

pub(crate) struct HostPorts {
    dir: PathBuf,
    held: BTreeMap<SandboxId, Held>,
    mesh: Arc<MeshPorts>,
}

struct Held {
    record: Record,
    _sockets: Vec<OwnedFd>,
}

/// What is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The container's address on the gateway bridge.
    addr: Ipv4Addr,
    /// Every one with its port on the node.
    ports: Vec<PortConfig>,
}

impl HostPorts {
    /// What a daemon before this one held. A port that cannot be held again keeps its rule: its container still runs.
    pub(crate) async fn load(dir: &Path, node: &Netns, mesh: Arc<MeshPorts>) -> NetResult<Self> {
        fs::create_dir_all(dir).doing(|| format!("make {}", dir.display()))?;
        let mut all = Self { dir: dir.to_owned(), held: BTreeMap::new(), mesh };
        for entry in fs::read_dir(dir).doing(|| format!("read {}", dir.display()))? {
            let path = entry.doing(|| format!("read {}", dir.display()))?.path();
            if path.extension().is_some_and(|e| e == "new") {
                let _ = fs::remove_file(&path);
            }
            let Some(id) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".json")) else {
                continue;
            };
            let text = fs::read(&path).doing(|| format!("read {}", path.display()))?;
            let Ok(record) = serde_json::from_slice::<Record>(&text) else {
                tracing::warn!(path = %path.display(), "not a record of ports; ignored");
                continue;
            };
            let sockets = match all.hold(node, record.ports.clone()).await {
                Ok((_, sockets)) => sockets,
                Err(error) => {
                    tracing::warn!(sandbox = id, %error, "port is used by somebody else as well");
                    Vec::new()
                }
            };
            all.held.insert(id.to_owned(), Held { record, _sockets: sockets });
        }
        Ok(all)
    }

    /// Holds `wanted` for a sandbox; answers them with the ports they got.
    pub(crate) async fn bind(
        &mut self,
        node: &Netns,
        id: &SandboxId,
        wanted: &[PortConfig],
        addr: Option<Ipv4Addr>,
    ) -> NetResult<Vec<PortConfig>> {
        if let Some(held) = self.held.get(id)
            && Some(held.record.addr) == addr
            && matches(&held.record.ports, wanted)
        {
            return Ok(held.record.ports.clone());
        }
        self.release(id)?;
        let Some(addr) = addr.filter(|_| !wanted.is_empty()) else { return Ok(Vec::new()) };
        let (ports, sockets) = self.hold(node, wanted.to_vec()).await?;
        let record = Record { addr, ports: ports.clone() };
        self.write(id, &record)?;
        self.held.insert(id.clone(), Held { record, _sockets: sockets });
        Ok(ports)
    }

    /// Absent is fine.
    pub(crate) fn release(&mut self, id: &SandboxId) -> NetResult<()> {
        self.held.remove(id);
        match fs::remove_file(self.path(id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).doing(|| format!("forget ports of {id}")),
            _ => Ok(()),
        }
    }

    pub(crate) fn sandboxes(&self) -> impl Iterator<Item = &SandboxId> {
        self.held.keys()
    }

    /// For the rules.
    pub(crate) fn map(&self) -> PortMap {
        let all = self.held.values().flat_map(|h| h.record.ports.iter().map(|p| (h.record.addr, p)));
        all.map(|(addr, p)| ((p.protocol, p.published_port), SocketAddrV4::new(addr, p.target_port))).collect()
    }

    /// Binds each port on the node; one that is 0 becomes a free one.
    async fn hold(&self, node: &Netns, ports: Vec<PortConfig>) -> NetResult<(Vec<PortConfig>, Vec<OwnedFd>)> {
        let bind_all = move || {
            let mut bound = Vec::new();
            let mut sockets = Vec::new();
            for mut port in ports {
                match hold::bind(port.protocol, port.published_port) {
                    Ok((number, socket)) => {
                        port.published_port = number;
                        sockets.extend(socket);
                        bound.push(port);
                    }
                    Err(e) => return Err((port, e)),
                }
            }
            Ok((bound, sockets))
        };
        match node.run(bind_all).await.doing(|| "enter the node's namespace".into())? {
            Ok(all) => Ok(all),
            Err((port, e)) if e.kind() == io::ErrorKind::AddrInUse => {
                Err(self.taken(port.protocol, port.published_port))
            }
            Err((port, e)) => Err(e).doing(|| format!("bind port {}/{}", port.published_port, port.protocol)),
        }
    }

    /// Docker has a word for what it gave away itself, and another for what somebody else took.
    fn taken(&self, protocol: Protocol, port: u16) -> NetError {
        let mut ours = self.held.values().flat_map(|h| &h.record.ports);
        if self.mesh.holds((protocol, port)) || ours.any(|p| (p.protocol, p.published_port) == (protocol, port)) {
            return NetError::PortAllocated { port };
        }
        NetError::PortInUse { port, protocol }
    }

    fn path(&self, id: &SandboxId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    fn write(&self, id: &SandboxId, record: &Record) -> NetResult<()> {
        let (path, new) = (self.path(id), self.dir.join(format!("{id}.new")));
        let text = serde_json::to_vec(record).map_err(io::Error::other).doing(|| format!("record ports of {id}"))?;
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).doing(|| format!("write {}", path.display()))
    }
}

/// The same ports, where a wanted one without a number takes any.
fn matches(held: &[PortConfig], wanted: &[PortConfig]) -> bool {
    let same = |(h, w): (&PortConfig, &PortConfig)| {
        h.protocol == w.protocol
            && h.target_port == w.target_port
            && (w.published_port == 0 || h.published_port == w.published_port)
    };
    held.len() == wanted.len() && held.iter().zip(wanted).all(same)
}
