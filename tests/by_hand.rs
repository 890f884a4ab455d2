//! Nodes as on real machines: `malha daemon` with flags on each, joined by the docker CLI alone.
//!
//! Two swarms on one network: tokens and certificates of the one are real, and strange to the other.

use std::{process::Command, time::Duration};

use crate::support::{images, machines::Machines, run, text, until};

const A1: &str = "192.168.88.1";
const B1: &str = "192.168.88.3";

fn token(m: &Machines, machine: &str, role: &str) -> String {
    m.d(machine, &format!("swarm join-token -q {role}")).trim().to_owned()
}

#[test]
fn machines_become_a_swarm_by_hand() {
    let mut m = Machines::new("hand", &[("a1", A1), ("a2", "192.168.88.2"), ("b1", B1), ("out", "192.168.88.9")]);
    start(&mut m);
    bridges_of_the_user(&m);
    let worker = swarms(&m);
    strangers(&m);
    tokens(&m, &worker);
    serves(&m);
    daemons_end_and_return(&mut m);
    leaving(&mut m);
}

/// As docs/configuration.md has it: flags on one, a file on the other, one containerd found and the others started.
fn start(m: &mut Machines) {
    m.start("a1", &["--label", "disk=fast", "--default-advertise-addr", "eth0", "--log-level", "debug"]);
    let file = m.dir("a2").join("daemon.json");
    std::fs::write(&file, r#"{"labels": ["disk=slow"], "insecure-registries": ["192.168.88.0/24"]}"#).unwrap();
    let containerd = m.dir("a1").join("containerd/containerd.sock");
    m.start("a2", &["--config-file", file.to_str().unwrap(), "--containerd", containerd.to_str().unwrap()]);
    m.start("b1", &[]);
    assert_eq!(m.d("a1", "info --format {{.Labels}}").trim(), "[disk=fast]");
    assert!(m.d("a2", "info").contains("192.168.88.0/24"));
    assert!(!m.dir("a2").join("containerd").exists(), "the containerd that was named is the one in use");

    // A second daemon on the same disk, and flags that cannot be meant.
    for (flags, why) in [
        (&[][..], "is in use by another malha daemon"),
        (&["--log-level", "loud"], "log-level \"loud\""),
        (&["--host", "tcp://127.0.0.1:2375"], "tcp without client certificates"),
        (&["--registry-mirror", "mirror:5000"], "registry-mirrors: invalid mirror: no scheme specified"),
        (&["--insecure-registry", "http://reg:5000"], "insecure registry http://reg:5000 should not contain '://'"),
    ] {
        let out = run(&mut m.daemon("a1", flags));
        let said = text(&out.stderr);
        assert!(out.status.code() == Some(1) && said.contains(why), "{flags:?}: {:?} {said}", out.status);
    }
}

/// `docker_gwbridge` as Docker documents it: made before the node joins a swarm, by the CLI or as a device.
fn bridges_of_the_user(m: &Machines) {
    let create = "network create --subnet 10.11.0.0/16 --label mine
        --opt com.docker.network.bridge.name=docker_gwbridge --opt com.docker.network.bridge.enable_icc=false
        --opt com.docker.network.bridge.enable_ip_masquerade=true --opt com.docker.network.driver.mtu=1400";
    m.no("a1", "network create -d bridge own", "is not supported by this version of Malha");
    m.no("a1", "network create --opt com.docker.network.bridge.enable_icc=true docker_gwbridge", "enable_icc=true");
    // Made, looked at, removed, and made as it is to stay.
    m.d("a1", "network create --subnet 10.10.0.0/16 docker_gwbridge");
    m.no("a1", "network create docker_gwbridge", "network with name docker_gwbridge already exists");
    assert!(m.sh("a1", "ip -4 addr show docker_gwbridge").contains("10.10.0.1/16"));
    m.d("a1", "network rm docker_gwbridge");
    assert!(!m.d("a1", "network ls").contains("docker_gwbridge"));
    let id = m.d("a1", &format!("{create} docker_gwbridge"));
    let shown = m.d("a1", "network inspect docker_gwbridge --format {{.Id}}/{{.IPAM.Config|json}}/{{.Labels|json}}");
    assert!(shown.starts_with(id.trim()) && shown.contains("\"Subnet\":\"10.11.0.0/16\""), "{shown}");
    assert!(shown.contains(r#"{"mine":""}"#), "{shown}");

    m.sh("a2", "ip link add docker_gwbridge type bridge && ip addr add 10.12.0.1/16 dev docker_gwbridge");
    m.no("a2", "network create --subnet 10.13.0.0/16 docker_gwbridge", "docker_gwbridge with another address");
}

/// Two swarms; the second has room for one network beside `ingress`. Returns a token of the first.
fn swarms(m: &Machines) -> String {
    let made = m.d("a1", "swarm init");
    assert!(made.contains(&format!("{A1}:2377")), "the address of the interface that was named: {made}");
    m.d("b1", "swarm init --advertise-addr eth0 --default-addr-pool 10.30.0.0/24 --default-addr-pool-mask-length 25");
    m.d("b1", "network create -d overlay last");
    let exhausted = "all predefined address pools have been fully subnetted";
    m.no("b1", "network create -d overlay more", exhausted);
    m.d("b1", "network rm last");
    m.d("b1", "network create -d overlay more");
    token(m, "a1", "worker")
}

/// Who is not of the swarm is refused, says why, and is in the manager's log.
fn strangers(m: &Machines) {
    // A whole swarm's own token, and the certificate that goes with it.
    let foreign = token(m, "b1", "worker");
    m.no("a2", &format!("swarm join --token {foreign} {A1}:2377"), "remote CA does not match fingerprint");
    m.no("a2", &format!("swarm join --token {foreign} 192.168.88.9:2377"), "cannot reach 192.168.88.9:2377");
    let certificate = m.dir("b1").join("swarm/swarm-node.pem");
    let refused = raft_leave(m, "out", Some(certificate.to_str().unwrap()));
    assert!(!refused.status.success(), "a node of another swarm: {}", text(&refused.stdout));
    until(Duration::from_secs(5), "the manager's log tells of it", || {
        m.log("a1").contains("TLS handshake refused").then_some(())
    });
    let nobody = raft_leave(m, "out", None);
    assert!(text(&nobody.stdout).contains("Permission denied: no client certificates in request"), "{nobody:?}");
}

/// The one call that takes no more than the right to make it, as its bytes go over the wire.
fn raft_leave(m: &Machines, machine: &str, certificate: Option<&str>) -> std::process::Output {
    let cert = certificate.map(|c| format!("--cert {c} --key {c}")).unwrap_or_default();
    let script = format!(
        r"printf '\0\0\0\0\2\052\0' | curl -sS -k -m 5 --http2 {cert} -H 'content-type: application/grpc' \
            -H 'te: trailers' --data-binary @- -o - https://{A1}:2377/malha.v1.Manager/Call"
    );
    run(m.on(machine, "sh").args(["-c", &script]))
}

fn tokens(m: &Machines, worker: &str) {
    let mistyped = format!("{}{}", &worker[..worker.len() - 1], if worker.ends_with('0') { '1' } else { '0' });
    let join = |token: &str| format!("swarm join --token {token} {A1}:2377");
    // of two addresses it tells the one that faces the manager
    m.sh("a2", "ip link add other0 type bridge && ip addr add 192.168.99.1/24 dev other0 && ip link set other0 up");
    m.no("a2", &join(&mistyped), "A valid join token is necessary to join this cluster");
    m.no("a2", &join(&worker[..worker.len() - 3]), "join token");
    m.d("a1", "swarm join-token --rotate worker");
    m.no("a2", &join(worker), "A valid join token is necessary to join this cluster");
    let log = m.log("a1");
    let line = log.lines().find(|l| l.contains("certificate refused")).unwrap_or_default();
    assert!(line.contains("192.168.88.2") && line.contains("A valid join token is necessary"), "{log}");
    let joined = m.d("a2", &join(&token(m, "a1", "worker")));
    assert!(joined.contains("This node joined a swarm as a worker."), "{joined}");
    assert_eq!(m.d("a2", "info --format {{.Swarm.LocalNodeState}}").trim(), "active");
    assert_eq!(m.d("a2", "info --format {{.Swarm.NodeAddr}}").trim(), "192.168.88.2");

    // A worker has no say, neither at its own API nor with its own certificate at the manager's port.
    m.no("a2", "node ls", "This node is not a swarm manager.");
    let certificate = m.dir("a2").join("swarm/swarm-node.pem");
    let said = raft_leave(m, "a2", Some(certificate.to_str().unwrap()));
    assert!(text(&said.stdout).contains("Permission denied: unauthorized peer role: swarm-worker"), "{said:?}");
    until(Duration::from_secs(5), "the manager's log names it", || {
        m.log("a1").contains("request refused").then_some(())
    });
}

fn serves(m: &Machines) {
    for machine in ["a1", "a2"] {
        for image in ["alpine", "hello"] {
            m.d(machine, &format!("load -q -i {}", images().join(format!("{image}.tar")).display()));
        }
    }
    m.d("a1", "network create -d overlay net");
    let made = m.d(
        "a1",
        "service create --no-resolve-image --name web --mode global --network net -p 8080:3000 
         --stop-grace-period 1s --update-monitor 1s hello",
    );
    assert!(made.contains("converged"), "{made}");
    let fast = m.d(
        "a1",
        "service create -d --no-resolve-image --name fast --constraint engine.labels.disk==slow --network net
            --stop-grace-period 1s alpine sleep 1d",
    );
    assert!(!fast.is_empty());
    let id = until(Duration::from_secs(15), "a task on the slow machine", || {
        Some(m.d("a2", "ps -q --filter name=fast")).filter(|ids| !ids.is_empty())
    });
    let id = id.trim();
    // Out by the bridge that the user made, on both.
    for (machine, name, gateway) in [("a1", "web", "10.11.0.1"), ("a2", "fast", "10.12.0.1")] {
        let id = m.d(machine, &format!("ps -q --filter name={name}"));
        let routes = m.d(machine, &format!("exec {} ip -4 route", id.trim()));
        assert!(routes.contains(&format!("default via {gateway} ")), "{machine}: {routes}");
        let bridge = m.d(machine, "network inspect docker_gwbridge --format {{.IPAM.Config|json}}");
        assert!(bridge.contains(gateway), "{bridge}");
        m.d(machine, &format!("exec {} ping -c1 -w5 192.168.88.9", id.trim()));
    }
    assert!(m.sh("a1", "ip link show docker_gwbridge").contains("mtu 1400"));
    for machine in [A1, "192.168.88.2"] {
        let said = m.sh("out", &format!("curl -sS -m 5 http://{machine}:8080"));
        assert!(said.starts_with("HI from ") && said.contains("192.168.88.9"), "{said}");
    }
    until(Duration::from_secs(5), "both tasks by name", || {
        let names = m.docker("a2", &["exec", id, "nslookup", "tasks.web"]);
        (crate::support::resolved(&names).len() == 2).then_some(())
    });
    m.d("a2", &format!("exec {id} ping -c1 -w5 web"));
}

fn daemons_end_and_return(m: &mut Machines) {
    let file = m.dir("a2").join("daemon.json");
    let containerd = m.dir("a1").join("containerd/containerd.sock");
    let a1_flags = ["--label", "disk=fast", "--default-advertise-addr", "eth0"];
    let a2_flags = ["--config-file", file.to_str().unwrap(), "--containerd", containerd.to_str().unwrap()];
    let before = (m.d("a1", "ps -q --no-trunc"), m.d("a2", "ps -q --no-trunc"));
    let serves = |m: &Machines, addr: &str| m.sh("out", &format!("curl -sS -m 5 http://{addr}:8080"));
    m.kill("a2");
    assert!(serves(m, "192.168.88.2").starts_with("HI"), "without its daemon");
    m.start("a2", &a2_flags);
    let stopped = m.stop("a1");
    assert_eq!(stopped.code(), Some(0), "an orderly end: {}", m.log("a1"));
    assert!(serves(m, A1).starts_with("HI"), "without its daemon");
    m.start("a1", &a1_flags);
    until(Duration::from_secs(20), "both nodes are ready again", || {
        let nodes = m.docker("a1", &["node", "ls", "--format", "{{.Status}}"]);
        (text(&nodes.stdout) == "Ready\nReady\n").then_some(())
    });
    assert_eq!(before, (m.d("a1", "ps -q --no-trunc"), m.d("a2", "ps -q --no-trunc")), "the same containers");
    assert_eq!(m.d("a1", "service ls --format {{.Name}}/{{.Replicas}}").trim(), "fast/1/1\nweb/2/2");
    m.d("a1", "service update -q --env-add A=b web");
    for machine in ["a1", "a2"] {
        let id = m.d(machine, "ps -q --filter name=web");
        assert!(m.d(machine, &format!("exec {} env", id.trim())).contains("A=b"), "{machine}");
    }
}

fn leaving(m: &mut Machines) {
    m.d("a2", "swarm leave");
    until(Duration::from_secs(20), "its containers go", || m.d("a2", "ps -aq").is_empty().then_some(()));
    assert!(m.sh("a2", "ip -4 addr show docker_gwbridge").contains("10.12.0.1/16"), "the user's device stays");
    m.d("a1", "swarm leave --force");
    assert_eq!(m.d("a1", "ps -aq"), "");
    assert!(m.d("a1", "network inspect docker_gwbridge").contains("10.11.0.0/16"), "remembered for the next swarm");
    m.d("a1", "network rm docker_gwbridge");
    for machine in ["a1", "a2", "b1"] {
        assert_eq!(m.stop(machine).code(), Some(0), "{}", m.log(machine));
    }
    let left = run(Command::new("ip").args(["-n", &m.netns("a1"), "-br", "link"]));
    assert!(!text(&left.stdout).contains("docker_gwbridge"), "{}", text(&left.stdout));
}
