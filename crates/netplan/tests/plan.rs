//! Plans of nodes and sandboxes, by example and for any views.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod common;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use common::{Views, attachment, endpoint, ip, net, port, service, view, views};
use malha_model::{
    NetworkAttachmentConfig, NetworkAttachmentSpec, NetworkView, PortConfig, Protocol, PublishMode, Task, TaskSpec,
};
use malha_netplan::{
    IngressBackend, Location, Mac, NetPlan, NetworkMode, NodeInputs, PlanError, SandboxPlan, build_net_zone,
    build_plan, mac_of, task_sandbox,
};
use proptest::prelude::*;

fn plan(views: &Views, local: &[Arc<Task>]) -> NetPlan {
    build_plan(&NodeInputs { node: "n1".into(), views, local })
}

fn web() -> NetworkView {
    let mut v = view("mynet", 4097, "10.0.1.0/24");
    service(&mut v, "web", &[], &["10.0.1.2/24"]);
    service(&mut v, "idle", &[], &["10.0.1.9/24"]);
    endpoint(&mut v, "web", 1, "n1", "10.0.1.3/24");
    endpoint(&mut v, "web", 2, "n2", "10.0.1.4/24");
    v
}

#[test]
fn a_network_has_peers_endpoints_and_vips() {
    let mut v = web();
    v.network.lb_addresses = vec![net("10.0.1.254/24")];
    let plan = plan(&views([v]), &[]);
    let n = &plan.networks[&4097];
    assert_eq!(n.peers, BTreeSet::from([ip("192.168.9.2")]), "not the node itself");
    assert_eq!(n.endpoints[&ip("10.0.1.3")].at, Location::Local("web1id".into()));
    assert_eq!(n.endpoints[&ip("10.0.1.4")].at, Location::Remote(ip("192.168.9.2")));
    assert_eq!(n.endpoints[&ip("10.0.1.4")].mac.to_string(), "02:42:0a:00:01:04");
    assert_eq!(n.vips[&ip("10.0.1.2")], [ip("10.0.1.3"), ip("10.0.1.4")]);
    assert_eq!(n.vips[&ip("10.0.1.9")], [] as [IpAddr; 0]);
    assert_eq!((n.gateways.clone(), n.lb_addresses.clone()), ([ip("10.0.1.1")].into(), [ip("10.0.1.254")].into()));
}

#[test]
fn what_drains_is_reachable_but_no_backend() {
    let mut v = web();
    v.endpoints.get_mut("web1id").unwrap().serving = false;
    let plan = plan(&views([v]), &[]);
    let n = &plan.networks[&4097];
    assert!(n.endpoints.contains_key(&ip("10.0.1.3")));
    assert_eq!(n.vips[&ip("10.0.1.2")], [ip("10.0.1.4")]);
}

#[test]
fn an_endpoint_behind_an_unknown_node_is_not_reachable() {
    let mut v = web();
    v.peers.remove("n2");
    assert!(!plan(&views([v]), &[]).networks[&4097].endpoints.contains_key(&ip("10.0.1.4")));
}

#[test]
fn both_addresses_of_an_interface_share_its_mac() {
    let mut v = web();
    v.endpoints.get_mut("web2id").unwrap().addresses = vec![net("fd00::4/64"), net("10.0.1.4/24")];
    v.services.get_mut("web").unwrap().vips.push(net("fd00::2/64"));
    let plan = plan(&views([v]), &[]);
    let n = &plan.networks[&4097];
    assert_eq!(n.endpoints[&ip("fd00::4")].mac, mac_of(ip("10.0.1.4")));
    assert_eq!(n.vips[&ip("fd00::2")], [ip("fd00::4")], "backends of the VIP's own family");
}

#[test]
fn a_stand_alone_container_lives_in_the_sandbox_of_its_container() {
    let mut v = web();
    endpoint(&mut v, "att", 1, "n1", "10.0.1.7/24");
    let spec = TaskSpec {
        network_attachment_spec: Some(NetworkAttachmentSpec { container_id: "c0ffee".into() }),
        ..TaskSpec::default()
    };
    let task = Task { id: "att1id".into(), spec, ..Task::default() };
    let plan = plan(&views([v]), &[Arc::new(task)]);
    assert_eq!(plan.networks[&4097].endpoints[&ip("10.0.1.7")].at, Location::Local("c0ffee".into()));
}

#[test]
fn mesh_ports_lead_to_the_serving_tasks() {
    let mut v = view("ingress", 4096, "10.0.0.0/24");
    service(&mut v, "web", &[], &["10.0.0.2/24"]);
    service(&mut v, "idle", &[], &["10.0.0.9/24"]);
    let mesh = PortConfig { target_port: 3000, published_port: 5000, ..PortConfig::default() };
    port(&mut v, "web", mesh.clone());
    port(&mut v, "web", PortConfig { publish_mode: PublishMode::Host, published_port: 1, ..mesh.clone() });
    port(&mut v, "idle", PortConfig { protocol: Protocol::Udp, ..mesh });
    endpoint(&mut v, "web", 1, "n2", "10.0.0.3/24");
    endpoint(&mut v, "web", 2, "n1", "10.0.0.4/24");
    v.endpoints.get_mut("web2id").unwrap().serving = false;
    let plan = plan(&views([v, web()]), &[]);
    let keys: Vec<_> = plan.published.keys().copied().collect();
    assert_eq!(keys, [(Protocol::Tcp, 5000), (Protocol::Udp, 5000)]);
    let tcp = &plan.published[&(Protocol::Tcp, 5000)];
    assert_eq!((tcp.vni, &tcp.backends[..]), (4096, &[IngressBackend { addr: ip("10.0.0.3"), target_port: 3000 }][..]));
    assert!(plan.published[&(Protocol::Udp, 5000)].backends.is_empty());
}

fn task(networks: &[(&str, &str)]) -> Task {
    let config = |n: &str| NetworkAttachmentConfig { target: n.into(), ..NetworkAttachmentConfig::default() };
    let spec = TaskSpec { networks: networks.iter().map(|(n, _)| config(n)).collect(), ..TaskSpec::default() };
    Task { id: "t".into(), spec, networks: networks.iter().map(|(n, a)| attachment(n, a)).collect(), ..Task::default() }
}

fn sandbox(task: &Task, views: &Views) -> SandboxPlan {
    match task_sandbox(task, views).unwrap() {
        NetworkMode::Sandbox(plan) => plan,
        NetworkMode::Host => panic!("host"),
    }
}

#[test]
fn links_are_user_networks_in_order_then_ingress_then_gwbridge() {
    let all = views([web(), view("b", 4098, "10.0.2.0/24"), view("ingress", 4096, "10.0.0.0/24")]);
    let mut t = task(&[("b", "10.0.2.5/24"), ("mynet", "10.0.1.5/24")]);
    t.networks.insert(0, attachment("ingress", "10.0.0.5/24"));
    t.networks.swap(1, 2);
    let plan = sandbox(&t, &all);
    assert_eq!(plan.links.iter().map(|l| l.vni).collect::<Vec<_>>(), [4098, 4097, 4096]);
    assert_eq!(plan.links.iter().map(|l| l.ingress).collect::<Vec<_>>(), [false, false, true]);
    assert!(plan.gwbridge);
    assert_eq!(plan.interface_names(), ["eth0", "eth1", "eth2", "eth3"]);
    assert_eq!(plan.links[0].mac, Mac([2, 0x42, 10, 0, 2, 5]));
    assert_eq!(plan.links[0].mtu, 1450);
    assert_eq!(plan.own_addresses(), [ip("10.0.2.5"), ip("10.0.1.5")]);
}

#[test]
fn options_of_networks_and_endpoints_are_kept() {
    let mut v = web();
    v.network.spec.options.insert("com.docker.network.driver.mtu".into(), "9000".into());
    let second = malha_model::IpamConfig { subnet: Some(net("10.0.9.0/24")), ..Default::default() };
    v.network.ipam.push(second);
    let mut t = task(&[("mynet", "10.0.1.5/24")]);
    t.networks[0].driver_opts.insert("com.docker.network.endpoint.ifname".into(), "front0".into());
    t.endpoint.ports =
        vec![PortConfig { publish_mode: PublishMode::Host, ..PortConfig::default() }, PortConfig::default()];
    let plan = sandbox(&t, &views([v.clone()]));
    assert_eq!((plan.links[0].mtu, plan.links[0].other_subnets.clone()), (8950, vec![net("10.0.9.0/24")]));
    assert_eq!(plan.interface_names(), ["front0", "eth0"]);
    assert_eq!(plan.host_ports.len(), 1);
    v.network.spec.options.insert("com.docker.network.driver.mtu".into(), "lots".into());
    assert!(matches!(task_sandbox(&t, &views([v])), Err(PlanError::BadMtu { .. })));
    t.networks[0].driver_opts.insert("com.docker.network.endpoint.ifname".into(), "a/b".into());
    assert!(matches!(task_sandbox(&t, &views([web()])), Err(PlanError::BadInterface(_))));
    t.networks[0].network = "gone".into();
    assert_eq!(task_sandbox(&t, &views([web()])), Err(PlanError::UnknownNetwork("gone".into())));
}

#[test]
fn internal_networks_alone_have_no_way_out() {
    let mut v = web();
    v.network.spec.internal = true;
    let all = views([v, view("ingress", 4096, "10.0.0.0/24")]);
    assert!(!sandbox(&task(&[("mynet", "10.0.1.5/24")]), &all).gwbridge);
    assert!(sandbox(&task(&[("mynet", "10.0.1.5/24"), ("ingress", "10.0.0.5/24")]), &all).gwbridge);
    assert!(sandbox(&task(&[]), &all).gwbridge, "no network is the default bridge");
}

#[test]
fn the_nodes_own_network_needs_no_sandbox() {
    let mut host = view("host", 1, "10.0.0.0/24");
    host.network.spec.driver = "host".into();
    host.network.vnis.clear();
    let mut bridge = host.clone();
    bridge.network.id = "bridge".into();
    bridge.network.spec.driver = "bridge".into();
    let all = views([host, bridge]);
    let mut t = task(&[("host", "10.0.0.5/24")]);
    assert_eq!(task_sandbox(&t, &all), Ok(NetworkMode::Host));
    t.networks[0].network = "bridge".into();
    let plan = sandbox(&t, &all);
    assert!(plan.links.is_empty() && plan.gwbridge);
    assert!(build_plan(&NodeInputs { node: "n1".into(), views: &all, local: &[] }).networks.is_empty());
}

prop_compose! {
    /// A network with some services and tasks in any state on any node, one of them unknown.
    fn any_view()(
        tasks in prop::collection::vec((0u8..4, 0u8..4, any::<bool>()), 0..40),
        vips in prop::collection::vec(any::<bool>(), 4),
    ) -> NetworkView {
        let mut v = view("mynet", 4097, "10.0.0.0/16");
        for (s, vip) in vips.iter().enumerate() {
            let vip_addr = format!("10.0.1.{s}/16");
            let vips: &[&str] = if *vip { &[&vip_addr] } else { &[] };
            service(&mut v, &format!("s{s}"), &["shared"], vips);
        }
        for (i, (s, node, serving)) in tasks.into_iter().enumerate() {
            let id = endpoint(&mut v, &format!("s{s}"), i as u32, &format!("n{node}"), &format!("10.0.2.{i}/16"));
            v.endpoints.get_mut(&id).unwrap().serving = serving;
        }
        v
    }
}

proptest! {
    #[test]
    fn plans_and_names_hold_exactly_what_the_view_says(v in any_view()) {
        let all = views([v.clone()]);
        let plan = plan(&all, &[]);
        let n = &plan.networks[&4097];
        let serving: BTreeSet<IpAddr> =
            v.endpoints.values().filter(|e| e.serving).map(|e| e.addresses[0].addr()).collect();
        for (addr, e) in &n.endpoints {
            if let Location::Remote(peer) = e.at {
                prop_assert!(n.peers.contains(&peer), "{addr} is behind a stranger");
            }
        }
        let known = v.endpoints.values().filter(|e| v.peers.contains_key(&e.node)).count();
        prop_assert_eq!(n.endpoints.len(), known);
        let backends: BTreeSet<IpAddr> = n.vips.values().flatten().copied().collect();
        prop_assert!(backends.is_subset(&serving));
        let vips: usize = v.services.values().map(|s| s.vips.len()).sum();
        prop_assert_eq!(n.vips.len(), vips);

        let zone = build_net_zone(&v, None);
        let allowed: BTreeSet<IpAddr> = serving.iter().chain(n.vips.keys()).copied().collect();
        for (name, addrs) in &zone.names {
            prop_assert!(!addrs.is_empty() && addrs.is_sorted(), "{name}");
            prop_assert!(addrs.iter().all(|a| allowed.contains(a)), "{name}");
            prop_assert_eq!(name, &name.to_lowercase());
        }
        let reverse: BTreeSet<IpAddr> = zone.reverse.keys().copied().collect();
        prop_assert_eq!(reverse, allowed, "every address has its name");
        prop_assert_eq!(&zone, &build_net_zone(&v, None));
    }
}
