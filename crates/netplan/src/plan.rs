//! The network state that one node is to have, as plain values.
//!
//! [`NetPlan`] is the whole desired state: the data plane compares it with what the kernel holds and writes the
//! difference. It is built in `build.rs` from the node's tasks and the views of the networks it is on; equal inputs give
//! equal plans. A network is identified by its primary VNI. All addresses may be v4 or v6.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use malha_model::{NetworkId, Protocol};

/// Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// `02:42:` and the four bytes of an IPv4 address, as Docker derives it; an IPv6 address uses its last four bytes.
pub fn mac_of(addr: IpAddr) -> Mac {
    let last4 = match addr {
        IpAddr::V4(a) => a.octets(),
        IpAddr::V6(a) => {
            let o = a.octets();
            [o[12], o[13], o[14], o[15]]
        }
    };
    Mac([0x02, 0x42, last4[0], last4[1], last4[2], last4[3]])
}

/// The one MAC of an endpoint that may have several addresses: by its first IPv4 address, else by its first.
pub fn endpoint_mac(addresses: &[IpNet]) -> Mac {
    let first_v4 = addresses.iter().find(|a| a.addr().is_ipv4());
    first_v4.or(addresses.first()).map(|a| mac_of(a.addr())).unwrap_or_default()
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

/// Everything in the node's maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetPlan {
    /// By VNI.
    pub networks: BTreeMap<u32, NetworkPlan>,
    /// Ports of the routing mesh. Ports without a backend are present with an empty list.
    pub published: BTreeMap<(Protocol, u16), PublishedPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkPlan {
    pub id: NetworkId,
    pub name: String,
    /// The ingress network: endpoints never reach each other, only published flows pass.
    pub ingress: bool,
    pub subnets: Vec<IpNet>,
    /// Answer ARP and echo from the network itself.
    pub gateways: BTreeSet<IpAddr>,
    /// The load balancer's own addresses; answered like gateways.
    pub lb_addresses: BTreeSet<IpAddr>,
    /// Tunnel endpoints of the *other* nodes on this network: the only outer sources accepted for its VNI.
    pub peers: BTreeSet<IpAddr>,
    /// Every reachable address.
    pub endpoints: BTreeMap<IpAddr, EndpointPlan>,
    /// VIP → backends that take new connections. A service without backends is present with an empty list.
    pub vips: BTreeMap<IpAddr, Vec<IpAddr>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPlan {
    pub mac: Mac,
    pub at: Location,
    /// Stands for whom the address belongs to, see [`owner_of`]: another owner is another endpoint, at the same place too.
    pub owner: u32,
}

/// A number for the owner of an address. It only has to differ from that of the owner before (FNV-1a).
pub fn owner_of(id: &str) -> u32 {
    id.bytes().fold(0x811c_9dc5, |hash, b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In the sandbox of this id on this node.
    Local(SandboxId),
    /// Behind this tunnel endpoint.
    Remote(IpAddr),
}

/// Task id, or container id of a stand-alone container: names the network namespace and its links.
pub type SandboxId = String;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishedPort {
    /// VNI of the ingress network.
    pub vni: u32,
    /// Name of the service that publishes it, for people.
    pub service: String,
    pub backends: Vec<IngressBackend>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IngressBackend {
    /// The task's address on the ingress network.
    pub addr: IpAddr,
    pub target_port: u16,
}

/// What one container's network namespace is to contain. Made before the process starts, removed after it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxPlan {
    pub id: SandboxId,
    /// In order: `eth0`, `eth1`, … unless a link names its own interface. User networks in spec order, then ingress.
    pub links: Vec<LinkPlan>,
    /// A further link on `docker_gwbridge`, with the default route. Off for internal networks only.
    pub gwbridge: bool,
    /// Host-mode ports, bound on the node and forwarded to the container's gwbridge address.
    pub host_ports: Vec<malha_model::PortConfig>,
    /// Extra sysctls for the namespace, `net.…` only.
    pub sysctls: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkPlan {
    pub vni: u32,
    /// Interface name in the container, where the user asked for one.
    pub ifname: Option<String>,
    pub addresses: Vec<IpNet>,
    pub mac: Mac,
    pub mtu: u32,
    /// The link on the ingress network: replies to published flows leave by it, nothing else.
    pub ingress: bool,
    /// Other subnets of the same network, reached on-link.
    pub other_subnets: Vec<IpNet>,
}
