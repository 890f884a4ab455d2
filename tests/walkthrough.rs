//! The sixteen rows of the walk-through, with the stock docker CLI over one manager and two workers.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;

use crate::support::{Cluster, resolved, text, until};

const NODES: [&str; 3] = ["node1", "node2", "node3"];

fn network_names(c: &Cluster, node: &str) -> Vec<String> {
    c.docker(node, &["network", "ls", "--format", "{{.Name}}"]).lines().map(str::to_owned).collect()
}

fn inspect_network(c: &Cluster, node: &str, network: &str) -> Value {
    let list: Value = serde_json::from_str(&c.docker(node, &["network", "inspect", network])).unwrap();
    list[0].clone()
}

#[test]
fn the_walk_through_runs() {
    let c = Cluster::up("walk", 3, 1);
    row_1_ingress_is_everywhere(&c);
    rows_2_to_7_discovery(&c);
    row_8_ingress_isolates(&c);
    rows_9_to_13_names_and_virtual_ip(&c);
    row_14_from_outside(&c);
    row_15_other_networks_do_not_know(&c);
    row_16_every_part_can_be_looked_at(&c);
}

fn row_1_ingress_is_everywhere(c: &Cluster) {
    let ids: Vec<String> = NODES
        .iter()
        .map(|n| {
            c.docker(
                n,
                &[
                    "network",
                    "ls",
                    "--no-trunc",
                    "--filter",
                    "name=ingress",
                    "--format",
                    "{{.ID}} {{.Driver}} {{.Scope}}",
                ],
            )
        })
        .collect();
    assert!(ids[0].trim().ends_with(" overlay swarm"), "{}", ids[0]);
    assert!(ids.iter().all(|i| *i == ids[0]), "one id everywhere: {ids:?}");
    for node in NODES {
        let names = network_names(c, node);
        for name in ["bridge", "docker_gwbridge", "host", "ingress", "none"] {
            assert!(names.iter().any(|n| n == name), "{name} on {node}: {names:?}");
        }
    }
}

fn rows_2_to_7_discovery(c: &Cluster) {
    let id = c.docker("node1", &["network", "create", "-d", "overlay", "minha_rede_overlay"]);
    assert_eq!(id.trim().len(), 25);
    assert!(network_names(c, "node1").contains(&"minha_rede_overlay".to_owned()));
    for worker in ["node2", "node3"] {
        assert!(!network_names(c, worker).contains(&"minha_rede_overlay".to_owned()), "lazy on {worker}");
    }

    let made = c.docker(
        "node1",
        &[
            "service",
            "create",
            "--name",
            "teste_discovery_search",
            "--network",
            "minha_rede_overlay",
            "--replicas",
            "2",
            "alpine",
            "sleep",
            "50m",
        ],
    );
    assert!(made.contains("Service") && made.contains("converged"), "{made}");
    let tasks = c.wait_running("teste_discovery_search", 2);
    assert_ne!(tasks[0].node, tasks[1].node, "spread over nodes");

    let mut seen = BTreeSet::new();
    for task in &tasks {
        assert!(network_names(c, &task.node).contains(&"minha_rede_overlay".to_owned()));
        let network = inspect_network(c, &task.node, "minha_rede_overlay");
        let entry = &network["Containers"][&task.container];
        assert_eq!(entry["Name"], Value::from(task.name.clone()), "{network}");
        let addr = task.addr("minha_rede_overlay");
        assert!(addr.starts_with("10.0.1."), "{addr}");
        assert_eq!(entry["IPv4Address"], Value::from(format!("{addr}/24")));
        let bytes: Vec<u8> = addr.split('.').map(|b| b.parse().unwrap()).collect();
        let mac = format!("02:42:{:02x}:{:02x}:{:02x}:{:02x}", bytes[0], bytes[1], bytes[2], bytes[3]);
        assert_eq!(entry["MacAddress"], Value::from(mac));
        let lb = &network["Containers"]["lb-minha_rede_overlay"];
        assert_eq!(lb["Name"], "minha_rede_overlay-endpoint", "{network}");
        let peers = until(Duration::from_secs(5), "both peers", || {
            let network = inspect_network(c, &task.node, "minha_rede_overlay");
            let peers = network["Peers"].as_array().cloned().unwrap_or_default();
            (peers.len() == 2).then_some(peers)
        });
        assert!(peers.iter().all(|p| p["IP"].as_str().unwrap().starts_with("192.168.77.")), "{peers:?}");
        let names: BTreeSet<&str> = peers.iter().map(|p| p["Name"].as_str().unwrap()).collect();
        let like_dockers = |n: &&str| n.len() == 12 && n.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        assert!(names.len() == 2 && names.iter().all(like_dockers), "{peers:?}");
        seen.insert(peers.iter().map(Value::to_string).collect::<BTreeSet<_>>());
    }
    assert_eq!(seen.len(), 1, "the same peers, seen from either: {seen:?}");
    for (from, to) in [(0, 1), (1, 0)] {
        let out = until(Duration::from_secs(5), "the other task's name", || {
            let out = c.in_task(&tasks[from], &["ping", "-c", "3", "-w", "5", &tasks[to].name]);
            out.status.success().then_some(out)
        });
        let out = text(&out.stdout);
        assert!(out.contains(&tasks[to].addr("minha_rede_overlay")) && out.contains(" 0% packet loss"), "{out}");
    }
}

fn row_8_ingress_isolates(c: &Cluster) {
    c.docker("node1", &["service", "create", "-q", "-p", "5000:3000", "--name", "hello-a", "--replicas", "2", "hello"]);
    let tasks = c.wait_running("hello-a", 2);
    let peer = tasks[1].addr("ingress");
    assert!(peer.starts_with("10.0.0."), "{peer}");
    let out = c.in_task(&tasks[0], &["curl", "-sS", "-m", "2", &format!("http://{peer}:3000")]);
    assert!(!out.status.success(), "the ingress network isolates its containers: {}", text(&out.stdout));
    c.docker("node1", &["service", "rm", "hello-a"]);
}

fn rows_9_to_13_names_and_virtual_ip(c: &Cluster) {
    c.docker("node1", &["network", "create", "-d", "overlay", "my-overlay"]);
    c.docker(
        "node1",
        &[
            "service",
            "create",
            "-q",
            "-p",
            "5000:3000",
            "--network",
            "my-overlay",
            "--name",
            "hello-a",
            "--replicas",
            "2",
            "hello",
        ],
    );
    let tasks = c.wait_running("hello-a", 2);
    let (here, there) = (&tasks[0], &tasks[1]);
    let addrs = text(&c.in_task(here, &["ip", "-4", "addr"]).stdout);
    for prefix in ["inet 10.0.0.", "inet 10.0.2.", "inet 172."] {
        assert!(addrs.contains(prefix), "{prefix}: {addrs}");
    }
    let peer = there.addr("my-overlay");
    let out = c.in_task(here, &["curl", "-sS", "-m", "5", &format!("http://{peer}:3000")]);
    assert!(text(&out.stdout).starts_with("HI from "), "{}{}", text(&out.stdout), text(&out.stderr));

    let neighbours = text(&c.in_task(here, &["ip", "neigh"]).stdout);
    let bytes: Vec<u8> = peer.split('.').map(|b| b.parse().unwrap()).collect();
    let mac = format!("02:42:{:02x}:{:02x}:{:02x}:{:02x}", bytes[0], bytes[1], bytes[2], bytes[3]);
    assert!(neighbours.contains(&peer) && neighbours.contains(&mac), "{neighbours}");
    assert!(!neighbours.contains("10.0.0."), "no neighbour of ingress: {neighbours}");

    let inspected: Value = serde_json::from_str(&c.docker("node1", &["service", "inspect", "hello-a"])).unwrap();
    let overlay = inspect_network(c, "node1", "my-overlay")["Id"].clone();
    let vips = inspected[0]["Endpoint"]["VirtualIPs"].as_array().unwrap();
    let vip = vips.iter().find(|v| v["NetworkID"] == overlay).unwrap()["Addr"].as_str().unwrap();
    let vip = vip.split('/').next().unwrap().to_owned();
    let out = c.in_task(here, &["nslookup", "hello-a"]);
    assert!(text(&out.stdout).contains("127.0.0.11"), "{}", text(&out.stdout));
    assert_eq!(resolved(&out), [vip]);

    let mut answers = std::collections::BTreeSet::new();
    for _ in 0..10 {
        answers.insert(text(&c.in_task(here, &["curl", "-sS", "-m", "5", "http://hello-a:3000"]).stdout));
    }
    assert_eq!(answers.len(), 2, "requests spread over both tasks: {answers:?}");

    let mut both = vec![here.addr("my-overlay"), peer];
    both.sort();
    until(Duration::from_secs(3), "both tasks' addresses", || {
        (resolved(&c.in_task(here, &["nslookup", "tasks.hello-a"])) == both).then_some(())
    });
}

fn row_14_from_outside(c: &Cluster) {
    let client = c.client_addr();
    for node in NODES {
        let url = format!("http://{}:5000", c.addr(node));
        let mut answers = std::collections::BTreeSet::new();
        for _ in 0..6 {
            let answer = c.exec("client", &["curl", "-sS", "-m", "5", &url]);
            assert!(answer.starts_with("HI from "), "{node}: {answer}");
            assert!(
                answer.trim().ends_with(&format!("to {client}")),
                "the client's own address through {node}: {answer}"
            );
            answers.insert(answer);
        }
        assert_eq!(answers.len(), 2, "both tasks answer through {node}: {answers:?}");
        for host in ["localhost", &c.addr(node)] {
            let answer = c.exec(node, &["curl", "-4", "-sS", "-m", "5", &format!("http://{host}:5000")]);
            assert!(answer.trim().ends_with(&format!("to {}", c.addr(node))), "{host} on {node}: {answer}");
        }
    }
}

fn row_15_other_networks_do_not_know(c: &Cluster) {
    let other = &c.tasks("teste_discovery_search")[0];
    let out = c.in_task(other, &["nslookup", "hello-a"]);
    assert!(resolved(&out).is_empty(), "{}", text(&out.stdout));
}

fn row_16_every_part_can_be_looked_at(c: &Cluster) {
    let task = &c.tasks("hello-a")[0];
    let table = c.exec(&task.node, &["nft", "list", "table", "inet", "malha"]);
    assert!(table.contains("masquerade"), "{table}");
    for (part, needle) in
        [("services", "10.0.2."), ("endpoints", "02:42:0a:00:02:"), ("ports", "5000"), ("drops", "reason")]
    {
        let out = c.exec(&task.node, &[env!("CARGO_BIN_EXE_malha"), "inspect", part]);
        assert!(out.to_lowercase().contains(needle), "{part}: {out}");
    }
}
