//! What every node has: gateway bridge, tunnel device, rules, known addresses.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod common;

use std::{net::IpAddr, time::Duration};

use common::{World, ip, plan, sh};
use malha_dataplane::{GWBRIDGE, NetError, NodeNetwork};
use tokio::time::timeout;

#[tokio::test]
async fn the_bridge_avoids_what_the_node_routes() {
    let w = World::new().await;
    w.internet().await;
    ip(&w.node, "route add 172.18.0.0/15 via 198.51.100.2");
    ip(&w.node, "address add 172.20.7.1/24 dev up0");
    let node = w.open().await;
    assert_eq!(node.sandboxes().bridge().gateway.to_string(), "172.21.0.1/16");
    assert_eq!(w.node.sysctl("net.ipv4.ip_forward").await.unwrap(), "1");
    drop(node);
    assert_eq!(w.open().await.sandboxes().bridge().gateway.to_string(), "172.21.0.1/16", "and keeps what it has");
}

#[tokio::test]
async fn the_bridge_avoids_the_swarm_s_networks_where_it_can() {
    for (avoid, expected) in
        [(&["172.16.0.0/12"][..], "192.168.0.1/20"), (&["172.16.0.0/12", "192.168.0.0/16"][..], "172.18.0.1/16")]
    {
        let w = World::new().await;
        let mut config = w.config();
        config.gwbridge.avoid = avoid.iter().map(|net| net.parse().unwrap()).collect();
        let node = NodeNetwork::open_with(&config, w.programs.clone()).await.unwrap();
        assert_eq!(node.sandboxes().bridge().gateway.to_string(), expected);
    }
}

#[tokio::test]
async fn a_bridge_made_by_the_user_is_taken_as_it_is() {
    let w = World::new().await;
    ip(&w.node, &format!("link add {GWBRIDGE} mtu 1400 type bridge"));
    ip(&w.node, &format!("address add 10.99.0.254/24 dev {GWBRIDGE}"));
    let node = w.open().await;
    let state = node.ensure_sandbox(&plan("t", vec![])).await.unwrap();
    let gw = state.gateway.unwrap();
    assert_eq!((gw.address.to_string(), gw.gateway.to_string()), ("10.99.0.1/24".into(), "10.99.0.254".into()));
    let ns = node.sandboxes().netns(&"t".into()).unwrap();
    assert!(ip(&ns, "-o link show eth0").contains("mtu 1400"));
    node.teardown().await.unwrap();
    assert!(ip(&w.node, "-o link").contains(GWBRIDGE), "and left to the user");
}

#[tokio::test]
async fn the_node_tells_where_it_has_ways_of_its_own_to() {
    let w = World::new().await;
    w.internet().await;
    let node = w.open().await;
    node.ensure_sandbox(&plan("t", vec![common::link(4097, "10.0.1.3/24")])).await.unwrap();
    ip(&w.node, "route add default via 198.51.100.2");
    ip(&w.node, "route add 128.0.0.0/1 via 198.51.100.2");
    ip(&w.node, "route add 10.0.0.0/9 via 198.51.100.2");
    ip(&w.node, "route add 10.200.0.0/16 nexthop via 198.51.100.2 nexthop via 198.51.100.3");
    ip(&w.node, "route add 10.201.0.0/16 via 198.51.100.2 table 77");
    ip(&w.node, "address add 10.202.0.1/32 dev lo");
    let told = malha_dataplane::routes(w.node.path()).await.unwrap();
    let told: Vec<String> = told.iter().map(|r| format!("{} {}", r.subnet, r.device)).collect();
    let expected = [
        "10.0.0.0/9 up0",
        "10.200.0.0/16 up0",
        "10.202.0.1/32 lo",
        "172.18.0.0/16 docker_gwbridge",
        "198.51.100.0/24 up0",
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_subnet_asked_for_is_used() {
    let w = World::new().await;
    let mut config = w.config();
    config.gwbridge.subnet = Some("10.77.0.0/24".parse().unwrap());
    config.gwbridge.mtu = Some(1300);
    let node = NodeNetwork::open_with(&config, w.programs.clone()).await.unwrap();
    assert_eq!(node.sandboxes().bridge().gateway.to_string(), "10.77.0.1/24");
    node.ensure_sandbox(&plan("t", vec![])).await.unwrap();
    let ns = node.sandboxes().netns(&"t".into()).unwrap();
    assert!(ip(&ns, "-o link show eth0").contains("mtu 1300"));
}

#[tokio::test]
async fn what_has_our_names_and_is_something_else_is_an_error() {
    for (made, name) in [("docker_gwbridge", GWBRIDGE), ("malha0", "malha0")] {
        let w = World::new().await;
        ip(&w.node, &format!("link add {made} type veth peer name x"));
        let e = NodeNetwork::open_with(&w.config(), w.programs.clone()).await.err();
        assert!(matches!(e, Some(NetError::WrongKind { name: n, .. }) if n == name));
    }
}

#[tokio::test]
async fn a_tunnel_device_on_another_port_is_replaced() {
    let w = World::new().await;
    drop(w.open().await);
    let index = |text: String| text.split(':').next().unwrap().to_owned();
    let first = index(ip(&w.node, "-o link show malha0"));
    drop(w.open().await);
    assert_eq!(index(ip(&w.node, "-o link show malha0")), first, "adopted");
    let mut config = w.config();
    config.vxlan_port = 5789;
    let _node = NodeNetwork::open_with(&config, w.programs.clone()).await.unwrap();
    assert!(ip(&w.node, "-d link show malha0").contains("dstport 5789"));
    assert!(sh(&w.node, "nft list table inet malha").contains("udp dport 5789 notrack"));
}

#[tokio::test]
async fn tables_of_others_are_not_touched() {
    let w = World::new().await;
    sh(&w.node, "nft add table inet theirs && nft add chain inet theirs c");
    let node = w.open().await;
    assert!(sh(&w.node, "nft list table inet theirs").contains("chain c"));
    node.teardown().await.unwrap();
    assert!(sh(&w.node, "nft list table inet theirs").contains("chain c"));
}

#[tokio::test]
async fn rules_that_somebody_flushed_come_back() {
    let w = World::new().await;
    let node = w.open().await;
    assert!(!node.restore_rules().await.unwrap());
    sh(&w.node, "nft flush ruleset");
    // or the upkeep was faster
    node.restore_rules().await.unwrap();
    assert!(sh(&w.node, "nft list table inet malha").contains("masquerade"));
}

#[tokio::test]
async fn the_nodes_addresses_are_followed() {
    let w = World::new().await;
    w.internet().await;
    let node = w.open().await;
    node.ensure_sandbox(&plan("t", vec![])).await.unwrap();
    let mut addresses = node.addresses();
    let now = addresses.borrow_and_update().clone();
    let names: Vec<_> = now.uplinks.values().map(|u| (u.name.as_str(), u.gwbridge)).collect();
    assert!(names.contains(&("up0", false)) && names.contains(&(GWBRIDGE, true)), "{now:?}");
    assert_eq!(names.len(), 2, "containers' links, tunnel and loopback are none: {now:?}");
    assert_eq!(now.mtu_of("198.51.100.1".parse().unwrap()), Some(1500));
    let new = "198.51.100.77".parse().unwrap();
    for (command, there) in [("add", true), ("delete", false)] {
        ip(&w.node, &format!("address {command} 198.51.100.77/24 dev up0"));
        timeout(Duration::from_secs(5), async {
            while addresses.borrow_and_update().addresses.contains(&new) != there {
                addresses.changed().await.unwrap();
            }
        })
        .await
        .unwrap();
    }
    timeout(Duration::from_secs(5), async {
        while w.programs.node.lock().unwrap().addresses.contains(&new) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn paths_to_other_nodes_follow_the_routes() {
    let w = World::new().await;
    w.internet().await;
    let [near, far, lost]: [IpAddr; 3] = ["198.51.100.2", "203.0.113.9", "192.0.2.1"].map(|a| a.parse().unwrap());
    *w.programs.remotes.lock().unwrap() = vec![near, far, lost];
    let mut config = w.config();
    config.node_address = "198.51.100.1".parse().unwrap();
    let _node = NodeNetwork::open_with(&config, w.programs.clone()).await.unwrap();
    let settle = async |wanted: &[(IpAddr, &str, u16)]| {
        let told = || {
            let paths = w.programs.paths.lock().unwrap();
            paths.iter().map(|(to, p)| (*to, p.next_hop.to_string(), p.mtu)).collect::<Vec<_>>()
        };
        let wanted: Vec<_> = wanted.iter().map(|(to, via, mtu)| (*to, (*via).to_owned(), *mtu)).collect();
        let done = timeout(Duration::from_secs(30), async {
            while told() != wanted {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(done.await.is_ok(), "{:?} and not {wanted:?}", told());
    };
    settle(&[(near, "198.51.100.2", 1500)]).await;
    ip(&w.node, "route add 203.0.113.0/24 via 198.51.100.2 mtu 1400");
    settle(&[(near, "198.51.100.2", 1500), (far, "198.51.100.2", 1400)]).await;
    ip(&w.node, "route replace blackhole 203.0.113.0/24");
    settle(&[(near, "198.51.100.2", 1500)]).await;
    ip(&w.node, "xfrm policy add dir out src 198.51.100.1 dst 198.51.100.9 action allow");
    settle(&[]).await;
    ip(&w.node, "xfrm policy flush");
    settle(&[(near, "198.51.100.2", 1500)]).await;
    ip(&w.node, "link set up0 down");
    settle(&[]).await;
}
