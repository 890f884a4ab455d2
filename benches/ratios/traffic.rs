//! TCP between containers, to a virtual IP, and to a published port.

use std::time::Duration;

use crate::{
    cluster::{Cluster, IMAGE, NODES, until},
    pairs::Pair,
    report::{Floor, Report},
    rounds::Rounds,
    versus::{CONNECTIONS, EXCHANGES, THROUGHPUT, Versus},
};

const NETWORK: &str = "lab-net";
const PORT: &str = "7000";
const PUBLISHED: &str = "7000";
/// Of a server on `--network host`.
const DIRECT: &str = "7001";

/// Services that the measurements share: a server on node1, one on node2 that is published, a place to measure from on
/// every node, and ten tasks to be named.
pub(crate) struct Lab {
    /// On node1.
    pub(crate) container: String,
    near: Server,
    far: Server,
}

/// A service of one task.
struct Server {
    pid: String,
    task: String,
    vip: String,
}

impl Lab {
    pub(crate) fn new(c: &Cluster) -> Self {
        c.docker("node1", &["network", "create", "-d", "overlay", NETWORK]);
        let publish = format!("{PUBLISHED}:{PORT}");
        let dns = c.client().0;
        let services: [(&str, &[&str]); 4] = [
            ("near", &["--constraint", "node.hostname==node1"]),
            ("far", &["--constraint", "node.hostname==node2", "--publish", &publish]),
            ("lab", &["--mode", "global", "--dns", dns]),
            ("ten", &["--replicas", "10"]),
        ];
        for (name, options) in services {
            let mut args = vec!["service", "create", "-d", "-q", "--name", name, "--network", NETWORK];
            args.extend(options);
            args.push(IMAGE);
            c.docker("node1", &args);
        }
        for (name, count) in [("near", 1), ("far", 1), ("lab", NODES.len()), ("ten", 10)] {
            until(Duration::from_secs(60), name, || (c.tasks(name).len() == count).then_some(()));
        }
        let server = |node: &str, service: &str| {
            let container = c.container(node, service);
            Server {
                pid: c.pid(node, &container),
                task: format!("{}:{PORT}", c.address(node, &container, NETWORK)),
                vip: format!("{}:{PORT}", vip(c, service)),
            }
        };
        Self { container: c.container("node1", "lab"), near: server("node1", "near"), far: server("node2", "far") }
    }
}

fn vip(c: &Cluster, service: &str) -> String {
    let id = c.docker("node1", &["network", "inspect", NETWORK, "--format", "{{.ID}}"]);
    let format = "{{range .Endpoint.VirtualIPs}}{{.NetworkID}} {{.Addr}}\n{{end}}";
    let list = c.docker("node1", &["service", "inspect", service, "--format", format]);
    let addr = list.lines().find_map(|l| l.strip_prefix(id.trim())).unwrap_or_else(|| panic!("no VIP: {list}"));
    addr.trim().split('/').next().unwrap_or_default().to_owned()
}

pub(crate) fn run(c: &Cluster, lab: &Lab, rounds: &Rounds, report: &mut Report) {
    links(c, lab, rounds, report);
    virtual_addresses(c, lab, rounds, report);
    published(c, lab, rounds, report);
}

/// The client is one process in the cgroups of a container; its sockets are in that container's network and in the pair's.
fn links(c: &Cluster, lab: &Lab, rounds: &Rounds, report: &mut Report) {
    let pair = Pair::new(c);
    let here = c.pid("node1", &lab.container);
    let client = |args: &[&str]| c.beside(&here, args);
    let ours = |server: &Server| format!("/proc/{here}/ns/net@{}", server.task);
    let (near, far, veth, vxlan) = (ours(&lab.near), ours(&lab.far), pair.over_veth(), pair.over_vxlan());
    for (title, ours, server, base, floor) in [
        ("Same node, against a bare veth pair", &near, &lab.near.pid, &veth, Floor::AtLeast(0.95)),
        ("Across nodes, against a plain VXLAN pair", &far, &lab.far.pid, &vxlan, Floor::AtLeast(0.95)),
        ("Across nodes, against the bare veth pair", &far, &lab.far.pid, &veth, Floor::None),
    ] {
        let kinds = [(THROUGHPUT, floor), (EXCHANGES, floor)];
        Versus { title, targets: [ours, base], servers: &[server, &pair.server], client: &client, kinds: &kinds }
            .run(rounds, report);
    }
}

/// By `docker exec`: a virtual IP is translated in the container's cgroup.
fn virtual_addresses(c: &Cluster, lab: &Lab, rounds: &Rounds, report: &mut Report) {
    let client = |args: &[&str]| c.inside(("node1", &lab.container), args);
    let [near, far] = [&lab.near, &lab.far];
    let held = Floor::AtLeast(0.97);
    for (title, server, ours, floor) in [
        ("Virtual IP against the task's address, same node", near, &near.vip, held),
        ("Virtual IP against the task's address, across nodes", far, &far.vip, held),
        ("The measure itself: the task's address against the same, same node", near, &near.task, Floor::None),
    ] {
        let kinds = [THROUGHPUT, EXCHANGES, CONNECTIONS].map(|kind| (kind, floor));
        Versus { title, targets: [ours, &server.task], servers: &[&server.pid], client: &client, kinds: &kinds }
            .run(rounds, report);
    }
}

/// From outside, where the task is on node2.
fn published(c: &Cluster, lab: &Lab, rounds: &Rounds, report: &mut Report) {
    let client = |args: &[&str]| c.in_netns(c.client().1, args);
    let direct = c.docker("node2", &["run", "-d", "--network", "host", IMAGE, "netload", "serve", DIRECT]);
    let direct = c.pid("node2", direct.trim());
    let base = format!("{}:{DIRECT}", c.addr("node2"));
    for (title, node, floor) in [
        (
            "Published, node without a task, against a server in the other node's own network",
            "node3",
            Floor::AtLeast(0.6),
        ),
        ("Published, the task's node, against a server in that node's own network", "node2", Floor::None),
    ] {
        let ours = format!("{}:{PUBLISHED}", c.addr(node));
        let kinds = [(CONNECTIONS, floor), (THROUGHPUT, Floor::None)];
        Versus { title, targets: [&ours, &base], servers: &[&lab.far.pid, &direct], client: &client, kinds: &kinds }
            .run(rounds, report);
    }
}
