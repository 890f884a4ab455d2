//! The node's one nftables table: what cannot be a map entry.
//!
//! Way out of containers (masquerade), ports published on this node alone, and no connection tracking for the tunnel.
//! Containers may make packets of any kind. What comes from them has a source of the bridge's subnet, and none of it is
//! the tunnel's: another node trusts the source of a tunnel packet, and so does this one.
//!
//! The table is ours alone and is replaced whole, in one transaction, each time anything changes; nobody's table is
//! edited. Note that a drop in another table stays a drop: where a firewall sets the forward policy to drop, it must
//! let `docker_gwbridge` pass.

use std::fmt::Write;

use ipnet::Ipv4Net;

use crate::{
    error::{NetError, NetResult},
    gwbridge::GWBRIDGE,
    hostports::PortMap,
    libnftables,
    netns::Netns,
};

const TABLE: &str = "inet malha";

/// All that the table is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) vxlan_port: u16,
    pub(crate) gateway_subnet: Ipv4Net,
    pub(crate) host_ports: PortMap,
}

impl Rules {
    pub(crate) async fn apply(&self, node: &Netns) -> NetResult<()> {
        run(node, self.to_string()).await
    }

    /// Whether the table is there at all.
    pub(crate) async fn present(node: &Netns) -> bool {
        run(node, format!("list table {TABLE}\n")).await.is_ok()
    }

    /// Removes the table; absent is fine.
    pub(crate) async fn remove(node: &Netns) -> NetResult<()> {
        run(node, format!("table {TABLE}\ndelete table {TABLE}\n")).await
    }
}

async fn run(node: &Netns, commands: String) -> NetResult<()> {
    let done = node.run(move || libnftables::run(&commands)).await;
    done.unwrap_or_else(|e| Err(e.to_string())).map_err(NetError::Nft)
}

impl std::fmt::Display for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (gw, subnet, vxlan) = (GWBRIDGE, self.gateway_subnet, self.vxlan_port);
        let mut elements = String::new();
        for ((protocol, port), to) in &self.host_ports {
            let comma = if elements.is_empty() { "" } else { ", " };
            write!(elements, "{comma}{protocol} . {port} : {} . {}", to.ip(), to.port())?;
        }
        // an empty list of elements is a syntax error
        let elements = if elements.is_empty() { String::new() } else { format!("    elements = {{ {elements} }}\n") };
        let to_container = "fib daddr type local dnat ip to meta l4proto . th dport map @host_ports";
        write!(
            f,
            r#"table {TABLE}
delete table {TABLE}
table {TABLE} {{
  map host_ports {{
    type inet_proto . inet_service : ipv4_addr . inet_service
{elements}  }}
  chain untracked_in {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{gw}" ip saddr != {subnet} drop
    iifname "{gw}" ip6 saddr != {{ ::, fe80::/10 }} drop
    iifname "{gw}" udp dport {vxlan} drop
    iifname "{gw}" ip daddr 127.0.0.0/8 drop
    udp dport {vxlan} notrack
  }}
  chain untracked_out {{
    type filter hook output priority raw; policy accept;
    udp dport {vxlan} notrack
  }}
  chain published {{
    type nat hook prerouting priority dstnat; policy accept;
    {to_container}
  }}
  chain published_here {{
    type nat hook output priority -100; policy accept;
    {to_container}
  }}
  chain way_out {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != "{gw}" masquerade
    ip saddr 127.0.0.0/8 oifname "{gw}" masquerade
    ip saddr {subnet} oifname "{gw}" ct status dnat masquerade
  }}
  chain into_containers {{
    type filter hook forward priority filter; policy accept;
    oifname "{gw}" ct state established,related accept
    oifname "{gw}" ct status dnat accept
    oifname "{gw}" counter drop
  }}
}}
"#
        )
    }
}
