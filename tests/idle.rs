//! An idle connection outlives every timer: nothing of a VIP or of a published port lives in connection tracking.

use std::time::{Duration, Instant};

use crate::support::{
    Cluster,
    talk::{Place, Talk},
    until,
};

const NODES: [&str; 3] = ["node1", "node2", "node3"];
/// Connection tracking forgets after this…
const TIMEOUT: &str = "2";
/// …and this is well beyond it.
const IDLE: Duration = Duration::from_secs(15);

/// Makes connection tracking of a node forget quickly.
fn shorten_timeouts(c: &Cluster, node: &str) {
    let script = format!(
        "cd /proc/sys/net/netfilter; for t in nf_conntrack_*timeout*; do echo {TIMEOUT} >$t || exit 1; done; \
         cat nf_conntrack_tcp_timeout_established"
    );
    assert_eq!(c.exec(node, &["sh", "-c", &script]).trim(), TIMEOUT);
}

#[test]
fn idle_connections_outlive_connection_tracking() {
    let c = Cluster::up("idle", 3, 1);
    c.docker("node1", &["network", "create", "-d", "overlay", "net"]);
    let create = |args: &[&str]| {
        c.docker("node1", &[&["service", "create", "-q", "--detach", "--network", "net"], args].concat());
    };
    let serve = ["alpine", "nc", "-ll", "-p", "7000", "-e", "cat"];
    create(&[&["--name", "echo", "--constraint", "node.hostname==node3", "-p", "7000:7000"][..], &serve].concat());
    create(&["--name", "cli", "--mode", "global", "alpine", "sleep", "1h"]);
    c.wait_running("echo", 1);
    let clients = c.wait_running("cli", 3);
    let format = "{{range .Endpoint.VirtualIPs}}{{.Addr}} {{end}}";
    let vips = c.docker("node1", &["service", "inspect", "-f", format, "echo"]);
    let vip = vips.split_whitespace().find_map(|a| a.strip_suffix("/24").filter(|a| a.starts_with("10.0.1."))).unwrap();
    for node in NODES {
        shorten_timeouts(&c, node);
    }

    let outside = Place::client(&c);
    let mut talks = Vec::new();
    let mut open = |what: String, place: Place, addr: &str| {
        until(Duration::from_secs(5), &what, || place.connects(addr, 7000).then_some(()));
        talks.push((what, Talk::open(&place, addr, 7000)));
    };
    for client in &clients {
        open(format!("VIP from a task on {}", client.node), Place::task(client), vip);
    }
    for node in NODES {
        let task = if node == "node3" { "a" } else { "no" };
        open(format!("published port of {node} with {task} task"), outside.clone(), &c.addr(node));
        open(format!("published port of {node}, from itself"), Place::Netns(c.netns(node)), &c.addr(node));
    }

    let opened = Instant::now();
    std::thread::sleep(IDLE);
    let lost: Vec<&String> =
        talks.iter_mut().filter_map(|(what, t)| (!t.answers("still there")).then_some(&*what)).collect();
    assert!(lost.is_empty(), "lost after {:?} of silence: {lost:#?}", opened.elapsed());
    eprintln!(
        "{} connections answer after {IDLE:?} of silence; connection tracking forgets after {TIMEOUT} s",
        talks.len()
    );
}
