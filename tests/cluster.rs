//! A swarm's life with the stock CLI: init, tokens, joining and leaving, nodes and their roles.

use std::time::Duration;

use crate::support::{Cluster, text, until};

const NOT_MANAGER: &str =
    "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect";
const WORKER: &str = "Worker nodes can't be used to view or modify cluster state";
const ALREADY: &str = "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm";

fn token(c: &Cluster, node: &str, role: &str) -> String {
    c.d(node, &format!("swarm join-token -q {role}")).trim().to_owned()
}

fn node_line(c: &Cluster, node: &str, name: &str) -> String {
    let list = c.d(node, "node ls --format {{.Hostname}}/{{.Status}}/{{.Availability}}/{{.ManagerStatus}}");
    list.lines().filter(|l| l.starts_with(name)).map(str::to_owned).collect::<Vec<_>>().join(" ")
}

fn wait_line(c: &Cluster, name: &str, line: &str) {
    until(Duration::from_secs(20), line, || (node_line(c, "node1", name) == line).then_some(()));
}

#[test]
fn nodes_come_and_go() {
    let c = Cluster::bare("clus", 3, 1, &["--no-swarm"]);
    before_a_swarm(&c);
    let addr = c.addr("node1");
    let underlay = format!("{}.0/24", addr.rsplit_once('.').unwrap().0);
    let why = format!("default address pool {underlay} lies in the route {underlay} (eth0) of this node");
    c.no("node1", &format!("swarm init --default-addr-pool 10.20.0.0/16 --default-addr-pool {underlay}"), &why);
    c.no("node1", "swarm init --cert-expiry 10m", "minimum certificate expiry time is: 1h0m0s");
    let made = c.d("node1", "swarm init --default-addr-pool 10.20.0.0/16 --default-addr-pool-mask-length 26");
    assert!(made.contains("is now a manager") && made.contains(&format!("{addr}:2377")), "{made}");
    c.no("node1", "swarm init", ALREADY);
    let ingress = c.d("node1", "network inspect ingress --format {{.IPAM.Config|json}}");
    assert!(ingress.contains("10.20.0.0/26"), "{ingress}");

    tokens(&c, &addr);
    nodes(&c);
    managers(&c, &addr);
    settings(&c);
    leaving(&c);
}

fn before_a_swarm(c: &Cluster) {
    for line in ["node ls", "service ls", "swarm join-token worker", "network create -d overlay x"] {
        c.no("node1", line, NOT_MANAGER);
    }
    c.no("node1", "swarm leave", "This node is not part of a swarm");
    assert_eq!(c.d("node1", "info --format {{.Swarm.LocalNodeState}}").trim(), "inactive");
}

fn tokens(c: &Cluster, addr: &str) {
    let worker = token(c, "node1", "worker");
    let wrong = format!("{}aaaa", &worker[..worker.len() - 4]);
    c.no("node2", &format!("swarm join --token {wrong} {addr}:2377"), "A valid join token is necessary to join");
    c.no("node2", &format!("swarm join --token garbage {addr}:2377"), "invalid join token");
    // As if another cluster had given it: the digest of its certificate is another.
    let mut foreign = worker.clone();
    foreign.replace_range(12..16, if &worker[12..16] == "0000" { "1111" } else { "0000" });
    c.no("node2", &format!("swarm join --token {foreign} {addr}:2377"), "remote CA does not match fingerprint");
    assert_eq!(c.d("node2", "info --format {{.Swarm.LocalNodeState}}").trim(), "inactive");

    let rotated = c.d("node1", "swarm join-token --rotate worker");
    assert!(rotated.contains("Successfully rotated worker join token."), "{rotated}");
    c.no("node2", &format!("swarm join --token {worker} {addr}:2377"), "A valid join token is necessary to join");
    let worker = token(c, "node1", "worker");
    for node in ["node2", "node3"] {
        let joined = c.d(node, &format!("swarm join --token {worker} {addr}:2377"));
        assert!(joined.contains("This node joined a swarm as a worker."), "{joined}");
        c.no(node, &format!("swarm join --token {worker} {addr}:2377"), ALREADY);
    }
    for line in ["node ls", "swarm join-token worker", "service ls", "node inspect self"] {
        c.no("node2", line, WORKER);
    }
}

fn nodes(c: &Cluster) {
    wait_line(c, "node1", "node1/Ready/Active/Leader");
    wait_line(c, "node2", "node2/Ready/Active/");
    let pretty = c.d("node1", "node inspect --pretty self");
    for part in
        ["State:\t\t\tReady", "Availability:         \tActive", "Leader:\t\tYes", "Architecture:\t\tx86_64", "overlay"]
    {
        assert!(pretty.contains(part), "{part:?} in {pretty}");
    }
    c.d("node1", "node update --label-add zone=a --label-add z node3");
    assert_eq!(c.d("node1", "node inspect --format {{.Spec.Labels|json}} node3").trim(), r#"{"z":"","zone":"a"}"#);
    let id = c.d("node1", "node inspect --format {{.ID}} node3");
    assert_eq!(c.d("node1", "node ls -q --filter node.label=zone=a"), id);
    assert_eq!(c.d("node1", "node ls -q --filter name=node3"), id);
    assert_eq!(c.d("node1", "node ls -q --filter role=worker").lines().count(), 2);
    assert_eq!(c.d("node1", "node ls -q --filter role=manager").lines().count(), 1);
    c.no("node1", "node ls --filter foo=bar", "invalid filter 'foo'");
    c.no("node1", "node inspect nosuch", "node nosuch not found");
    c.no("node1", "node update --availability foo node3", "invalid Availability: \"foo\"");
    c.no("node1", "node rm node3", "is not down and can't be removed");
    c.no("node1", "node rm node1", "is a cluster manager and is a member of the raft cluster. It must be demoted");
    c.no("node1", "node demote node1", "attempting to demote the last manager of the swarm");
    for availability in ["Pause", "Drain", "Active"] {
        c.d("node1", &format!("node update --availability {} node3", availability.to_lowercase()));
        wait_line(c, "node3", &format!("node3/Ready/{availability}/"));
    }
    assert!(c.d("node1", "node ps").starts_with("ID"));
}

fn managers(c: &Cluster, addr: &str) {
    assert!(c.d("node1", "node promote node2").contains("Node node2 promoted to a manager in the swarm."));
    wait_line(c, "node2", "node2/Ready/Active/Reachable");
    until(Duration::from_secs(15), "the new manager answers", || {
        c.try_exec("node2", &["docker", "node", "ls"]).status.success().then_some(())
    });
    let warnings = c.d("node1", "info --format {{.Swarm.Warnings|json}}");
    assert!(warnings.contains("two-manager configuration"), "{warnings}");
    c.no("node1", "swarm leave", "Removing this node leaves 1 managers out of 2.");
    assert!(c.d("node1", "node promote node2").contains("is already a manager."));
    // Written through the one, read through the other.
    c.d("node2", "node update --label-add via=node2 node3");
    assert!(c.d("node1", "node inspect --format {{.Spec.Labels|json}} node3").contains("\"via\":\"node2\""));
    assert!(c.d("node2", "node demote node2").contains("Manager node2 demoted in the swarm."));
    wait_line(c, "node2", "node2/Ready/Active/");
    until(Duration::from_secs(15), "the former manager is a worker", || {
        text(&c.try_exec("node2", &["docker", "node", "ls"]).stderr).contains(WORKER).then_some(())
    });
    assert!(c.d("node1", "node demote node2").contains("is already a worker."));
    c.no("node1", "swarm leave", "Removing the last manager erases all current state of the swarm.");

    // Straight in as a manager, with the manager's token.
    let old = c.d("node1", "node ls -q --filter name=node3").trim().to_owned();
    c.d("node3", "swarm leave");
    until(Duration::from_secs(20), "the node that left may be removed", || {
        c.try_exec("node1", &["docker", "node", "rm", &old]).status.success().then_some(())
    });
    let manager = token(c, "node1", "manager");
    let joined = c.d("node3", &format!("swarm join --token {manager} {addr}:2377"));
    assert!(joined.contains("This node joined a swarm as a manager."), "{joined}");
    assert!(c.d("node3", "node ls").contains("Leader"));
    c.d("node1", "node demote node3");
    until(Duration::from_secs(20), "one manager", || {
        (c.d("node1", "info --format {{.Swarm.Managers}}").trim() == "1").then_some(())
    });
}

fn settings(c: &Cluster) {
    c.d("node1", "swarm update --task-history-limit 2 --cert-expiry 720h --dispatcher-heartbeat 3s");
    let info = c.d("node1", "info");
    for part in
        ["Task History Retention Limit: 2", "Heartbeat Period: 3 seconds", "Expiry Duration: 4 weeks", "SubnetSize: 26"]
    {
        assert!(info.contains(part), "{part:?} in {info}");
    }
    c.no("node1", "swarm update --cert-expiry 1m", "minimum certificate expiry time is: 1h0m0s");
    c.no("node1", "swarm update --autolock=true", "locking managers (--autolock) is not supported");
    c.no("node1", "swarm ca --rotate -d", "rotating the root certificate");
    assert!(c.d("node1", "swarm ca").starts_with("-----BEGIN CERTIFICATE-----"));
    let version = c.d("node1", "version --format {{.Server.APIVersion}}");
    assert_eq!(version.trim(), "1.50");
}

fn leaving(c: &Cluster) {
    c.d("node2", "swarm leave");
    until(Duration::from_secs(20), "the node is down", || {
        node_line(c, "node1", "node2").contains("node2/Down/Active/").then_some(())
    });
    let down = c.d("node1", "node ls -q --filter name=node2");
    c.d("node1", &format!("node rm {}", down.trim()));
    assert_eq!(node_line(c, "node1", "node2"), "");
    c.d("node1", "swarm leave --force");
    assert_eq!(c.d("node1", "info --format {{.Swarm.LocalNodeState}}").trim(), "inactive");
    let names = c.d("node1", "network ls --format {{.Name}}");
    assert!(!names.contains("ingress"), "{names}");
    // And once more from nothing.
    c.d("node1", "swarm init");
    wait_line(c, "node1", "node1/Ready/Active/Leader");
}
