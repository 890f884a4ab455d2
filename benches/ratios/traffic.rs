//! TCP between containers, to a virtual IP, and to a published port.

use std::time::Duration;

use crate::{
    cluster::{Cluster, IMAGE, NODES, until},
    pairs::Pair,
    report::{Floor, Report, bits, per_second},
    rounds::{Load, Rounds, load},
};

const NETWORK: &str = "lab-net";
const PORT: &str = "7000";
const PUBLISHED: &str = "7000";
/// Of a server on `--network host`.
const DIRECT: &str = "7001";

/// Mode of the load tool, its name, how its figure is written.
type Kind = (&'static str, &'static str, fn(f64) -> String);
/// Title, target, what it is held against, floor.
type Comparison<'a> = (&'a str, &'a str, &'a dyn Fn(&str) -> Load, Floor);

/// Services that the measurements share: a server on node1, one on node2 that is published, a place to measure from on
/// every node, and ten tasks to be named.
pub(crate) struct Lab {
    /// On node1.
    pub(crate) container: String,
    near: String,
    near_vip: String,
    far: String,
    far_vip: String,
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
        let target = |node: &str, service: &str| {
            let address = c.address(node, &c.container(node, service), NETWORK);
            (format!("{address}:{PORT}"), format!("{}:{PORT}", vip(c, service)))
        };
        let (near, near_vip) = target("node1", "near");
        let (far, far_vip) = target("node2", "far");
        Self { container: c.container("node1", "lab"), near, near_vip, far, far_vip }
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
    let secs = &rounds.secs.to_string();
    let from_lab = |kind: &str, target: &str| load(&mut c.inside(("node1", &lab.container), &[kind, target, secs]));

    let kinds: [Kind; 3] = [
        ("stream", "throughput", bits),
        ("rr", "request/response", per_second),
        ("crr", "new connections", per_second),
    ];
    let pair = Pair::new(c);
    let over_veth = |kind: &str| load(&mut pair.over_veth(c, kind, secs));
    let over_vxlan = |kind: &str| load(&mut pair.over_vxlan(c, kind, secs));
    let comparisons: [Comparison<'_>; 3] = [
        ("Same node, against a bare veth pair", &lab.near, &over_veth, Floor::AtLeast(0.95)),
        ("Across nodes, against a plain VXLAN pair", &lab.far, &over_vxlan, Floor::AtLeast(0.95)),
        ("Across nodes, against the bare veth pair", &lab.far, &over_veth, Floor::None),
    ];
    for (title, target, base, floor) in comparisons {
        report.section(title);
        for (kind, name, unit) in &kinds[..2] {
            let compared = rounds.rates(|| from_lab(kind, target), || base(kind));
            report.compared(name, &compared, *unit, floor);
        }
    }
    for (title, vip, target) in [
        ("Virtual IP against the task's address, same node", &lab.near_vip, &lab.near),
        ("Virtual IP against the task's address, across nodes", &lab.far_vip, &lab.far),
    ] {
        report.section(title);
        for (kind, name, unit) in &kinds {
            let compared = rounds.rates(|| from_lab(kind, vip), || from_lab(kind, target));
            report.compared(name, &compared, *unit, Floor::AtLeast(0.97));
        }
    }
    published(c, rounds, report);
}

/// From outside, where the task is on node2.
fn published(c: &Cluster, rounds: &Rounds, report: &mut Report) {
    let secs = &rounds.secs.to_string();
    let from_client = |kind: &str, node: &str, port: &str| -> Load {
        load(&mut c.in_netns(c.client().1, &[kind, &format!("{}:{port}", c.addr(node)), secs]))
    };
    c.docker("node2", &["run", "-d", "--network", "host", IMAGE, "netload", "serve", DIRECT]);
    report.section("Published port from outside, against a server in the node's own network");
    for (what, node, floor) in [
        ("through a node without a task", "node3", Floor::AtLeast(0.6)),
        ("through the task's node", "node2", Floor::None),
    ] {
        for (kind, name, unit, floor) in [
            ("crr", "new connections", per_second as fn(f64) -> String, floor),
            ("stream", "throughput", bits, Floor::None),
        ] {
            let compared = rounds.rates(|| from_client(kind, node, PUBLISHED), || from_client(kind, "node2", DIRECT));
            report.compared(&format!("{name}, {what}"), &compared, unit, floor);
        }
    }
}
