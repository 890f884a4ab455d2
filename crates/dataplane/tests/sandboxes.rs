//! Sandboxes on the real kernel: made, adopted, changed, refused, removed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod common;

use std::{
    collections::BTreeSet,
    io::Write,
    net::IpAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{World, ask, forge, heard, ip, link, listen, plan, sh, who_am_i};
use malha_dataplane::{GWBRIDGE, Netns};

fn addr(s: &str) -> IpAddr {
    s.parse().unwrap()
}

#[tokio::test]
async fn a_plan_becomes_a_namespace_with_its_links() {
    let w = World::new().await;
    let node = w.open().await;
    let mut p = plan("task1", vec![link(4097, "10.0.1.5/24"), link(4096, "10.0.0.7/24")]);
    p.links[0].other_subnets = vec!["10.0.9.0/24".parse().unwrap()];
    p.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "0".into());
    let state = node.ensure_sandbox(&p).await.unwrap();

    let ns = node.sandboxes().netns(&p.id).unwrap();
    assert_eq!(ns.cookie().await.unwrap(), state.cookie);
    let links = ip(&ns, "-o link");
    assert!(links.contains("lo: <LOOPBACK,UP,LOWER_UP>"), "{links}");
    let eth = |n: &str| links.lines().find(|l| l.contains(&format!(": {n}@"))).unwrap_or_default();
    assert!(eth("eth0").contains("mtu 1450") && eth("eth0").contains("02:42:0a:00:01:05"), "{links}");
    assert!(eth("eth0").contains(",UP") && !eth("eth0").contains("NOARP"), "{links}");
    assert!(eth("eth1").contains("NOARP"), "no neighbours on ingress: {links}");
    let routes = ip(&ns, "route");
    assert!(routes.contains("default via 172.18.0.1 dev eth2"), "{routes}");
    assert!(routes.contains("10.0.9.0/24 dev eth0 scope link"), "{routes}");
    assert_eq!(ip(&ns, "route show table 100").trim(), "default dev eth1 scope link");
    assert!(ip(&ns, "rule").contains("from 10.0.0.7 lookup 100"));
    assert!(ip(&ns, "route get 198.51.100.9 from 10.0.0.7").contains("dev eth1"), "replies leave by ingress");
    for (name, value) in [("ip_forward", "0"), ("conf.eth1.rp_filter", "0"), ("ip_unprivileged_port_start", "0")] {
        assert_eq!(ns.sysctl(&format!("net.ipv4.{name}")).await.unwrap(), value, "{name}");
    }
    assert!(!ip(&ns, "-6 address show dev eth0").contains("fe80"), "a link without IPv6 is silent");

    let on_node = ip(&w.node, "-d -o link");
    assert!(on_node.contains("alias malha task1 vni=4097"), "{on_node}");
    assert!(on_node.contains(&format!("{}@", state.links[0].host_ifname)), "{on_node}");
    let host = on_node.lines().find(|l| l.contains(&state.links[0].host_ifname)).unwrap_or_default();
    let number = state.links[0].netns.expect("the node's number for the sandbox");
    assert!(host.contains(&format!("link-netnsid {number} ")), "{host}");
    let vxlan = on_node.lines().find(|l| l.contains("malha0:")).unwrap_or_default();
    assert!(vxlan.contains("external") && vxlan.contains("dstport 4789") && vxlan.contains("nolearning"), "{vxlan}");
    assert!(on_node.lines().any(|l| l.contains("bridge_slave") && l.contains("isolated on")), "{on_node}");
    assert_eq!(w.programs.attached.lock().unwrap().len(), 2);
    assert_eq!(state.gateway.as_ref().unwrap().address.to_string(), "172.18.0.2/16");

    node.remove_sandbox(&p.id).await.unwrap();
    assert!(!Netns::exists(&state.netns) && node.sandboxes().list().await.unwrap().is_empty());
    assert_eq!(w.programs.detached.lock().unwrap().len(), 3);
    assert!(w.programs.scopes.lock().unwrap().is_empty());
    assert!(!ip(&w.node, "-o link").contains("mh"), "no link is left");
    node.remove_sandbox(&p.id).await.unwrap();
}

#[tokio::test]
async fn containers_reach_the_world_by_the_gateway_bridge_and_not_each_other() {
    let w = World::new().await;
    let internet = w.internet().await;
    let node = w.open().await;
    for id in ["a", "b"] {
        node.ensure_sandbox(&plan(id, vec![])).await.unwrap();
    }
    let (a, b) = (node.sandboxes().netns(&"a".into()).unwrap(), node.sandboxes().netns(&"b".into()).unwrap());
    let out = who_am_i(&internet, "198.51.100.2:7000").await;
    assert_eq!(ask(&a, out).await, Ok(addr("198.51.100.1")), "masqueraded");
    let here = who_am_i(&w.node, "0.0.0.0:7001").await;
    assert_eq!(ask(&a, format!("172.18.0.1:{}", here.port())).await, Ok(addr("172.18.0.2")));
    assert_eq!(ask(&b, format!("172.18.0.1:{}", here.port())).await, Ok(addr("172.18.0.3")));
    let inside = who_am_i(&b, "0.0.0.0:7002").await;
    assert_eq!(ask(&w.node, format!("172.18.0.3:{}", inside.port())).await, Ok(addr("172.18.0.1")));
    assert!(ask(&a, "172.18.0.3:7002").await.is_err(), "inter-container is off");
    // neither by way of the node
    ip(&a, "route add 172.18.0.3/32 via 172.18.0.1");
    assert!(ask(&a, "172.18.0.3:7002").await.is_err(), "nor routed");
    // nor from outside by whoever routes to the node
    ip(&internet, "route add 172.18.0.0/16 via 198.51.100.1");
    assert!(ask(&internet, "172.18.0.3:7002").await.is_err());
}

/// A container that makes its own packets: none leaves it with a source of somebody else's.
#[tokio::test]
async fn forged_sources_do_not_pass_the_gateway_bridge() {
    let w = World::new().await;
    let internet = w.internet().await;
    let node = w.open().await;
    node.ensure_sandbox(&plan("a", vec![])).await.unwrap();
    let a = node.sandboxes().netns(&"a".into()).unwrap();
    let (here, there) = (listen(&w.node, "0.0.0.0:9000").await, listen(&internet, "198.51.100.2:9000").await);
    let tunnel = listen(&internet, "198.51.100.2:4789").await;
    let (own, node_own) = (addr("172.18.0.2"), addr("198.51.100.1"));
    for (target, socket, shown) in
        [("172.18.0.1:9000", &here, own), ("198.51.100.1:9000", &here, own), ("198.51.100.2:9000", &there, node_own)]
    {
        for source in ["198.51.100.1:9", "198.51.100.9:9", "192.0.2.2:9", "127.0.0.1:9"] {
            forge(&a, source, target, b"not mine").await;
        }
        // nor is the tunnel the containers' to speak to, not even as themselves
        forge(&a, "172.18.0.2:9", "198.51.100.2:4789", b"mine").await;
        forge(&a, "172.18.0.2:9", target, b"mine").await;
        assert_eq!(heard(socket, Duration::from_secs(3)), Some(shown), "the last alone is heard at {target}");
        assert_eq!(heard(socket, Duration::from_millis(10)), None);
    }
    assert_eq!(heard(&tunnel, Duration::from_millis(100)), None);
}

#[tokio::test]
async fn host_ports_lead_to_the_container_from_everywhere() {
    let w = World::new().await;
    let internet = w.internet().await;
    let node = w.open().await;
    let mut p = plan("web", vec![]);
    let port = |published| malha_model::PortConfig {
        target_port: 80,
        published_port: published,
        publish_mode: malha_model::PublishMode::Host,
        ..Default::default()
    };
    p.host_ports = vec![port(8080), port(0)];
    let state = node.ensure_sandbox(&p).await.unwrap();
    let free = state.host_ports[1].published_port;
    assert_ne!(free, 0);
    let ns = node.sandboxes().netns(&p.id).unwrap();
    who_am_i(&ns, "0.0.0.0:80").await;
    for number in [8080, free] {
        assert_eq!(ask(&internet, format!("198.51.100.1:{number}")).await, Ok(addr("198.51.100.2")), "client's own");
    }
    assert_eq!(ask(&w.node, "127.0.0.1:8080").await, Ok(addr("172.18.0.1")));
    assert_eq!(ask(&w.node, "198.51.100.1:8080").await, Ok(addr("198.51.100.1")));
    node.ensure_sandbox(&plan("other", vec![])).await.unwrap();
    let other = node.sandboxes().netns(&"other".into()).unwrap();
    let by_address = ask(&other, "198.51.100.1:8080").await;
    assert_eq!(by_address, Ok(addr("172.18.0.1")), "another container by the node's address");
    assert_eq!(ask(&ns, "198.51.100.1:8080").await, Ok(addr("172.18.0.1")), "and the container itself");

    // taken: refused, and nothing of the second sandbox is left
    let mut second = plan("second", vec![]);
    second.host_ports = vec![port(8080)];
    let e = node.ensure_sandbox(&second).await.unwrap_err().to_string();
    assert_eq!(e, "Bind for 0.0.0.0:8080 failed: port is already allocated");
    assert!(!node.sandboxes().list().await.unwrap().contains("second"));

    // a daemon that returns cuts nothing and changes nothing
    drop(node);
    let node = w.open().await;
    assert!(ask(&internet, "198.51.100.1:8080").await.is_ok(), "before anything was ensured");
    assert_eq!(node.ensure_sandbox(&p).await.unwrap(), state);
    node.remove_sandbox(&p.id).await.unwrap();
    assert!(ask(&internet, "198.51.100.1:8080").await.is_err());
    node.ensure_sandbox(&second).await.unwrap();
}

/// Somebody to whom the node's table belongs: nobody else may change it until they end, and it ends with them.
fn owner(node: &Netns) -> Child {
    let net = format!("--net={}", node.path().display());
    let nft = ["nft", "-i"];
    let mut owner =
        Command::new("nsenter").arg(net).args(nft).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let theirs = b"delete table inet malha; add table inet malha { flags owner; }\n";
    owner.stdin.as_mut().unwrap().write_all(theirs).unwrap();
    while !sh(node, "nft list table inet malha").contains("owner") {
        std::thread::sleep(Duration::from_millis(10));
    }
    owner
}

/// A port that is held, or given up, while the rules cannot be changed.
#[tokio::test]
async fn rules_that_could_not_be_changed_are_changed_later() {
    let w = World::new().await;
    let node = w.open().await;
    let mut p = plan("web", vec![]);
    node.ensure_sandbox(&p).await.unwrap();
    p.host_ports = vec![malha_model::PortConfig {
        target_port: 80,
        published_port: 8080,
        publish_mode: malha_model::PublishMode::Host,
        ..Default::default()
    }];
    let led = || sh(&w.node, "nft list map inet malha host_ports").contains("8080");
    let mut theirs = owner(&w.node);
    let refused = node.ensure_sandbox(&p).await.unwrap_err().to_string();
    assert!(refused.contains("nftables refused"), "{refused}");
    theirs.wait().unwrap();
    node.ensure_sandbox(&p).await.unwrap();
    assert!(led());

    let mut theirs = owner(&w.node);
    node.remove_sandbox(&p.id).await.unwrap_err();
    theirs.wait().unwrap();
    node.remove_sandbox(&p.id).await.unwrap();
    assert!(!led());
}

/// A client that never pauses, while a port goes from one container to the next.
#[tokio::test]
async fn datagrams_follow_a_host_port_to_its_next_container() {
    let w = World::new().await;
    let internet = w.internet().await;
    let node = w.open().await;
    let client = listen(&internet, "198.51.100.2:7777").await;
    client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let ask = || {
        client.send_to(b"?", "198.51.100.1:5300").unwrap();
        let mut answer = [0; 100];
        client.recv_from(&mut answer).map(|(n, _)| String::from_utf8_lossy(&answer[..n]).into_owned())
    };
    for name in ["first", "second"] {
        let mut p = plan(name, vec![]);
        p.host_ports = vec![malha_model::PortConfig {
            protocol: malha_model::Protocol::Udp,
            target_port: 53,
            published_port: 5300,
            publish_mode: malha_model::PublishMode::Host,
            ..Default::default()
        }];
        client.send_to(b"too early", "198.51.100.1:5300").unwrap();
        node.ensure_sandbox(&p).await.unwrap();
        let server = listen(&node.sandboxes().netns(&p.id).unwrap(), "0.0.0.0:53").await;
        std::thread::spawn(move || {
            while let Ok((_, from)) = server.recv_from(&mut [0; 100]) {
                let _ = server.send_to(name.as_bytes(), from);
            }
        });
        assert_eq!(ask().unwrap(), name);
        node.remove_sandbox(&p.id).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_as_planned_is_adopted_untouched() {
    let w = World::new().await;
    let p = plan("task", vec![link(4097, "10.0.1.5/24")]);
    let node = w.open().await;
    let before = node.ensure_sandbox(&p).await.unwrap();
    drop(node);
    let node = w.open().await;
    let after = node.ensure_sandbox(&p).await.unwrap();
    assert_eq!(before, after, "the same interfaces, indexes and addresses");
    // an address given to another container meanwhile is never this one's
    let other = node.ensure_sandbox(&plan("other", vec![])).await.unwrap();
    assert_ne!(other.gateway.unwrap().address, after.gateway.unwrap().address);
}

#[tokio::test]
async fn networks_join_and_leave_a_running_sandbox() {
    let w = World::new().await;
    let node = w.open().await;
    let mut p = plan("box", vec![link(4097, "10.0.1.5/24")]);
    let first = node.ensure_sandbox(&p).await.unwrap();
    p.links.insert(0, link(4098, "10.0.2.5/24"));
    let second = node.ensure_sandbox(&p).await.unwrap();
    assert_eq!(second.links[1], first.links[0], "what was there stays, by name too");
    assert_eq!(second.gateway, first.gateway);
    assert_eq!(second.links[0].ifname, "eth2");
    p.links.remove(1);
    let third = node.ensure_sandbox(&p).await.unwrap();
    assert_eq!(third.links, [second.links[0].clone()]);
    let ns = node.sandboxes().netns(&p.id).unwrap();
    assert!(!ip(&ns, "-o link").contains("eth0"));
}

#[tokio::test]
async fn a_failure_takes_back_what_was_made() {
    let w = World::new().await;
    let node = w.open().await;
    let mut p = plan("task", vec![link(4097, "10.0.1.5/24"), link(4098, "10.0.2.5/24")]);
    *w.programs.refuse.lock().unwrap() = Some(4098);
    assert!(node.ensure_sandbox(&p).await.unwrap_err().to_string().contains("refused"));
    assert!(node.sandboxes().list().await.unwrap().is_empty(), "a new sandbox is gone");
    let second = p.links.pop().unwrap();
    let before = node.ensure_sandbox(&p).await.unwrap();
    p.links.push(second);
    assert!(node.ensure_sandbox(&p).await.is_err());
    p.links.pop();
    assert_eq!(node.ensure_sandbox(&p).await.unwrap(), before, "an old one is as it was");
    assert!(!ip(&w.node, "-d -o link").contains("vni=4098"));
    // settings that the kernel refuses
    p.id = "sysctl".into();
    p.sysctls.insert("net.nonsense".into(), "1".into());
    assert!(node.ensure_sandbox(&p).await.unwrap_err().to_string().contains("net.nonsense"));
    assert_eq!(node.sandboxes().list().await.unwrap(), BTreeSet::from(["task".to_owned()]));
}

#[tokio::test]
async fn bad_plans_change_nothing() {
    let w = World::new().await;
    let node = w.open().await;
    let twice = plan("t", vec![link(4097, "10.0.1.5/24"), link(4097, "10.0.1.6/24")]);
    let mut named = plan("t", vec![link(4097, "10.0.1.5/24"), link(4098, "10.0.2.5/24")]);
    named.links.iter_mut().for_each(|l| l.ifname = Some("same".into()));
    let mut foreign = plan("t", vec![]);
    foreign.sysctls.insert("kernel.hostname".into(), "x".into());
    for bad in [twice, named, foreign, plan("../x", vec![]), plan("", vec![])] {
        assert!(node.ensure_sandbox(&bad).await.is_err(), "{bad:?}");
    }
    assert!(node.sandboxes().list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_half_made_sandbox_is_completed() {
    let w = World::new().await;
    let node = w.open().await;
    let p = plan("task", vec![link(4097, "10.0.1.5/24")]);
    let state = node.ensure_sandbox(&p).await.unwrap();
    let ns = node.sandboxes().netns(&p.id).unwrap();
    ip(&ns, "link delete eth0");
    ip(&ns, "route delete default");
    let again = node.ensure_sandbox(&p).await.unwrap();
    assert_eq!((again.links[0].ifname.as_str(), &again.gateway), ("eth0", &state.gateway));
    assert!(ip(&ns, "route").contains("default via"));
    // the file without its namespace, as a reboot leaves it
    node.remove_sandbox(&p.id).await.unwrap();
    std::fs::write(&state.netns, "").unwrap();
    node.ensure_sandbox(&p).await.unwrap();
}

#[tokio::test]
async fn garbage_is_what_nobody_keeps() {
    let w = World::new().await;
    let node = w.open().await;
    for id in ["a", "b", "c"] {
        node.ensure_sandbox(&plan(id, vec![link(4097, "10.0.1.5/24")])).await.unwrap();
    }
    drop(node);
    // a scope whose namespace ended meanwhile
    w.programs.scopes.lock().unwrap().insert(u64::MAX);
    let node = w.open().await;
    assert_eq!(w.programs.scopes.lock().unwrap().len(), 3);
    let gone = node.sandboxes().collect_garbage(&BTreeSet::from(["b".to_owned()])).await.unwrap();
    assert_eq!(gone, BTreeSet::from(["a".to_owned(), "c".to_owned()]));
    assert_eq!(node.sandboxes().list().await.unwrap(), BTreeSet::from(["b".to_owned()]));
}

#[tokio::test]
async fn many_sandboxes_at_once_get_addresses_of_their_own() {
    let w = World::new().await;
    let node = w.open().await;
    let ids: Vec<String> = (0..12).map(|n| format!("t{n}")).collect();
    let all = ids.iter().map(|id| node.ensure_sandbox_of(id));
    let started = std::time::Instant::now();
    let states = futures::future::join_all(all).await;
    let addresses: BTreeSet<_> = states.into_iter().map(|s| s.unwrap().gateway.unwrap().address).collect();
    assert_eq!(addresses.len(), 12);
    println!("12 sandboxes in {:?}", started.elapsed());
}

trait EnsureOf {
    fn ensure_sandbox_of(
        &self,
        id: &str,
    ) -> impl Future<Output = malha_dataplane::NetResult<malha_dataplane::SandboxState>>;
}

impl EnsureOf for malha_dataplane::NodeNetwork {
    async fn ensure_sandbox_of(&self, id: &str) -> malha_dataplane::NetResult<malha_dataplane::SandboxState> {
        let p = plan(id, vec![link(4097, "10.0.1.5/24")]);
        self.ensure_sandbox(&p).await
    }
}

#[tokio::test]
async fn leaving_removes_everything() {
    let w = World::new().await;
    let before = ip(&w.node, "-o link");
    let node = w.open().await;
    node.ensure_sandbox(&plan("task", vec![link(4097, "10.0.1.5/24")])).await.unwrap();
    assert!(sh(&w.node, "nft list tables").contains("inet malha"));
    node.teardown().await.unwrap();
    assert_eq!(ip(&w.node, "-o link"), before);
    assert!(sh(&w.node, "nft list tables").is_empty());
    assert!(!before.contains(GWBRIDGE));
}
