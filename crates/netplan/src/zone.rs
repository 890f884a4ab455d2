//! What the DNS server of one sandbox answers from.
//!
//! A [`NetZone`] holds every name of one network and is shared by all sandboxes on it; a [`Zone`] is the ordered list of
//! the networks of one sandbox. Both are immutable: a change builds a new one and swaps it in.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Names of one network. Keys are lower case without trailing dot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetZone {
    /// Network name, for `name.network`.
    pub network: String,
    /// Each name's addresses, v4 and v6 together, sorted.
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// Address → the name that PTR answers, already with the network: `web.1.<id>.mynet`, `web.mynet` for a VIP.
    pub reverse: BTreeMap<IpAddr, String>,
    /// `_port._proto.service` → port and names, for SRV.
    pub services: BTreeMap<String, Vec<SrvTarget>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrvTarget {
    pub port: u16,
    pub target: String,
}

/// All that one sandbox may resolve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// First network that knows a name wins. User networks in spec order; ingress is never in here.
    pub networks: Vec<Arc<NetZone>>,
    /// Where unknown names go, in order; the first three are tried.
    pub upstreams: Vec<Upstream>,
    /// False in a sandbox without external connectivity: unknown names are SERVFAIL at once (CVE-2024-29018).
    pub forward: bool,
    /// An `ndots` option was set by host or user: unknown single-label names are NOERROR/empty, not forwarded.
    pub ndots_set: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub addr: SocketAddr,
    /// Queried from the node's namespace (its own resolvers) rather than from the container's (`--dns`).
    pub from_node: bool,
}

// === impl NetZone ===

impl NetZone {
    /// Nothing can be resolved here, as on the ingress network.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.reverse.is_empty() && self.services.is_empty()
    }
}
