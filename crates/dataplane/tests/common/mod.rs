//! Namespaces for kernel tests: a node, an "internet" behind it, and what a test's sandboxes leave, all gone at the end.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test file uses its own part; what cannot go on fails"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use malha_dataplane::{
    LinkState, Netns, NodeAddresses, NodeNetwork, NodeNetworkConfig, ProgramError, Programs, SandboxState,
    ebpf::NodePath,
};
use malha_netplan::{LinkPlan, NetPlan, SandboxId, SandboxPlan, mac_of};
use socket2::{Domain, Socket, Type};

/// A directory of namespaces; dropped, whatever is mounted in it is let go.
pub(crate) struct World {
    pub(crate) dir: PathBuf,
    pub(crate) node: Netns,
    pub(crate) programs: Arc<Recorder>,
}

impl World {
    /// With a fresh, empty node namespace.
    pub(crate) async fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/tmp/malha-links-{}-{n}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let node = Netns::create(&dir.join("node")).await.unwrap();
        Self { dir, node, programs: Arc::default() }
    }

    pub(crate) fn config(&self) -> NodeNetworkConfig {
        let (netns, run_dir) = (self.node.path().to_owned(), self.dir.join("run"));
        let name = self.dir.file_name().unwrap();
        let pin_dir = PathBuf::from(malha_dataplane::ebpf::BPF_FS).join(name);
        let cgroup = malha_dataplane::ebpf::cgroup2_root().unwrap().join(name);
        NodeNetworkConfig { netns, run_dir, pin_dir, cgroup, flow_capacity: 1024, ..NodeNetworkConfig::default() }
    }

    pub(crate) async fn open(&self) -> NodeNetwork {
        NodeNetwork::open_with(&self.config(), self.programs.clone()).await.unwrap()
    }

    /// Another namespace, linked to the node: `198.51.100.1` on the node's `up0`, `198.51.100.2` there. It knows no way
    /// to anything behind the node.
    pub(crate) async fn internet(&self) -> Netns {
        let there = Netns::create(&self.dir.join("internet")).await.unwrap();
        ip(&there, &format!("link add down0 type veth peer name up0 netns {}", self.node.path().display()));
        ip(&there, "address add 198.51.100.2/24 dev down0");
        ip(&there, "link set down0 up");
        ip(&self.node, "address add 198.51.100.1/24 dev up0");
        ip(&self.node, "link set up0 up");
        there
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for at in ["run/netns", ""] {
            for entry in fs::read_dir(self.dir.join(at)).into_iter().flatten().flatten() {
                if Netns::exists(&entry.path()) {
                    let _ = Netns::delete(&entry.path());
                }
            }
        }
        let config = self.config();
        let _ = fs::remove_dir_all(&config.pin_dir);
        let _ = fs::remove_dir(&config.cgroup);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// `ip` of iproute2 inside `ns`; its output.
pub(crate) fn ip(ns: &Netns, args: &str) -> String {
    sh(ns, &format!("ip {args}"))
}

/// A shell command inside `ns`; its output.
pub(crate) fn sh(ns: &Netns, command: &str) -> String {
    let net = format!("--net={}", ns.path().display());
    let out = Command::new("nsenter").args([net.as_str(), "sh", "-c", command]).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Answers each TCP connection to `addr` with the client's address, for as long as the test's process lives.
pub(crate) async fn who_am_i(ns: &Netns, addr: &str) -> SocketAddr {
    let addr: SocketAddr = addr.parse().unwrap();
    let listener = ns.run(move || TcpListener::bind(addr)).await.unwrap().unwrap();
    let bound = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(mut client) = client else { return };
            let from = client.peer_addr().unwrap();
            let _ = client.write_all(from.ip().to_string().as_bytes());
        }
    });
    bound
}

/// What [`who_am_i`] at `addr` sees of a client in `ns`.
pub(crate) async fn ask(ns: &Netns, addr: impl ToString) -> Result<IpAddr, String> {
    let addr: SocketAddr = addr.to_string().parse().unwrap();
    let answer = ns.run(move || {
        let mut stream = TcpStream::connect_timeout(&addr, Duration::from_millis(800))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    });
    let text = answer.await.unwrap().map_err(|e| e.to_string())?;
    text.parse().map_err(|_| format!("answered {text:?}"))
}

/// A UDP datagram as it is on the wire, with a source of one's own choice. `ns` sends it by a raw socket.
pub(crate) async fn forge(ns: &Netns, from: &str, to: &str, payload: &[u8]) {
    let (from, to): (SocketAddrV4, SocketAddrV4) = (from.parse().unwrap(), to.parse().unwrap());
    let length = 8 + payload.len() as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0]; // the kernel fills in length and checksum
    packet[2..4].copy_from_slice(&(20 + length).to_be_bytes());
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    for number in [from.port(), to.port(), length, 0] {
        packet.extend(number.to_be_bytes());
    }
    packet.extend(payload);
    let send = move || {
        let socket = Socket::new(Domain::IPV4, Type::from(libc::SOCK_RAW), Some(socket2::Protocol::from(255)))?;
        socket.send_to(&packet, &SocketAddr::from(to).into())
    };
    ns.run(send).await.unwrap().unwrap();
}

pub(crate) async fn listen(ns: &Netns, addr: &str) -> UdpSocket {
    let addr: SocketAddr = addr.parse().unwrap();
    ns.run(move || UdpSocket::bind(addr)).await.unwrap().unwrap()
}

/// Who sent the next datagram that comes within `patience`.
pub(crate) fn heard(socket: &UdpSocket, patience: Duration) -> Option<IpAddr> {
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.recv_from(&mut [0; 2000]).ok().map(|(_, from)| from.ip())
}

pub(crate) fn link(vni: u32, addr: &str) -> LinkPlan {
    let addr: ipnet::IpNet = addr.parse().unwrap();
    LinkPlan {
        vni,
        ifname: None,
        addresses: vec![addr],
        mac: mac_of(addr.addr()),
        mtu: 1450,
        ingress: vni == 4096,
        other_subnets: Vec::new(),
    }
}

pub(crate) fn plan(id: &str, links: Vec<LinkPlan>) -> SandboxPlan {
    SandboxPlan { id: id.into(), links, gwbridge: true, ..SandboxPlan::default() }
}

/// Programs that only remember what they were told; on request the next attachment fails.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) attached: Mutex<BTreeSet<(SandboxId, u32)>>,
    pub(crate) detached: Mutex<Vec<String>>,
    pub(crate) scopes: Mutex<BTreeSet<u64>>,
    pub(crate) node: Mutex<NodeAddresses>,
    pub(crate) refuse: Mutex<Option<u32>>,
    /// Other nodes that it is to say it knows.
    pub(crate) remotes: Mutex<Vec<IpAddr>>,
    pub(crate) paths: Mutex<BTreeMap<IpAddr, NodePath>>,
}

impl Programs for Recorder {
    fn apply(&self, _: &NetPlan) -> Result<(), ProgramError> {
        Ok(())
    }
    fn attach_link(&self, sandbox: &SandboxId, link: &LinkState) -> Result<(), ProgramError> {
        if *self.refuse.lock().unwrap() == Some(link.vni) {
            return Err("refused".into());
        }
        self.attached.lock().unwrap().insert((sandbox.clone(), link.vni));
        Ok(())
    }
    fn detach_link(&self, host_ifname: &str, _: u32) -> Result<(), ProgramError> {
        self.detached.lock().unwrap().push(host_ifname.to_owned());
        Ok(())
    }
    fn set_scope(&self, sandbox: &SandboxState) -> Result<(), ProgramError> {
        self.scopes.lock().unwrap().insert(sandbox.cookie);
        Ok(())
    }
    fn set_resolver(&self, _: u64, _: u16, _: u16) -> Result<(), ProgramError> {
        Ok(())
    }
    fn clear_scope(&self, cookie: u64) -> Result<(), ProgramError> {
        self.scopes.lock().unwrap().remove(&cookie);
        Ok(())
    }
    fn scopes(&self) -> Vec<u64> {
        self.scopes.lock().unwrap().iter().copied().collect()
    }
    fn remotes(&self) -> Vec<IpAddr> {
        self.remotes.lock().unwrap().clone()
    }
    fn set_paths(&self, paths: &BTreeMap<IpAddr, NodePath>) -> Result<(), ProgramError> {
        *self.paths.lock().unwrap() = paths.clone();
        Ok(())
    }
    fn sweep(&self) -> Result<(), ProgramError> {
        Ok(())
    }
    fn set_node(&self, node: &NodeAddresses) -> Result<(), ProgramError> {
        *self.node.lock().unwrap() = node.clone();
        Ok(())
    }
    fn teardown(&self) -> Result<(), ProgramError> {
        Ok(())
    }
}
