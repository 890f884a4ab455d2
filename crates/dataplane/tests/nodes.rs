//! Whole nodes, with the real packet programs: two of them on one underlay.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod common;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, TcpStream},
    time::Duration,
};

use common::{World, ask, forge, heard, ip, link, listen, plan, sh, who_am_i};
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
        (addr, EndpointPlan { mac: mac_of(addr), at, owner: n as u32 })
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

/// Programs that read Ethernet frames are kept from devices that have none.
#[tokio::test]
async fn devices_without_ethernet_have_no_program() {
    let [(wa, ca), _b] = two().await;
    ip(&wa.node, "tuntap add dev tun0 mode tun");
    ip(&wa.node, "address add 198.51.100.1/24 dev tun0");
    ip(&wa.node, "link set tun0 up");
    let a = NodeNetwork::open(&ca).await.unwrap();
    let number = |device: &str| ip(&wa.node, &format!("-o link show {device}")).split(':').next().unwrap().to_owned();
    let programs: Vec<String> = std::fs::read_dir(ca.pin_dir.join("links"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(programs.contains(&format!("entry@{}", number("under0"))), "{programs:?}");
    assert!(!programs.contains(&format!("entry@{}", number("tun0"))), "{programs:?}");
    a.teardown().await.unwrap();
}

/// A packet of the tunnel on network 4097 with a datagram in it.
fn wrapped(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 33, 0, 1, 0, 0, 64, 17, 0, 0];
    ip.extend(from);
    ip.extend(to);
    let sum: u32 = ip.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    ip[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    let mac = |a: [u8; 4]| [&[0x02, 0x42][..], &a].concat();
    let head = [8, 0, 0, 0, 0, 0x10, 0x01, 0];
    [&head[..], &mac(to), &mac(from), &[0x08, 0x00], &ip, &[0x27, 0x0f, 0x27, 0x0f, 0, 13, 0, 0], b"hello"].concat()
}

/// What a node sends to another's tunnel is trusted. A container that makes its own packets is no node.
#[tokio::test]
async fn a_container_cannot_speak_as_a_node() {
    let [(wa, ca), (wb, cb)] = two().await;
    let (a, b) = (NodeNetwork::open(&ca).await.unwrap(), NodeNetwork::open(&cb).await.unwrap());
    for (n, node) in [&a, &b].into_iter().enumerate() {
        node.apply(&net_plan(n)).unwrap();
        let own = link(4097, &format!("10.0.1.{}/24", n + 5));
        node.ensure_sandbox(&plan(&format!("t{n}"), vec![own])).await.unwrap();
    }
    a.ensure_sandbox(&plan("liar", vec![])).await.unwrap();
    let liar = a.sandboxes().netns(&"liar".into()).unwrap();
    for (n, (node, from)) in [(&a, [10, 0, 1, 6]), (&b, [10, 0, 1, 5])].into_iter().enumerate() {
        let inside = node.sandboxes().netns(&format!("t{n}")).unwrap();
        let server = listen(&inside, "0.0.0.0:9999").await;
        let packet = wrapped(from, [10, 0, 1, n as u8 + 5]);
        let tunnel = format!("{}:4789", UNDERLAY[n]);
        let peer = format!("{}:4789", UNDERLAY[1 - n]);
        forge(&liar, &peer, &tunnel, &packet).await;
        assert_eq!(heard(&server, Duration::from_millis(300)), None, "the lie at {tunnel}");
        forge(if n == 0 { &wb.node } else { &wa.node }, &peer, &tunnel, &packet).await;
        assert!(heard(&server, Duration::from_secs(3)).is_some(), "and what makes it one: the other node's is taken");
    }
    a.teardown().await.unwrap();
    b.teardown().await.unwrap();
}
