//! A published port is the mesh's on every node: others are told so, and who has it already does not stop the mesh.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::support::{Cluster, talk::Place, text, until};

const CREATE: &str = "service create -d -q --no-resolve-image --stop-grace-period 1s --constraint node.hostname==node1";

/// A server on a node that binds as servers do, with `SO_REUSEADDR`.
const SERVER: &str = r#"
    use IO::Socket::IP;
    my ($addr, $port) = @ARGV;
    $s = IO::Socket::IP->new(LocalHost => $addr, LocalPort => $port, Listen => 5, ReuseAddr => 1, V6Only => 1);
    $| = 1; print $s ? "bound\n" : "$!\n"; exit unless $s; sleep 600"#;

/// What it is told where somebody has the port.
const BUSY: [&str; 1] = ["Address already in use"];

struct Server(Child, String);

impl Server {
    fn start(c: &Cluster, node: &str, addr: &str, port: u16) -> Self {
        let netns = c.netns(node);
        let mut child = Command::new("ip")
            .args(["netns", "exec", &netns, "perl", "-e", SERVER, addr, &port.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        Self(child, said.trim().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a server is told that wants the port, on each kind of address.
fn told(c: &Cluster, node: &str, port: u16) -> Vec<String> {
    let mut all: Vec<String> =
        ["0.0.0.0", "127.0.0.1", "::"].iter().map(|a| Server::start(c, node, a, port).1.clone()).collect();
    all.dedup();
    all
}

/// Waits until the mesh holds the port.
fn held(c: &Cluster, node: &str, port: u16) {
    until(Duration::from_secs(30), &format!("{port} held by {node}"), || {
        // who looks has the port meanwhile, and may be in the daemon's way
        std::thread::sleep(Duration::from_secs(1));
        (told(c, node, port) == BUSY).then_some(())
    });
}

/// What a node says of the one port that somebody else has.
fn said_of_7100(c: &Cluster, node: &str, what: &str) -> usize {
    c.log(node).lines().filter(|l| l.contains("7100/tcp") && l.contains(what)).count()
}

/// From outside by either node, and from the node without a task by its loopback and its own address.
fn serves(c: &Cluster, port: u16) {
    let (client, node2) = (Place::client(c), Place::Netns(c.netns("node2")));
    let by = |addr: &str| format!("http://{addr}:{port}/");
    for (from, addr) in [
        (&client, &c.addr("node1")),
        (&client, &c.addr("node2")),
        (&node2, &"127.0.0.1".to_owned()),
        (&node2, &c.addr("node2")),
    ] {
        until(Duration::from_secs(10), &format!("{from:?} to {addr}:{port}"), || from.get(&by(addr)).ok());
    }
}

#[test]
fn a_published_port_is_the_meshs() {
    let c = Cluster::up("held", 2, 1);
    let free = vec!["bound".to_owned()];
    c.d("node1", &format!("{CREATE} --name web -p 7000:3000 hello"));
    c.wait_running("web", 1);
    serves(&c, 7000);
    for node in ["node1", "node2"] {
        held(&c, node, 7000);
    }
    let said = c.refused("node2", &["run", "--rm", "--name", "mine", "-p", "7000:3000", "hello"]);
    let why = "driver failed programming external connectivity on endpoint mine (";
    assert!(said.contains(why) && said.contains("Bind for 0.0.0.0:7000 failed: port is already allocated"), "{said}");

    // Somebody was there before: a process of one node, a container of the other.
    let theirs = Server::start(&c, "node2", "0.0.0.0", 7100);
    assert_eq!(theirs.1, "bound");
    c.no("node2", "run --rm -p 7100:3000 hello", "failed to bind host port 0.0.0.0:7100/tcp: address already in use");
    c.d("node1", "run -d --name first -p 7100:3000 hello");
    c.no("node1", "run --rm -p 7100:3000 hello", "Bind for 0.0.0.0:7100 failed: port is already allocated");
    c.d("node1", "service update -q -d --publish-add 7100:3000 web");
    serves(&c, 7100);
    for node in ["node1", "node2"] {
        until(Duration::from_secs(5), "the log tells of both", || {
            let told = |l: &str| l.contains("WARN") && l.contains("7100/tcp") && l.contains("web");
            c.log(node).lines().any(told).then_some(())
        });
    }
    drop(theirs);
    c.d("node1", "rm -f first");
    for node in ["node1", "node2"] {
        until(Duration::from_secs(20), "held once it is free", || {
            (said_of_7100(&c, node, "the published port is held now") > 0).then_some(())
        });
        assert_eq!(told(&c, node, 7100), BUSY, "{node}");
    }
    let told_of = said_of_7100(&c, "node2", "somebody else on this node has a published port");
    assert_eq!(told_of, 1, "told once");

    // Without its daemon the node forwards as before, and holds nothing.
    c.dev(&["kill", "node2"]);
    serves(&c, 7000);
    assert_eq!(told(&c, "node2", 7000), free);
    c.dev(&["start", "node2"]);
    held(&c, "node2", 7000);

    // Free with the port, and with the service.
    let gone = |port| until(Duration::from_secs(5), "free again", || (told(&c, "node2", port) == free).then_some(()));
    c.d("node1", "service update -q -d --publish-rm 3000 web");
    gone(7000);
    gone(7100);
    c.d("node1", "service update -q -d --publish-add 7000:3000 web");
    serves(&c, 7000);
    held(&c, "node2", 7000);
    assert_eq!(told(&c, "node2", 7100), free);
    c.d("node1", "service rm web");
    gone(7000);
    let said = c.try_exec("node2", &["docker", "run", "-d", "-p", "7000:3000", "-p", "7100:3000", "hello"]);
    assert!(said.status.success(), "{}", text(&said.stderr));
}
