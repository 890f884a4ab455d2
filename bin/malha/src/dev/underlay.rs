//! The private network that the nodes of a development cluster stand on.
//!
//! A bridge in a namespace of its own, a namespace and a veth pair per node and one for an outside client. Nothing of it
//! is visible in the machine's own network. Addresses are `192.168.77.0/24`: nodes from .1, the client .200.

use std::{net::Ipv4Addr, process::Command};

use anyhow::{Context, Result, bail};

use super::layout::Layout;

pub(crate) const CLIENT: &str = "client";
const BRIDGE_NS: &str = "net";

pub(crate) fn node_addr(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 77, u8::try_from(index + 1).unwrap_or(u8::MAX))
}

pub(crate) const CLIENT_ADDR: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 200);

/// Makes whatever of the underlay is missing.
pub(crate) fn ensure(layout: &Layout, nodes: &[(String, Ipv4Addr)]) -> Result<()> {
    let net = layout.netns(BRIDGE_NS);
    if !layout.netns_path(BRIDGE_NS).exists() {
        ip(&["netns", "add", &net])?;
        sysctl_no_ipv6_dad(&net)?;
        ip(&["-n", &net, "link", "set", "lo", "up"])?;
        ip(&["-n", &net, "link", "add", "br0", "type", "bridge", "forward_delay", "0", "stp_state", "0"])?;
        ip(&["-n", &net, "link", "set", "br0", "up"])?;
    }
    for (node, addr) in nodes {
        attach(layout, node, *addr)?;
    }
    attach(layout, CLIENT, CLIENT_ADDR)
}

fn attach(layout: &Layout, who: &str, addr: Ipv4Addr) -> Result<()> {
    if layout.netns_path(who).exists() {
        return Ok(());
    }
    let (net, ns) = (layout.netns(BRIDGE_NS), layout.netns(who));
    ip(&["netns", "add", &ns])?;
    ip(&["-n", &ns, "link", "set", "lo", "up"])?;
    ip(&["-n", &net, "link", "add", who, "type", "veth", "peer", "name", "eth0", "netns", &ns])?;
    ip(&["-n", &net, "link", "set", who, "master", "br0", "up"])?;
    ip(&["-n", &ns, "addr", "add", &format!("{addr}/24"), "dev", "eth0"])?;
    ip(&["-n", &ns, "link", "set", "eth0", "up"])
}

fn sysctl_no_ipv6_dad(ns: &str) -> Result<()> {
    run(Command::new("ip").args(["netns", "exec", ns, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"]))
}

/// Takes a node off the underlay, or puts it back.
pub(crate) fn set_link(layout: &Layout, node: &str, up: bool) -> Result<()> {
    ip(&["-n", &layout.netns(BRIDGE_NS), "link", "set", node, if up { "up" } else { "down" }])
}

/// Removes every namespace of the cluster; links go with them.
pub(crate) fn remove(layout: &Layout) -> Vec<anyhow::Error> {
    let prefix = layout.netns("");
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| n.strip_prefix(&prefix).is_some_and(|rest| !rest.contains('-')))
        .filter_map(|n| ip(&["netns", "del", &n]).err())
        .collect()
}

fn ip(args: &[&str]) -> Result<()> {
    run(Command::new("ip").args(args))
}

fn run(command: &mut Command) -> Result<()> {
    let out = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !out.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}
