//! What a node knows of its own place in the swarm: demoted, removed, with a failed disk, without a quorum.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{
    Cluster,
    machine::{self, Stalls},
    run, text, until,
};

/// `Swarm` of `docker info`.
fn swarm(c: &Cluster, node: &str) -> Value {
    serde_json::from_str(&c.docker(node, &["info", "--format", "{{json .Swarm}}"])).unwrap()
}

fn dir(c: &Cluster, node: &str) -> PathBuf {
    format!("/var/lib/malha/dev/{}/{node}/swarm", c.name).into()
}

/// The role in the node's certificate.
fn certified(c: &Cluster, node: &str) -> String {
    let file = dir(c, node).join("swarm-node.pem");
    let out = run(Command::new("openssl").args(["x509", "-noout", "-subject", "-in", file.to_str().unwrap()]));
    assert!(out.status.success(), "{}", text(&out.stderr));
    let subject = text(&out.stdout);
    let role = subject.split(['=', ',', ' ']).find_map(|part| part.trim().strip_prefix("swarm-"));
    role.unwrap_or_else(|| panic!("{subject}")).to_owned()
}

fn became(c: &Cluster, node: &str, manager: bool) {
    let role = if manager { "manager" } else { "worker" };
    until(Duration::from_secs(30), &format!("{node} to be a {role}"), || {
        let swarm = swarm(c, node);
        let plain = swarm["LocalNodeState"] == "active" && swarm["Error"] == "";
        (plain && swarm["ControlAvailable"] == manager && certified(c, node) == role).then_some(())
    });
}

fn status_of(c: &Cluster, node: &str) -> String {
    let out =
        c.try_exec("node1", &["docker", "node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.ManagerStatus}}"]);
    text(&out.stdout).lines().find_map(|l| l.strip_prefix(&format!("{node} ")).map(str::to_owned)).unwrap_or_default()
}

fn missed(c: &Cluster, node: &str) {
    until(Duration::from_secs(15), &format!("{node} to be missed"), || {
        status_of(c, node).contains("Unreachable").then_some(())
    });
}

/// Demotes a node whose daemon is away, and waits until it is out of the group.
fn demote_away(c: &Cluster, node: &str) {
    c.docker("node1", &["node", "demote", node]);
    until(Duration::from_secs(15), &format!("{node} to have no seat"), || has_no_seat(c, node).then_some(()));
}

/// It is known, and neither reachable nor unreachable as a manager.
fn has_no_seat(c: &Cluster, node: &str) -> bool {
    let status = status_of(c, node);
    !status.is_empty() && !status.contains("able")
}

#[test]
fn demoted_and_removed_nodes_know_it() {
    let c = Cluster::bare("members", 4, 3, &[]);
    let images = crate::support::images();
    c.docker("node4", &["load", "-q", "-i", images.join("alpine.tar").to_str().unwrap()]);
    c.d("node1", "service create -q -d --no-resolve-image --name s --constraint node.hostname==node4 alpine sleep 1d");
    let task = c.wait_running("s", 1).remove(0);

    c.d("node1", "node demote node2");
    became(&c, "node2", false);
    c.no("node2", "node ls", "This node is not a swarm manager. Worker nodes can't be used");
    c.d("node1", "node promote node2");
    became(&c, "node2", true);
    // and once more while it is away: it comes back with the log of its first seat
    c.dev(&["kill", "node2"]);
    missed(&c, "node2");
    demote_away(&c, "node2");
    c.d("node1", "node promote node2");
    c.dev(&["start", "node2"]);
    until(Duration::from_secs(30), "node2 to have a seat again", || {
        status_of(&c, "node2").contains("Reachable").then_some(())
    });
    became(&c, "node2", true);

    // while it is away
    c.dev(&["kill", "node3"]);
    missed(&c, "node3");
    demote_away(&c, "node3");
    c.dev(&["start", "node3"]);
    became(&c, "node3", false);

    // removed while it is there: its containers run on until it leaves
    c.d("node1", "node rm --force node4");
    let gone = until(Duration::from_secs(15), "node4 to know that it was removed", || {
        let swarm = swarm(&c, "node4");
        (swarm["LocalNodeState"] == "error").then_some(swarm)
    });
    let why = gone["Error"].as_str().unwrap();
    assert!(why.starts_with("rpc error: code = PermissionDenied desc = ") && why.ends_with(" was removed from swarm"));
    assert!(c.docker("node4", &["info"]).contains("Swarm: error"));
    assert!(c.d("node4", "ps -q --no-trunc").contains(&task.container));
    // removed while it is away: it says so after its start, too
    c.dev(&["kill", "node3"]);
    c.d("node1", "node rm --force node3");
    c.dev(&["start", "node3"]);
    until(Duration::from_secs(15), "node3 to know that it was removed", || {
        (swarm(&c, "node3")["LocalNodeState"] == "error").then_some(())
    });

    let addr = format!("{}:2377", c.addr("node1"));
    for (node, role) in [("node3", "manager"), ("node4", "worker")] {
        c.d(node, "swarm leave --force");
        assert_eq!(swarm(&c, node)["LocalNodeState"], "inactive");
        assert_eq!(c.d(node, "ps -aq"), "");
        let token = c.d("node1", &format!("swarm join-token -q {role}"));
        c.d(node, &format!("swarm join --token {} {addr}", token.trim()));
        became(&c, node, role == "manager");
    }
    c.wait_running("s", 1);
}

#[test]
fn a_manager_that_leaves_keeps_no_seat() {
    let c = Cluster::bare("leaves", 3, 3, &[]);
    let images = crate::support::images();
    c.docker("node3", &["load", "-q", "-i", images.join("alpine.tar").to_str().unwrap()]);
    // does not hear the stop signal: the node takes ten seconds to leave
    c.d("node1", "service create -q -d --no-resolve-image --name s --constraint node.hostname==node3 alpine sleep 1d");
    c.wait_running("s", 1);
    c.d("node3", "swarm leave --force");
    assert_eq!(swarm(&c, "node1")["Managers"], 2);
    assert!(has_no_seat(&c, "node3"), "{}", status_of(&c, "node3"));

    // and it comes back through one that most likely does not lead
    let (token, addr) = (c.d("node1", "swarm join-token -q manager"), format!("{}:2377", c.addr("node2")));
    c.d("node3", &format!("swarm join --token {} {addr}", token.trim()));
    became(&c, "node3", true);
}

/// Nobody may write the file until this is dropped: the disk of a manager that fails.
struct Immutable(PathBuf);

impl Immutable {
    fn new(file: PathBuf) -> Self {
        Self::set("+i", &file);
        Self(file)
    }

    fn set(flag: &str, file: &std::path::Path) {
        assert!(run(Command::new("chattr").arg(flag).arg(file)).status.success(), "chattr {flag} {}", file.display());
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        Self::set("-i", &self.0);
    }
}

#[test]
fn a_manager_whose_disk_fails_says_so_and_returns_with_the_disk() {
    let c = Cluster::bare("faildisk", 2, 1, &[]);
    let images = crate::support::images();
    c.docker("node1", &["load", "-q", "-i", images.join("alpine.tar").to_str().unwrap()]);
    c.d("node1", "service create -q -d --no-resolve-image --name s --constraint node.hostname==node1 alpine sleep 1d");
    let task = c.wait_running("s", 1).remove(0);

    let broken = Immutable::new(dir(&c, "node1").join("raft/log.redb"));
    let said = c.refused("node1", &["network", "create", "-d", "overlay", "lost"]);
    assert!(said.contains("log.redb"), "{said}");
    until(Duration::from_secs(10), "the node to say that its disk failed", || {
        let swarm = swarm(&c, "node1");
        let told = swarm["Error"].as_str().is_some_and(|e| e.contains("log.redb"));
        (swarm["LocalNodeState"] == "error" && told).then_some(())
    });
    c.no("node1", "node ls", "this node's manager has stopped");
    c.no("node1", "swarm leave", "Use `--force`");
    assert!(c.d("node1", "ps -q --no-trunc").contains(&task.container), "containers run on");

    // also a daemon that starts on such a disk takes its containers over and can be asked
    c.dev(&["kill", "node1"]);
    c.dev(&["start", "node1"]);
    assert_eq!(swarm(&c, "node1")["LocalNodeState"], "error");
    assert!(c.d("node1", "ps -q --no-trunc").contains(&task.container));

    drop(broken);
    until(Duration::from_secs(40), "the manager to run again", || {
        (swarm(&c, "node1")["Error"] == "" && status_of(&c, "node2").starts_with("Ready")).then_some(())
    });
    c.d("node1", "network create -d overlay found");
    assert_eq!(c.wait_running("s", 1)[0].container, task.container);
}

#[test]
fn without_a_quorum_docker_info_answers_at_once() {
    let _machine = machine::alone();
    let c = Cluster::bare("noquorum", 3, 3, &[]);
    for node in ["node2", "node3"] {
        c.dev(&["kill", node]);
    }
    let why = "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers \
               are online. Make sure more than half of the managers are online.";
    until(Duration::from_secs(15), "the leader to miss its quorum", || {
        (swarm(&c, "node1")["Error"] == why).then_some(())
    });
    let ask = || {
        let (start, stalls) = (Instant::now(), Stalls::watch());
        let swarm = swarm(&c, "node1");
        let took = start.elapsed().saturating_sub(stalls.lost());
        assert_eq!((swarm["LocalNodeState"].as_str(), swarm["Error"].as_str()), (Some("active"), Some(why)));
        took
    };
    let took = [ask(), ask(), ask()];
    assert!(took.iter().any(|t| *t < Duration::from_secs(1)), "{took:?}");
    for node in ["node2", "node3"] {
        c.dev(&["start", node]);
    }
    until(Duration::from_secs(15), "the quorum", || (swarm(&c, "node1")["Managers"] == 3).then_some(()));
}
