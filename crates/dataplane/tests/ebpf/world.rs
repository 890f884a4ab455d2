//! A small world for each test: nodes and a client on one underlay, containers behind the nodes. All names carry the
//! process and a number, so tests run side by side; all of it goes when the world is dropped.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use malha_dataplane::ebpf::{
    BPF_FS, Config, Dataplane, DropReason, LinkInfo, NodeDevices, NodePath, TcHook, cgroup2_root, ensure_bpf_fs,
};
use malha_model::Protocol;
use malha_netplan::{EndpointPlan, IngressBackend, Location, NetPlan, NetworkPlan, PublishedPort, mac_of, owner_of};

use crate::{child::Running, servers::within};

static WORLDS: AtomicU32 = AtomicU32::new(0);

pub const VXLAN_PORT: u16 = 4789;
pub const INGRESS: u32 = 4096;
pub const FLOW_CAPACITY: u32 = 4096;

pub struct World {
    id: String,
    pub nodes: Vec<Node>,
    pub containers: BTreeMap<String, Container>,
    pub networks: BTreeMap<u32, NetworkPlan>,
    /// Servers that run until the world ends.
    pub servers: Vec<Running>,
    pub published: BTreeMap<(Protocol, u16), PublishedPort>,
}

pub struct Node {
    pub netns: String,
    pub address: Ipv4Addr,
    config: Config,
    devices: NodeDevices,
    dataplane: Option<Dataplane>,
    hook: TcHook,
}

#[derive(Clone)]
pub struct Container {
    pub netns: String,
    pub node: usize,
    pub cgroup: PathBuf,
    /// By VNI.
    pub addresses: BTreeMap<u32, Ipv4Addr>,
}

/// Runs `ip` or another tool; panics with its words when it fails.
pub fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {}{said}", String::from_utf8_lossy(&output.stderr));
    said
}

/// Waits until `done`: what passes the kernel, or is counted there, takes a moment.
pub fn settle(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn succeeds(command: &str) -> bool {
    let mut words = command.split_whitespace();
    Command::new(words.next().unwrap()).args(words).output().unwrap().status.success()
}

pub fn link_index(netns: &str, device: &str) -> u32 {
    within(netns, || nix::net::if_::if_nametoindex(device).unwrap())
}

/// How a namespace numbers another, of which it has the other end of a link.
fn netns_number(netns: &str, of: &str) -> u32 {
    let list = run(&format!("ip -n {netns} -o link"));
    assert!(list.contains(of), "{list}");
    let numbers = run(&format!("ip -n {netns} netns list-id"));
    let line = numbers.lines().find(|l| l.contains(&format!("name: {of})"))).unwrap_or_else(|| panic!("{numbers}"));
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

impl World {
    /// This many nodes at 192.168.77.11, .12, …; a client at .100.
    pub fn new(nodes: usize) -> Self {
        Self::with_hook(nodes, TcHook::of_kernel())
    }

    pub fn with_hook(nodes: usize, hook: TcHook) -> Self {
        ensure_bpf_fs().unwrap();
        let id = format!("mt{:x}x{}", std::process::id(), WORLDS.fetch_add(1, Ordering::Relaxed));
        let mut world = Self {
            id,
            nodes: Vec::new(),
            containers: BTreeMap::new(),
            networks: BTreeMap::new(),
            servers: Vec::new(),
            published: BTreeMap::new(),
        };
        let underlay = world.netns("u");
        run(&format!("ip netns add {underlay}"));
        run(&format!("ip -n {underlay} link add br0 type bridge"));
        run(&format!("ip -n {underlay} link set br0 up"));
        world.plug("c", Ipv4Addr::new(192, 168, 77, 100));
        for n in 0..nodes {
            let node = world.node(n, hook);
            world.nodes.push(node);
        }
        world
    }

    fn netns(&self, part: &str) -> String {
        format!("{}-{part}", self.id)
    }

    pub fn client(&self) -> String {
        self.netns("c")
    }

    pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 77, 100));

    /// A namespace at 192.168.78.2 that reaches the underlay through the client, on a path that is narrow towards it.
    pub fn behind_client(&self, mtu: u32) -> String {
        let (far, client) = (self.netns("d"), self.client());
        run(&format!("ip netns add {far}"));
        run(&format!("ip -n {far} link set lo up"));
        run(&format!("ip -n {client} link add d0 type veth peer name eth0 netns {far}"));
        run(&format!("ip -n {client} addr add 192.168.78.1/24 dev d0"));
        run(&format!("ip -n {client} link set d0 mtu {mtu} up"));
        run(&format!("ip -n {far} addr add 192.168.78.2/24 dev eth0"));
        run(&format!("ip -n {far} link set eth0 up"));
        run(&format!("ip -n {far} route add default via 192.168.78.1"));
        far
    }

    /// A namespace at 192.168.79.2 that reaches others through a container.
    pub fn behind(&self, container: &str) -> String {
        let (far, container) = (self.netns("e"), &self.containers[container].netns);
        run(&format!("ip netns add {far}"));
        run(&format!("ip -n {container} link add e0 type veth peer name eth0 netns {far}"));
        run(&format!("ip -n {container} addr add 192.168.79.1/24 dev e0"));
        run(&format!("ip -n {container} link set e0 up"));
        run(&format!("ip netns exec {container} sysctl -qw net.ipv4.ip_forward=1"));
        run(&format!("ip -n {far} addr add 192.168.79.2/24 dev eth0"));
        run(&format!("ip -n {far} link set eth0 up"));
        run(&format!("ip -n {far} route add default via 192.168.79.1"));
        far
    }

    /// A namespace with `eth0` on the underlay.
    fn plug(&self, part: &str, address: Ipv4Addr) -> String {
        let (netns, underlay) = (self.netns(part), self.netns("u"));
        run(&format!("ip netns add {netns}"));
        run(&format!("ip -n {netns} link set lo up"));
        run(&format!("ip -n {netns} link add eth0 type veth peer name {part} netns {underlay}"));
        run(&format!("ip -n {underlay} link set {part} master br0 up"));
        run(&format!("ip -n {netns} addr add {address}/24 dev eth0"));
        run(&format!("ip -n {netns} link set eth0 up"));
        netns
    }

    fn node(&self, n: usize, hook: TcHook) -> Node {
        let address = Ipv4Addr::new(192, 168, 77, 11 + n as u8);
        let netns = self.plug(&format!("n{n}"), address);
        run(&format!("ip -n {netns} link add malha0 type vxlan external dstport {VXLAN_PORT} nolearning"));
        run(&format!("ip -n {netns} link set malha0 mtu 65000 up"));
        // every node has the same egress bridge, so containers of several nodes have the same addresses there
        run(&format!("ip -n {netns} link add gw0 type bridge"));
        run(&format!("ip -n {netns} addr add 172.18.0.1/16 dev gw0"));
        run(&format!("ip -n {netns} link set gw0 up"));
        let config = Config {
            pin_dir: format!("{BPF_FS}/{}-n{n}", self.id).into(),
            cgroup: self.cgroup().join(format!("n{n}")),
            netns: format!("/run/netns/{netns}").into(),
            node_address: address.into(),
            vxlan_port: VXLAN_PORT,
            flow_capacity: FLOW_CAPACITY,
        };
        let devices = NodeDevices {
            vxlan_ifindex: link_index(&netns, "malha0"),
            uplinks: vec![link_index(&netns, "eth0")],
            bridges: vec![link_index(&netns, "gw0")],
            addresses: vec![address.into()],
        };
        let mut node = Node { netns, address, config, devices, dataplane: None, hook };
        node.start();
        node
    }

    /// One more way between the client (`.100`) and a node (`.11`, `.12`, …), on 192.168.`third`.0/24.
    pub fn second_uplink(&mut self, node: usize, third: u8) -> Ipv4Addr {
        let (client, netns) = (self.client(), self.nodes[node].netns.clone());
        let device = format!("up{third}");
        run(&format!("ip -n {client} link add {device} type veth peer name {device} netns {netns}"));
        let address = Ipv4Addr::new(192, 168, third, 11 + node as u8);
        for (inside, address) in [(&client, Ipv4Addr::new(192, 168, third, 100)), (&netns, address)] {
            run(&format!("ip -n {inside} addr add {address}/24 dev {device}"));
            run(&format!("ip -n {inside} link set {device} up"));
        }
        let node = &mut self.nodes[node];
        node.devices.uplinks.push(link_index(&netns, &device));
        node.devices.addresses.push(address.into());
        node.dataplane().set_node(&node.devices).unwrap();
        address
    }

    fn cgroup(&self) -> PathBuf {
        cgroup2_root().unwrap().join(&self.id)
    }

    /// A network that all nodes are on.
    pub fn network(&mut self, vni: u32) {
        let third = (vni % 200) as u8;
        let gateway = Ipv4Addr::new(10, 7, third, 1);
        let plan = NetworkPlan {
            name: format!("net{vni}"),
            ingress: vni == INGRESS,
            gateways: [gateway.into()].into(),
            ..NetworkPlan::default()
        };
        self.networks.insert(vni, plan);
    }

    /// A container with links on these networks, at host number `host`.
    pub fn container(&mut self, name: &str, node: usize, host: u8, vnis: &[u32]) {
        let netns = self.netns(&format!("k{name}"));
        let cgroup = self.nodes[node].config.cgroup.join(name);
        fs::create_dir_all(&cgroup).unwrap();
        run(&format!("ip netns add {netns}"));
        run(&format!("ip -n {netns} link set lo up"));
        for setting in ["all", "default"] {
            run(&format!("ip netns exec {netns} busybox sysctl -q -w net.ipv4.conf.{setting}.rp_filter=0"));
        }
        let mut container = Container { netns, node, cgroup, addresses: BTreeMap::new() };
        for (i, &vni) in vnis.iter().enumerate() {
            let address = Ipv4Addr::new(10, 7, (vni % 200) as u8, host);
            self.wire(name, &container, i, vni, address);
            container.addresses.insert(vni, address);
            let network = self.networks.get_mut(&vni).unwrap();
            let mac = mac_of(address.into());
            let at = Location::Local(name.to_owned());
            network.endpoints.insert(address.into(), EndpointPlan { mac, at, owner: owner_of(name) });
        }
        self.containers.insert(name.to_owned(), container);
        self.scope(name);
    }

    /// Tells the node's programs which networks the container's sockets are on.
    pub fn scope(&self, name: &str) {
        let container = &self.containers[name];
        let scope: Vec<u32> = container.addresses.keys().copied().filter(|v| *v != INGRESS).collect();
        let path = format!("/run/netns/{}", container.netns);
        let ingress = container.addresses.get(&INGRESS).map(|a| IpAddr::from(*a));
        let dataplane = self.nodes[container.node].dataplane();
        dataplane.set_scope(cookie(&container.netns), path.as_ref(), &scope, ingress).unwrap();
    }

    /// Another link in the place of a container's `eth0`, which is on this network.
    pub fn rewire(&self, name: &str, vni: u32) {
        let (container, i) = (&self.containers[name], 0);
        let (inside, node) = (&container.netns, &self.nodes[container.node].netns);
        run(&format!("ip -n {inside} link set eth{i} down"));
        run(&format!("ip -n {inside} addr flush dev eth{i}"));
        run(&format!("ip -n {inside} link set eth{i} name old"));
        run(&format!("ip -n {node} link set v{name}{vni} down"));
        run(&format!("ip -n {node} link set v{name}{vni} name old"));
        self.wire(name, container, i, vni, container.addresses[&vni]);
    }

    /// As the part that makes links does it.
    fn wire(&self, name: &str, container: &Container, i: usize, vni: u32, address: Ipv4Addr) {
        let (inside, node) = (&container.netns, &self.nodes[container.node]);
        let host = format!("v{name}{vni}");
        let mac = mac_of(address.into());
        run(&format!("ip -n {} link add {host} type veth peer name eth{i} netns {inside}", node.netns));
        run(&format!("ip -n {inside} link set eth{i} address {mac} mtu 1450"));
        let info = LinkInfo {
            sandbox: name.to_owned(),
            vni,
            addresses: vec![address.into()],
            mac,
            ingress: vni == INGRESS,
            netns: Some(netns_number(&node.netns, inside)),
        };
        let ifindex = link_index(&node.netns, &host);
        node.dataplane().attach_link(ifindex, &info).unwrap();
        run(&format!("ip -n {} link set {host} up", node.netns));
        run(&format!("ip -n {inside} addr add {address}/24 dev eth{i}"));
        if vni == INGRESS {
            run(&format!("ip -n {inside} link set eth{i} arp off up"));
            let gateway = Ipv4Addr::new(10, 7, (vni % 200) as u8, 1);
            run(&format!("ip -n {inside} rule add from {address} lookup 100"));
            run(&format!("ip -n {inside} route add default via {gateway} dev eth{i} table 100"));
        } else {
            run(&format!("ip -n {inside} link set eth{i} up"));
        }
    }

    /// A link of the container on the node's egress bridge, with the default route.
    pub fn egress(&self, name: &str, host: u8) {
        let container = &self.containers[name];
        let (inside, node) = (&container.netns, &self.nodes[container.node].netns);
        run(&format!("ip -n {node} link add g{name} type veth peer name gw netns {inside}"));
        run(&format!("ip -n {node} link set g{name} master gw0 up"));
        run(&format!("ip -n {inside} addr add 172.18.0.{host}/16 dev gw"));
        run(&format!("ip -n {inside} link set gw up"));
        run(&format!("ip -n {inside} route add default via 172.18.0.1"));
    }

    pub fn vip(&mut self, vni: u32, vip: Ipv4Addr, backends: &[&str]) {
        let backends = backends.iter().map(|b| self.address(b, vni).into()).collect();
        self.networks.get_mut(&vni).unwrap().vips.insert(vip.into(), backends);
    }

    pub fn publish(&mut self, protocol: Protocol, port: u16, target_port: u16, tasks: &[&str]) {
        let backends =
            tasks.iter().map(|t| IngressBackend { addr: self.address(t, INGRESS).into(), target_port }).collect();
        self.published.insert((protocol, port), PublishedPort { vni: INGRESS, backends, ..PublishedPort::default() });
    }

    pub fn address(&self, container: &str, vni: u32) -> Ipv4Addr {
        self.containers[container].addresses[&vni]
    }

    /// Takes a container out of every plan: its endpoints and its places as a backend.
    pub fn forget(&mut self, name: &str) {
        let container = self.containers[name].clone();
        for (vni, address) in container.addresses {
            let address = IpAddr::from(address);
            let network = self.networks.get_mut(&vni).unwrap();
            network.endpoints.remove(&address);
            network.vips.values_mut().for_each(|b| b.retain(|a| *a != address));
            self.published.values_mut().for_each(|p| p.backends.retain(|b| b.addr != address));
        }
    }

    /// The plan as one node sees it.
    pub fn plan(&self, node: usize) -> NetPlan {
        let mut plan = NetPlan { networks: self.networks.clone(), published: self.published.clone() };
        for network in plan.networks.values_mut() {
            let others = self.nodes.iter().enumerate().filter(|(n, _)| *n != node);
            network.peers = others.map(|(_, other)| other.address.into()).collect();
            for endpoint in network.endpoints.values_mut() {
                let Location::Local(sandbox) = &endpoint.at else { continue };
                let home = self.containers[sandbox].node;
                if home != node {
                    endpoint.at = Location::Remote(self.nodes[home].address.into());
                }
            }
        }
        plan
    }

    pub fn apply(&self) {
        for (n, node) in self.nodes.iter().enumerate() {
            node.dataplane().apply(&self.plan(n)).unwrap();
            node.dataplane().set_paths(&self.paths(n, 1500)).unwrap();
        }
    }

    /// How a node reaches the others.
    pub fn paths(&self, node: usize, mtu: u16) -> BTreeMap<IpAddr, NodePath> {
        let from = &self.nodes[node];
        let path =
            |to: Ipv4Addr| NodePath { ifindex: from.devices.uplinks[0], next_hop: to, source: from.address, mtu };
        self.nodes.iter().filter(|n| n.address != from.address).map(|n| (n.address.into(), path(n.address))).collect()
    }

    pub fn dropped(&self, node: usize, reason: DropReason) -> u64 {
        self.nodes[node].dataplane().stats().unwrap().dropped(reason)
    }

    pub fn ping(&self, from: &str, to: impl std::fmt::Display) -> bool {
        succeeds(&format!("ip netns exec {} busybox ping -c 2 -i 0.2 -W 1 {to}", self.containers[from].netns))
    }

    /// A datagram server as a program of the container.
    pub fn serve_udp(&mut self, container: &str, at: &str) {
        let mut server = self.order(container, &format!("serve-udp {at} {container}"));
        assert_eq!(server.line().as_deref(), Some("ready"));
        self.servers.push(server);
    }

    /// Carries out an order in a container, see `child`.
    pub fn order(&self, container: &str, order: &str) -> Running {
        let container = &self.containers[container];
        Running::start(&container.netns, &container.cgroup, order)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                if let Some(d) = &node.dataplane {
                    let stats = d.stats().unwrap_or_default();
                    let counts = stats.drops.iter().chain(&stats.traffic).filter(|(_, c)| c.packets > 0);
                    println!("{}: {:?}", node.netns, counts.map(|(n, c)| (*n, c.packets)).collect::<Vec<_>>());
                    for map in d.dump().unwrap_or_default() {
                        println!("  {}", map.name);
                        map.rows.iter().for_each(|(k, v)| println!("    {k} => {v}"));
                    }
                }
            }
        }
        self.servers.clear();
        let list = Command::new("ip").args(["netns", "list"]).output();
        let list = list.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        for name in list.lines().filter_map(|l| l.split(' ').next()).filter(|n| n.starts_with(&format!("{}-", self.id)))
        {
            succeeds(&format!("ip netns del {name}"));
        }
        for node in &mut self.nodes {
            node.dataplane = None;
            let _ = fs::remove_dir_all(&node.config.pin_dir);
        }
        remove_cgroup(&self.cgroup());
    }
}

/// With all that is below. Children have been killed and waited for; the kernel still may need a moment.
fn remove_cgroup(path: &std::path::Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    for _ in 0..50 {
        match fs::remove_dir(path) {
            Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => return,
        }
    }
}

impl Node {
    pub fn start(&mut self) {
        let dataplane = Dataplane::open_with(&self.config, self.hook).unwrap();
        dataplane.set_node(&self.devices).unwrap();
        self.dataplane = Some(dataplane);
    }

    /// As when the daemon is killed: nothing is told to the kernel.
    pub fn stop(&mut self) {
        self.dataplane = None;
    }

    pub fn dataplane(&self) -> &Dataplane {
        self.dataplane.as_ref().unwrap()
    }

    pub fn pin_dir(&self) -> &PathBuf {
        &self.config.pin_dir
    }
}

#[allow(unsafe_code, reason = "no wrapper knows SO_NETNS_COOKIE")]
pub fn cookie(netns: &str) -> u64 {
    use std::os::fd::AsRawFd;
    let socket = within(netns, || std::net::UdpSocket::bind("0.0.0.0:0").unwrap());
    let mut cookie = 0_u64;
    let mut len = 8;
    let value = std::ptr::from_mut(&mut cookie).cast();
    // SAFETY: both out-values live through the call and have the size that is told.
    let rc =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, value, &raw mut len) };
    assert_eq!(rc, 0);
    cookie
}

/// Nobody but programs writes to this map any more.
#[allow(unsafe_code, reason = "no wrapper knows BPF_MAP_FREEZE")]
pub fn freeze(pin_dir: &std::path::Path, map: &str) {
    use std::os::fd::AsRawFd;
    const BPF_MAP_FREEZE: libc::c_long = 22;
    let dirs = fs::read_dir(pin_dir).unwrap().flatten().map(|e| e.path().join(map));
    let map = aya::maps::MapData::from_pin(dirs.into_iter().find(|p| p.exists()).unwrap()).unwrap();
    let mut attr = [0_u32; 32];
    attr[0] = std::os::fd::AsFd::as_fd(map.fd()).as_raw_fd() as u32;
    // SAFETY: the attribute is longer than any kernel's, and zero but for the descriptor.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_FREEZE, attr.as_ptr(), size_of_val(&attr)) };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
}
