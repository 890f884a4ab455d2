//! What the kernel programs are told by the part that makes links and namespaces.
//!
//! A trait between the two, so that each is tested against the kernel without the other.

use std::{collections::BTreeMap, net::IpAddr};

use malha_netplan::{NetPlan, SandboxId};

use crate::{ebpf::NodePath, sandbox::SandboxState, uplinks::NodeAddresses, wire::LinkState};

/// Why the programs could not be attached or told.
pub type ProgramError = Box<dyn std::error::Error + Send + Sync>;

/// The packet and socket programs of one node. All calls are idempotent.
pub trait Programs: Send + Sync + 'static {
    /// The maps are to hold this, and nothing else.
    fn apply(&self, plan: &NetPlan) -> Result<(), ProgramError>;
    /// Called before the link is up, so that no packet passes unseen; and again for a link that was adopted.
    fn attach_link(&self, sandbox: &SandboxId, link: &LinkState) -> Result<(), ProgramError>;
    /// Called before the link is deleted.
    fn detach_link(&self, host_ifname: &str, host_ifindex: u32) -> Result<(), ProgramError>;
    /// The networks that sockets of this sandbox are on. Called before its first process starts.
    fn set_scope(&self, sandbox: &SandboxState) -> Result<(), ProgramError>;
    /// Where the resolver of this sandbox listens, of which its sockets know as `127.0.0.11:53`.
    fn set_resolver(&self, cookie: u64, udp: u16, tcp: u16) -> Result<(), ProgramError>;
    /// The namespace of this cookie is gone.
    fn clear_scope(&self, cookie: u64) -> Result<(), ProgramError>;
    /// Namespaces that have a scope, by cookie: those of containers that ended while nobody looked are to be cleared.
    fn scopes(&self) -> Vec<u64>;
    /// The node's addresses and the interfaces that traffic for published ports comes in by. The tunnel device exists.
    fn set_node(&self, node: &NodeAddresses) -> Result<(), ProgramError>;
    /// The other nodes of the last plan, by their tunnel addresses.
    fn remotes(&self) -> Vec<IpAddr>;
    /// How they are reached, as far as packets may go past the kernel's own tunnel. Repeated at least every ten seconds.
    fn set_paths(&self, paths: &BTreeMap<IpAddr, NodePath>) -> Result<(), ProgramError>;
    /// Called now and then: forget what is over.
    fn sweep(&self) -> Result<(), ProgramError>;
    /// Removes everything, pins included: the node leaves the swarm.
    fn teardown(&self) -> Result<(), ProgramError>;
}
