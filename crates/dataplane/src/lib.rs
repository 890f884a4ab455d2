//! Network namespaces, links, eBPF programs and maps, nftables.

mod conntrack;
pub mod ebpf;
mod error;
mod gwbridge;
mod hold;
mod hostports;
mod libnftables;
mod meshports;
mod names;
mod netns;
mod nft;
mod node;
mod paths;
mod programs;
mod rawnl;
mod routes;
mod rtnl;
mod sandbox;
mod uplinks;
mod vxlan;
mod wire;
mod xfrm;

pub use self::{
    error::{NetError, NetResult},
    gwbridge::{GWBRIDGE, GwBridge, GwBridgeConfig},
    netns::Netns,
    node::{NodeNetwork, NodeNetworkConfig},
    programs::{ProgramError, Programs},
    routes::routes,
    sandbox::{SandboxState, Sandboxes},
    uplinks::{NodeAddresses, Uplink},
    wire::{GatewayState, LinkState},
};
