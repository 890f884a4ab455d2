//! What to compare with: two containers that have no network of Malha's, only links that are made here by hand.
//!
//! They are containers so that everything else is alike: cgroup and system call filter of the server, and the state of a
//! namespace that the client of both sides enters.

use std::process::Command;

use crate::cluster::{Cluster, IMAGE, output};

const NODE: &str = "node1";
const PORT: &str = "7000";
/// Addresses of the server.
const VETH: &str = "198.18.0.2";
const VXLAN: &str = "198.18.1.2";

pub(crate) struct Pair {
    /// Names of the namespaces: client, server, the underlay between them.
    names: [String; 3],
    /// Process of the server.
    pub(crate) server: String,
}

impl Pair {
    /// Between the two a plain veth pair; and, over an underlay as the cluster's nodes have it (a bridge, a veth pair
    /// each), the kernel's VXLAN with the other's address fixed: no bridge on top, no learning, no flooding.
    pub(crate) fn new(c: &Cluster) -> Self {
        let run = || c.docker(NODE, &["run", "-d", "--network", "none", IMAGE]).trim().to_owned();
        let (client, server) = (run(), run());
        let [client, server] = [client, server].map(|container| c.pid(NODE, &container));
        let names = ["client", "server", "net"].map(|end| format!("malhabench-{}-{end}", std::process::id()));
        let pair = Self { names, server };
        let [a, b, net] = &pair.names;
        ip(&["netns", "attach", a, &client]);
        ip(&["netns", "attach", b, &pair.server]);
        ip(&["netns", "add", net]);
        ip(&["-n", a, "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", b]);
        address(a, "veth0", "198.18.0.1/24");
        address(b, "veth0", &format!("{VETH}/24"));
        ip(&["-n", net, "link", "add", "br0", "type", "bridge", "forward_delay", "0", "stp_state", "0"]);
        ip(&["-n", net, "link", "set", "br0", "up"]);
        for (ns, port, own, other, inner) in
            [(a, "port-a", "198.18.2.1", "198.18.2.2", "198.18.1.1"), (b, "port-b", "198.18.2.2", "198.18.2.1", VXLAN)]
        {
            ip(&["-n", net, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", ns]);
            ip(&["-n", net, "link", "set", port, "master", "br0", "up"]);
            address(ns, "eth0", &format!("{own}/24"));
            let tunnel = ["local", own, "remote", other, "dstport", "4789", "dev", "eth0", "nolearning"];
            let add = ["-n", ns, "link", "add", "vxlan0", "type", "vxlan", "id", "4097"];
            ip(&[&add[..], &tunnel].concat());
            address(ns, "vxlan0", &format!("{inner}/24"));
        }
        pair
    }

    /// The server over the veth pair, from the client's namespace.
    pub(crate) fn over_veth(&self) -> String {
        self.target(VETH)
    }

    /// The server over the VXLAN pair.
    pub(crate) fn over_vxlan(&self) -> String {
        self.target(VXLAN)
    }

    fn target(&self, addr: &str) -> String {
        format!("/run/netns/{}@{addr}:{PORT}", self.names[0])
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn address(ns: &str, link: &str, addr: &str) {
    ip(&["-n", ns, "addr", "add", addr, "dev", link]);
    ip(&["-n", ns, "link", "set", link, "up"]);
}

fn ip(args: &[&str]) {
    output(Command::new("ip").args(args));
}
