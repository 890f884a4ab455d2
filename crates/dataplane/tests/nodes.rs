//! Whole nodes, with the real packet programs: two of them on one underlay.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod common;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, TcpStream},
};

use common::{World, ask, ip, link, plan, sh, who_am_i};
use malha_dataplane::{NodeNetwork, NodeNetworkConfig};
use malha_netplan::{EndpointPlan, Location, NetPlan, NetworkPlan, mac_of};

const UNDERLAY: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

/// Two nodes with a link between them.
async fn two() -> [(World, NodeNetworkConfig); 2] {
    let (a, b) = (World::new().await, World::new().await);
    ip(&a.node, &format!("link add under0 type veth peer name under0 netns {}", b.node.path().display()));
    for (world, addr) in [(&a, UNDERLAY[0]), (&b, UNDERLAY[1])] {
        ip(&world.node, &format!("address add {addr}/24 dev under0"));
        ip(&world.node, "link set under0 up");
    }
    let config = |w: &World, n: usize| NodeNetworkConfig { node_address: UNDERLAY[n].parse().unwrap(), ..w.config() };
    let (ca, cb) = (config(&a, 0), config(&b, 1));
    [(a, ca), (b, cb)]
}

/// The plan of node `here` for a network with task `t0` on the first node and `t1` on the second.
fn net_plan(here: usize) -> NetPlan {
    let peer = UNDERLAY[1 - here].parse().unwrap();
    let endpoints = (0..2).map(|n| {
        let addr: IpAddr = format!("10.0.1.{}", n + 5).parse().unwrap();
        let at = if n == here { Location::Local(format!("t{n}")) } else { Location::Remote(peer) };
        (addr, EndpointPlan { mac: mac_of(addr), at })
    });
    let network = NetworkPlan {
        id: "net".into(),
        name: "net".into(),
        subnets: vec!["10.0.1.0/24".parse().unwrap()],
        gateways: ["10.0.1.1".parse().unwrap()].into(),
        peers: [peer].into(),
        endpoints: endpoints.collect(),
        ..NetworkPlan::default()
    };
    NetPlan { networks: BTreeMap::from([(4097, network)]), ..NetPlan::default() }
}

#[tokio::test]
async fn containers_of_two_nodes_talk_while_a_daemon_comes_and_goes() {
    let [(wa, ca), (wb, cb)] = two().await;
    let a = NodeNetwork::open(&ca).await.unwrap();
    let b = NodeNetwork::open(&cb).await.unwrap();
    for (n, node) in [&a, &b].into_iter().enumerate() {
        node.apply(&net_plan(n)).unwrap();
        let own = link(4097, &format!("10.0.1.{}/24", n + 5));
        node.ensure_sandbox(&plan(&format!("t{n}"), vec![own])).await.unwrap();
    }
    let t0 = a.sandboxes().netns(&"t0".into()).unwrap();
    let t1 = b.sandboxes().netns(&"t1".into()).unwrap();
    let server = who_am_i(&t1, "10.0.1.6:80").await;
    assert_eq!(ask(&t0, server).await, Ok("10.0.1.5".parse().unwrap()), "across nodes, with its own address");
    assert!(ip(&t0, "neigh").contains("10.0.1.6 dev eth0 lladdr 02:42:0a:00:01:06"));

    // an open connection while the first node's daemon is away, and after it is back
    let listener = t1.run(|| std::net::TcpListener::bind("10.0.1.6:81")).await.unwrap().unwrap();
    let mut client = t0.run(|| TcpStream::connect("10.0.1.6:81")).await.unwrap().unwrap();
    let (mut served, _) = listener.accept().unwrap();
    let mut echo = |word: &str| {
        client.write_all(word.as_bytes()).unwrap();
        let mut got = vec![0; word.len()];
        served.set_read_timeout(Some(std::time::Duration::from_secs(3))).unwrap();
        served.read_exact(&mut got).unwrap();
        assert_eq!(got, word.as_bytes());
    };
    echo("before");
    drop(a);
    echo("away");
    assert!(ask(&t0, server).await.is_ok(), "new connections as well");
    let a = NodeNetwork::open(&ca).await.unwrap();
    echo("back");
    a.apply(&net_plan(0)).unwrap();
    a.ensure_sandbox(&plan("t0", vec![link(4097, "10.0.1.5/24")])).await.unwrap();
    echo("settled");

    // rules that somebody flushed come back; here at the next start
    sh(&wa.node, "nft flush ruleset");
    drop(a);
    let a = NodeNetwork::open(&ca).await.unwrap();
    assert!(sh(&wa.node, "nft list tables").contains("inet malha"));

    a.teardown().await.unwrap();
    b.teardown().await.unwrap();
    for (w, c) in [(&wa, &ca), (&wb, &cb)] {
        let left = ip(&w.node, "-o link");
        assert_eq!(left.lines().count(), 2, "loopback and underlay: {left}");
        assert!(!c.pin_dir.exists() && !left.contains("mh"));
    }
}

#[tokio::test]
async fn a_container_has_no_other_address_than_its_own() {
    let [(_wa, ca), (_wb, cb)] = two().await;
    let (a, b) = (NodeNetwork::open(&ca).await.unwrap(), NodeNetwork::open(&cb).await.unwrap());
    for (n, node) in [&a, &b].into_iter().enumerate() {
        node.apply(&net_plan(n)).unwrap();
        let own = link(4097, &format!("10.0.1.{}/24", n + 5));
        node.ensure_sandbox(&plan(&format!("t{n}"), vec![own])).await.unwrap();
    }
    let t0 = a.sandboxes().netns(&"t0".into()).unwrap();
    let t1 = b.sandboxes().netns(&"t1".into()).unwrap();
    let server = who_am_i(&t1, "10.0.1.6:80").await;
    assert!(ask(&t0, server).await.is_ok());
    ip(&t0, "address add 10.0.1.77/24 dev eth0");
    ip(&t0, "route add 10.0.1.6/32 dev eth0 src 10.0.1.77");
    assert!(ask(&t0, server).await.is_err());
    a.teardown().await.unwrap();
    b.teardown().await.unwrap();
}
