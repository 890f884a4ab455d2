//! Each row of Docker's table of names, and the supersets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod common;

use std::{net::IpAddr, sync::Arc};

use common::{endpoint, ip, net, port, service, view, views};
use malha_model::{DnsConfig, EndpointRecord, NetworkView, PortConfig, TaskId};
use malha_netplan::{NetZone, Resolver, build_net_zone, build_zone, hosts_file};

fn web() -> NetworkView {
    let mut v = view("mynet", 4097, "10.0.1.0/24");
    service(&mut v, "web", &["www"], &["10.0.1.2/24"]);
    endpoint(&mut v, "web", 1, "n1", "10.0.1.3/24");
    endpoint(&mut v, "web", 2, "n2", "10.0.1.4/24");
    v
}

fn names(zone: &NetZone, name: &str) -> Vec<String> {
    zone.names.get(name).into_iter().flatten().map(IpAddr::to_string).collect()
}

#[test]
fn a_service_has_its_vip_and_its_tasks_by_name_and_alias() {
    let zone = build_net_zone(&web(), None);
    assert_eq!(zone.network, "mynet");
    for name in ["web", "www"] {
        assert_eq!(names(&zone, name), ["10.0.1.2"]);
        assert_eq!(names(&zone, &format!("tasks.{name}")), ["10.0.1.3", "10.0.1.4"]);
        assert_eq!(names(&zone, &format!("1.{name}")), ["10.0.1.3"]);
        assert_eq!(names(&zone, &format!("2.{name}")), ["10.0.1.4"]);
    }
    assert_eq!(names(&zone, "web.1.web1id"), ["10.0.1.3"]);
    assert_eq!(names(&zone, "host-web-2"), ["10.0.1.4"]);
    assert_eq!(names(&zone, "web.1"), [""; 0]);
    assert_eq!(zone.reverse[&ip("10.0.1.2")], "web.mynet");
    assert_eq!(zone.reverse[&ip("10.0.1.4")], "web.2.web2id.mynet");
}

#[test]
fn the_name_of_a_vip_lives_as_long_as_the_service() {
    let mut v = web();
    v.endpoints.clear();
    let zone = build_net_zone(&v, None);
    assert_eq!(names(&zone, "web"), ["10.0.1.2"]);
    assert!(!zone.names.contains_key("tasks.web"));
}

#[test]
fn what_does_not_serve_is_not_named() {
    let mut v = web();
    v.endpoints.get_mut("web1id").unwrap().serving = false;
    let zone = build_net_zone(&v, None);
    assert_eq!(names(&zone, "tasks.web"), ["10.0.1.4"]);
    assert!(!zone.names.contains_key("web.1.web1id"));
    assert!(!zone.reverse.contains_key(&ip("10.0.1.3")));
}

#[test]
fn without_a_vip_a_service_is_its_tasks() {
    let mut v = web();
    v.services.get_mut("web").unwrap().vips.clear();
    let zone = build_net_zone(&v, None);
    assert_eq!(names(&zone, "web"), ["10.0.1.3", "10.0.1.4"]);
    v.endpoints.clear();
    assert_eq!(build_net_zone(&v, None), NetZone { network: "mynet".into(), ..NetZone::default() });
}

#[test]
fn services_of_one_alias_are_merged_and_names_are_lower_case() {
    let mut v = web();
    service(&mut v, "API", &["WWW"], &["10.0.1.9/24"]);
    let zone = build_net_zone(&v, None);
    assert_eq!(names(&zone, "www"), ["10.0.1.2", "10.0.1.9"]);
    assert_eq!(names(&zone, "api"), ["10.0.1.9"]);
}

#[test]
fn host_names_merge_but_never_take_over_a_service() {
    let mut v = web();
    for e in v.endpoints.values_mut() {
        e.names = vec!["same".into(), "web".into()];
    }
    let zone = build_net_zone(&v, None);
    assert_eq!(names(&zone, "same"), ["10.0.1.3", "10.0.1.4"]);
    assert_eq!(names(&zone, "web"), ["10.0.1.2"]);
}

#[test]
fn stand_alone_containers_have_their_names() {
    let mut v = web();
    let record = EndpointRecord {
        task: "att".into(),
        name: "probe".into(),
        service: None,
        node: "n1".into(),
        addresses: vec![net("10.0.1.7/24")],
        names: vec!["0123456789ab".into(), "alias".into()],
        serving: true,
    };
    v.endpoints.insert(TaskId::from("att"), record);
    let zone = build_net_zone(&v, None);
    for name in ["probe", "0123456789ab", "alias"] {
        assert_eq!(names(&zone, name), ["10.0.1.7"]);
    }
    assert_eq!(zone.reverse[&ip("10.0.1.7")], "probe.mynet");
}

#[test]
fn published_and_target_ports_have_srv_records() {
    let mut ingress = view("ingress", 4096, "10.0.0.0/24");
    service(&mut ingress, "web", &[], &["10.0.0.5/24"]);
    let p = PortConfig { name: "http".into(), target_port: 3000, published_port: 5000, ..PortConfig::default() };
    port(&mut ingress, "web", p);
    let zone = build_net_zone(&web(), Some(&ingress));
    for label in ["http", "3000", "5000"] {
        let srv = &zone.services[&format!("_{label}._tcp.web")];
        assert_eq!((srv.len(), srv[0].port, srv[0].target.as_str()), (1, 3000, "web.mynet"));
        assert!(zone.services.contains_key(&format!("_{label}._tcp.www")));
    }
    let mut dnsrr = web();
    dnsrr.services.get_mut("web").unwrap().vips.clear();
    let zone = build_net_zone(&dnsrr, Some(&ingress));
    let targets: Vec<_> = zone.services["_3000._tcp.web"].iter().map(|s| s.target.as_str()).collect();
    assert_eq!(targets, ["web.1.web1id.mynet", "web.2.web2id.mynet"]);
    assert!(build_net_zone(&ingress, Some(&ingress)).is_empty(), "nobody is named on ingress");
}

#[test]
fn a_zone_follows_the_order_of_the_links() {
    let all = [web(), view("ingress", 4096, "10.0.0.0/24"), view("other", 4098, "10.0.2.0/24")];
    let mut all = views(all);
    service(Arc::make_mut(all.get_mut("other").unwrap()), "db", &[], &["10.0.2.2/24"]);
    let zones = all.iter().map(|(id, v)| (id.clone(), Arc::new(build_net_zone(v, None)))).collect();
    let order = ["other".into(), "mynet".into(), "ingress".into()];
    let resolver = Resolver::new("nameserver 1.1.1.1\n", None);
    let zone = build_zone(&order, &zones, &resolver, true);
    let got: Vec<_> = zone.networks.iter().map(|n| n.network.as_str()).collect();
    assert_eq!(got, ["other", "mynet"]);
    assert!(zone.forward && zone.upstreams[0].from_node && !zone.ndots_set);
    assert!(!build_zone(&order, &zones, &resolver, false).forward);
    let own = DnsConfig { nameservers: vec!["10.0.2.9".into()], ..DnsConfig::default() };
    assert!(build_zone(&order, &zones, &Resolver::new("", Some(&own)), false).forward, "its own server may be near");
}

#[test]
fn resolv_conf_is_the_nodes_with_what_the_user_set() {
    let node = "# c\nsearch a.example b.example\nnameserver 1.1.1.1\nnameserver fe80::1%eth0 ; odd\noptions edns0\n";
    let r = Resolver::new(node, None);
    let text = r.resolv_conf();
    assert!(text.contains("nameserver 127.0.0.11\nsearch a.example b.example\noptions edns0 ndots:0\n"), "{text}");
    assert!(text.ends_with("# ExtServers: [host(1.1.1.1)]\n"), "{text}");
    let own = DnsConfig {
        nameservers: vec!["9.9.9.9".into()],
        search: vec![".".into()],
        options: vec!["ndots:2".into(), "rotate".into()],
    };
    let r = Resolver::new(node, Some(&own));
    assert!(r.ndots_set && !r.upstreams[0].from_node);
    let text = r.resolv_conf();
    assert!(text.contains("nameserver 127.0.0.11\noptions ndots:2 rotate\n"), "{text}");
    assert!(text.ends_with("# ExtServers: [9.9.9.9]\n"), "{text}");
}

#[test]
fn hosts_has_the_own_name_for_each_user_network() {
    let text = hosts_file("web.example", &[ip("10.0.1.3"), ip("10.0.2.3")], &["1.2.3.4  db  db2".into()]);
    assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"));
    assert!(text.ends_with("1.2.3.4\tdb db2\n10.0.1.3\tweb.example web\n10.0.2.3\tweb.example web\n"), "{text}");
}
