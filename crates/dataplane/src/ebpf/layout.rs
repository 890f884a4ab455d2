//! The maps as the kernel programs see them: `bpf/maps.h` in Rust. A test compares the two field by field.
//!
//! Addresses are 16 bytes, IPv4 as `::ffff:a.b.c.d`; addresses and ports in network byte order. Padding is a field, so
//! that it is always zero: keys are compared as bytes.

use std::{fmt, net::IpAddr, net::Ipv6Addr};

use aya::Pod;
use malha_netplan::Mac;

/// Part of the pin path. Raise it with every change of a struct or a map's kind: a daemon then starts with empty maps
/// instead of reading an older one's with the wrong eyes, and the first plan fills them.
pub(crate) const LAYOUT_VERSION: u32 = 6;

pub(crate) const LINK_ADDRS: usize = 4;
pub(crate) const SCOPE_VNIS: usize = 128;
pub(crate) const NET_INGRESS: u32 = 1;

macro_rules! shared {
    ($($(#[$doc:meta])* struct $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) struct $name { $(pub(crate) $field: $type),* }

        // SAFETY: repr(C), integers and arrays of integers only, every byte of padding is a field.
        #[allow(unsafe_code, reason = "plain old data by construction")]
        unsafe impl Pod for $name {}
    )*};
}

shared! {
    /// An address of either family.
    struct Addr { bytes: [u8; 16] }

    struct Settings {
        node: Addr,
        vxlan_ifindex: u32,
        uplink_ifindex: u32,
        lo_ifindex: u32,
        vxlan_port: Port,
        pad: u16,
    }

    struct PeerKey { vni: u32, addr: Addr }

    struct EndpointKey { vni: u32, addr: Addr }

    struct Endpoint {
        serial: u64,
        remote: Addr,
        ifindex: u32,
        mac: [u8; 6],
        kind: u8,
        pad: u8,
        owner: u32,
    }

    struct Link {
        vni: u32,
        mac: [u8; 6],
        ingress: u8,
        pad: u8,
        netns: u32,
        addrs: [Addr; LINK_ADDRS],
    }

    struct Epoch { generation: u64, paths_until: u64 }

    /// IPv4 only, in network byte order.
    struct PathRow { ifindex: u32, via: [u8; 4], source: [u8; 4], mtu: u16, port: Port }

    /// A VIP (vni and addr) or a published port (port and proto).
    struct Front { vni: u32, port: Port, proto: u8, pad: u8, addr: Addr }

    struct Service { count: u32, vni: u32 }

    struct Slot { front: Front, index: u32 }

    struct Backend { addr: Addr, port: Port, pad: u16 }

    /// The networks are in rows, for only short arrays have a default.
    struct Scope {
        ingress: Addr,
        count: u32,
        vnis: [[u32; 32]; SCOPE_VNIS / 32],
        resolver_udp: Port,
        resolver_tcp: Port,
    }

    struct Connected {
        backend: Addr,
        vip: Addr,
        netns: u64,
        vni: u32,
        port: Port,
        proto: u8,
        pad: u8,
    }

    struct DatagramKey { cookie: u64, addr: Addr, port: Port, direction: u16, pad: u32 }

    struct Datagram { other: Addr, serial: u64, vni: u32, pad: u32 }

    struct FlowKey {
        client: Addr,
        node: Addr,
        client_port: Port,
        port: Port,
        proto: u8,
        shown: u8,
        pad: [u8; 2],
    }

    struct Flow {
        backend: Addr,
        origin: Addr,
        serial: u64,
        since: u64,
        closed: u64,
        ifindex: u32,
        target_port: Port,
        origin_port: Port,
        shown_port: Port,
        state: u8,
        side: u8,
        pad: [u8; 4],
    }

    struct ReplyKey {
        task: Addr,
        client: Addr,
        task_port: Port,
        client_port: Port,
        proto: u8,
        pad: [u8; 3],
    }

    struct Reply {
        node: Addr,
        vtep: Addr,
        closed: u64,
        ifindex: u32,
        port: Port,
        client_port: Port,
        state: u8,
        pad: [u8; 7],
    }

    struct RemapKey { flow: FlowKey, task: Addr }

    struct Counter { packets: u64, bytes: u64 }

    struct NetDropKey { vni: u32, reason: u32 }

    /// A port in network byte order.
    struct Port { bytes: [u8; 2] }
}

/// How an address is reached; `Endpoint::kind`.
pub(crate) mod kind {
    pub(crate) const LOCAL: u8 = 1;
    pub(crate) const REMOTE: u8 = 2;
    pub(crate) const GATEWAY: u8 = 3;
    pub(crate) const BALANCER: u8 = 4;
    pub(crate) const VIP: u8 = 5;

    pub(crate) fn name(kind: u8) -> &'static str {
        match kind {
            LOCAL => "local",
            REMOTE => "remote",
            GATEWAY => "gateway",
            BALANCER => "balancer",
            VIP => "vip",
            _ => "unknown",
        }
    }
}

macro_rules! reasons {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        /// Why a packet was dropped; `enum drop_reason`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum DropReason { $($name = $code),* }

        impl DropReason {
            pub const ALL: &[DropReason] = &[$(DropReason::$name),*];

            pub fn as_str(self) -> &'static str {
                match self { $(DropReason::$name => $text),* }
            }
        }
    };
}

reasons! {
    UnknownLink = 1, "unknown-link";
    Malformed = 2, "malformed";
    Protocol = 3, "protocol";
    SpoofedMac = 4, "spoofed-mac";
    SpoofedAddress = 5, "spoofed-address";
    SpoofedArp = 6, "spoofed-arp";
    Multicast = 7, "multicast";
    UnknownDestination = 8, "unknown-destination";
    NotAContainer = 9, "not-a-container";
    UnknownNetwork = 10, "unknown-network";
    UnknownPeer = 11, "unknown-peer";
    NotLocal = 12, "not-local";
    IngressIsolated = 13, "ingress-isolated";
    NoFlow = 14, "no-flow";
    Fragment = 15, "fragment";
    NotPublished = 16, "not-published";
    PortsExhausted = 17, "ports-exhausted";
    Tunnel = 18, "tunnel";
}

/// What happened to packets that were not dropped; `enum traffic_path`, in its order.
pub(crate) const PATHS: [&str; 11] = [
    "local",
    "to-tunnel",
    "from-tunnel",
    "answered",
    "entry",
    "to-task",
    "from-task",
    "to-client",
    "connect",
    "datagram",
    "refused",
];

// === impl Addr ===

impl Addr {
    pub(crate) fn ip(self) -> IpAddr {
        Ipv6Addr::from(self.bytes).to_canonical()
    }

    pub(crate) fn is_zero(self) -> bool {
        self == Self::default()
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        let bytes = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Self { bytes }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

// === impl Port ===

impl Port {
    pub(crate) fn number(self) -> u16 {
        u16::from_be_bytes(self.bytes)
    }
}

impl From<u16> for Port {
    fn from(port: u16) -> Self {
        Self { bytes: port.to_be_bytes() }
    }
}

impl Endpoint {
    /// The same owner at the same place in the network.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        Self { serial: 0, ..*self } == Self { serial: 0, ..*other }
    }

    pub(crate) fn mac(&self) -> Mac {
        Mac(self.mac)
    }
}

#[cfg(test)]
#[path = "layout_test.rs"]
mod test;
