//! Subnets, addresses, VIPs, VNIs and ports.

use std::collections::BTreeSet;

use malha_model::{ControlRequest as R, *};
use rand::SeedableRng;

use super::world::*;

fn addresses(w: &World, id: &ServiceId) -> Vec<String> {
    w.wanted(id).iter().flat_map(|t| &t.networks).flat_map(|a| &a.addresses).map(ToString::to_string).collect()
}

#[test]
fn a_swarm_starts_with_ingress_host_and_bridge() {
    let w = World::new(0);
    let ingress = w.state.ingress().unwrap();
    assert_eq!(ingress.vnis, [4096]);
    assert_eq!(ingress.ipam[0].subnet.unwrap().to_string(), "10.0.0.0/24");
    assert_eq!(ingress.ipam[0].gateway.unwrap().to_string(), "10.0.0.1");
    assert_eq!(ingress.lb_addresses[0].to_string(), "10.0.0.2/24");
    let predefined: Vec<_> = w.state.networks().filter(|n| n.predefined).map(|n| n.spec.name.clone()).collect();
    assert_eq!(predefined.len(), 2);
}

#[test]
fn subnets_are_cut_from_the_pools_in_order() {
    let mut w = World::with_pool(0, &["10.20.0.0/23", "10.30.0.0/24"], 24);
    let a = w.create_network("a", |_| {});
    let subnet = |w: &World, id| w.state.network(id).unwrap().ipam[0].subnet.unwrap().to_string();
    assert_eq!(subnet(&w, &a), "10.20.1.0/24");
    assert_eq!(w.state.network(&a).unwrap().vnis, [4097]);
    let b = w.create_network("b", |_| {});
    assert_eq!(subnet(&w, &b), "10.30.0.0/24");
    let (text, status) = w.refused(R::NetworkCreate { spec: network_spec("c", |_| {}) });
    assert_eq!(status, 400);
    assert!(text.ends_with("all predefined address pools have been fully subnetted"), "{text}");
    w.ask(R::NetworkRemove { id: "a".into() }).unwrap();
    w.create_network("c", |_| {});
}

#[test]
fn no_network_lies_where_a_node_has_a_way_of_its_own_to() {
    let mut w = World::new(2);
    w.route("n2", &["10.0.2.0/23", "172.18.0.0/16"]);
    let spec = |text: &str| network_spec("net", |n| n.ipam.config.push(subnet(text)));
    for (asked, route) in [("172.18.7.0/24", "172.18.0.0/16"), ("172.16.0.0/12", "172.18.0.0/16")] {
        let (text, status) = w.refused(R::NetworkCreate { spec: spec(asked) });
        assert_eq!(status, 403, "as for another network's subnet");
        let end = format!(
            "Pool overlaps with other one on this address space: {asked} overlaps the route {route} (eth7) of node host-n2"
        );
        assert!(text.ends_with(&end), "{text}");
    }
    w.ask(R::NetworkCreate { spec: spec("172.19.0.0/16") }).unwrap();
    // What the node leaves of the pool is given out in order.
    let mut got = Vec::new();
    for name in ["a", "b"] {
        let id = w.create_network(name, |_| {});
        got.push(w.state.network(&id).unwrap().ipam[0].subnet.unwrap().to_string());
    }
    assert_eq!(got, ["10.0.1.0/24", "10.0.4.0/24"]);
    // One that is there already stays, whatever routes a node comes with.
    w.route("n1", &["10.0.0.0/8"]);
    w.create(service_spec("web", |s| on_network(s, "a")));
    let (text, status) = w.refused(R::NetworkCreate { spec: network_spec("c", |_| {}) });
    let end = "pools have been fully subnetted, or overlap the route 10.0.0.0/8 (eth7) of node host-n1";
    assert!(status == 400 && text.ends_with(end), "{text}");
}

#[test]
fn any_overlap_with_a_route_is_found_and_no_neighbour() {
    let mut w = World::new(2);
    w.route("n1", &["10.1.0.0/16", "10.3.3.0/24"]);
    w.route("n2", &["10.1.7.0/24", "10.4.0.0/16"]);
    for (asked, overlapped) in [
        ("10.1.0.0/16", Some("10.1.0.0/16")),
        ("10.1.255.0/24", Some("10.1.0.0/16")),
        ("10.1.7.0/24", Some("10.1.0.0/16")),
        ("10.3.3.128/25", Some("10.3.3.0/24")),
        ("10.2.0.0/15", Some("10.3.3.0/24")),
        ("10.4.0.0/14", Some("10.4.0.0/16")),
        ("10.2.0.0/16", None),
        ("10.3.2.0/24", None),
        ("10.3.4.0/24", None),
        ("10.5.0.0/16", None),
        ("9.0.0.0/8", None),
    ] {
        let spec = network_spec("net", |n| n.ipam.config.push(subnet(asked)));
        match overlapped {
            Some(route) => {
                let (text, _) = w.refused(R::NetworkCreate { spec });
                assert!(text.contains(&format!("{asked} overlaps the route {route} (eth7)")), "{text}");
            }
            None => {
                w.ask(R::NetworkCreate { spec }).unwrap();
                w.ask(R::NetworkRemove { id: "net".into() }).unwrap();
            }
        }
    }
}

#[test]
fn the_ingress_network_is_cut_beside_what_the_first_node_reaches() {
    let ingress = |routes: &[&str]| {
        let mut rng = rand::rngs::SmallRng::seed_from_u64(1);
        let mut ctx = malha_control::Ctx { now: START, rng: &mut rng, tokens: &Tokens };
        let mut first = malha_control::new_node("n1".into(), Role::Manager, Availability::Active, START);
        first.description.routes = routes.iter().map(|r| route(r)).collect();
        let params = malha_control::Bootstrap {
            cluster: "cluster".into(),
            first,
            spec: defaults::cluster_spec(),
            root_ca: RootCa::default(),
            default_addr_pool: Vec::new(),
            subnet_size: 0,
            data_path_port: 0,
        };
        let objects = malha_control::bootstrap(&mut ctx, params)?;
        assert_eq!(objects.iter().filter(|o| o.id() == "n1").count(), 1);
        let network = objects.into_iter().find_map(|o| match o {
            Object::Network(n) if n.spec.ingress => Some(n),
            _ => None,
        });
        Ok::<_, ApiError>(network.unwrap().ipam[0].subnet.unwrap().to_string())
    };
    assert_eq!(ingress(&[]).unwrap(), "10.0.0.0/24");
    assert_eq!(ingress(&["10.0.0.0/16", "172.18.0.0/16"]).unwrap(), "10.1.0.0/24");
    let refused = ingress(&["10.0.0.0/8"]).unwrap_err();
    assert!(refused.http_status() == 400 && refused.message.contains("the route 10.0.0.0/8 (eth7)"), "{refused}");
}

#[test]
fn a_new_service_is_assigned_in_its_own_transaction() {
    let mut w = World::new(2);
    let net = w.create_network("net", |_| {});
    let id = w.create(service_spec("web", |s| {
        replicas(s, 2);
        on_network(s, "net");
        publish(s, 0, 80, PublishMode::Ingress);
    }));
    let service = w.service(&id).clone();
    let ingress = w.state.ingress().unwrap().id.clone();
    let vips: Vec<_> = service.endpoint.virtual_ips.iter().map(|v| (v.network.clone(), v.addr.to_string())).collect();
    assert_eq!(vips, [(net.clone(), "10.0.1.3/24".to_owned()), (ingress.clone(), "10.0.0.3/24".to_owned())]);
    assert_eq!(service.endpoint.ports[0].published_port, 30000);
    let tasks = w.wanted(&id);
    assert_eq!(tasks.len(), 2);
    for task in &tasks {
        assert_eq!(task.status.state, TaskState::Assigned);
        assert_eq!(task.status.message, "scheduler assigned task to node");
        let on: Vec<_> = task.networks.iter().map(|a| a.network.clone()).collect();
        assert_eq!(on, [net.clone(), ingress.clone()], "own networks in spec order, then ingress");
    }
    let given: BTreeSet<_> = addresses(&w, &id).into_iter().collect();
    let expected = ["10.0.0.4/24", "10.0.0.5/24", "10.0.1.4/24", "10.0.1.5/24"];
    assert_eq!(given, expected.map(str::to_owned).into());
}

#[test]
fn freed_addresses_rest_until_the_range_comes_round() {
    let mut w = World::new(1);
    w.create_network("net", |n| n.ipam.config.push(subnet("10.5.0.0/29")));
    let spec = |name: &str| {
        service_spec(name, |s| {
            on_network(s, "net");
            s.endpoint_spec.get_or_insert_default().mode = "dnsrr".into();
        })
    };
    // .1 gateway, .2 load balancer: .3 to .6 are left.
    let mut seen = Vec::new();
    for i in 0..6 {
        let id = w.create(spec(&format!("s{i}")));
        seen.extend(addresses(&w, &id));
        w.settle();
        w.ask(R::ServiceRemove { id: id.to_string() }).unwrap();
        w.settle();
    }
    let expected = ["10.5.0.3/29", "10.5.0.4/29", "10.5.0.5/29", "10.5.0.6/29", "10.5.0.3/29", "10.5.0.4/29"];
    assert_eq!(seen, expected);
}

#[test]
fn exhaustion_is_said_and_heals() {
    let mut w = World::new(1);
    w.create_network("net", |n| n.ipam.config.push(subnet("10.5.0.0/29")));
    w.create_network("other", |_| {});
    let web = w.create(service_spec("web", |s| {
        on_network(s, "other");
        on_network(s, "net");
        replicas(s, 5);
    }));
    w.settle();
    assert_eq!(w.running(&web), 3, "gateway, load balancer and VIP leave three");
    let stuck: Vec<_> = w.wanted(&web).into_iter().filter(|t| t.status.state == TaskState::New).collect();
    assert_eq!(stuck.len(), 2);
    assert_eq!(stuck[0].status.err, "network net has no free addresses in 10.5.0.0/29");
    let (text, status) =
        w.refused(R::ServiceCreate { spec: service_spec("b", |s| on_network(s, "net")), registry_auth: None });
    assert_eq!((status, text.contains("network net has no free addresses")), (400, true));
    w.update(&web, |s| replicas(s, 2));
    w.settle();
    w.create(service_spec("b", |s| on_network(s, "net")));
}

#[test]
fn ranges_gateways_and_auxiliary_addresses_are_honoured() {
    let mut w = World::new(1);
    let net = w.create_network("net", |n| {
        n.ipam.config.push(IpamConfig {
            ip_range: Some("10.5.0.128/29".parse().unwrap()),
            gateway: Some("10.5.0.254".parse().unwrap()),
            auxiliary_addresses: [("router".to_owned(), "10.5.0.130".parse().unwrap())].into(),
            ..subnet("10.5.0.0/24")
        });
    });
    let id = w.create(service_spec("web", |s| {
        on_network(s, "net");
        replicas(s, 3);
    }));
    let network = w.state.network(&net).unwrap();
    assert_eq!(network.lb_addresses[0].to_string(), "10.5.0.128/24");
    assert_eq!(w.service(&id).endpoint.virtual_ips[0].addr.to_string(), "10.5.0.129/24");
    let mut got = addresses(&w, &id);
    got.sort();
    assert_eq!(got, ["10.5.0.131/24", "10.5.0.132/24", "10.5.0.133/24"]);
}

#[test]
fn vni_lists_are_honoured_and_unique() {
    let mut w = World::new(0);
    let option = "com.docker.network.driver.overlay.vxlanid_list".to_owned();
    let two = w.create_network("two", |n| {
        n.ipam.config = vec![subnet("10.7.0.0/24"), subnet("10.8.0.0/24")];
        n.options.insert(option.clone(), "300".into());
    });
    assert_eq!(w.state.network(&two).unwrap().vnis, [300, 4097]);
    let spec = network_spec("b", |n| _ = n.options.insert(option.clone(), "4097".into()));
    let (text, status) = w.refused(R::NetworkCreate { spec });
    assert_eq!(
        (text.as_str(), status),
        ("rpc error: code = FailedPrecondition desc = vxlan id 4097 is already in use", 400)
    );
}

#[test]
fn a_second_subnet_is_used_when_the_first_is_full() {
    let mut w = World::new(1);
    w.create_network("net", |n| n.ipam.config = vec![subnet("10.7.0.0/30"), subnet("10.8.0.0/29")]);
    let id = w.create(service_spec("web", |s| on_network(s, "net")));
    assert!(w.service(&id).endpoint.virtual_ips[0].addr.to_string().starts_with("10.8.0."));
    assert!(addresses(&w, &id)[0].starts_with("10.8.0."));
}

#[test]
fn automatic_ports_stay_over_updates() {
    let mut w = World::new(1);
    let a = w.create(service_spec("a", |s| publish(s, 0, 80, PublishMode::Ingress)));
    let b = w.create(service_spec("b", |s| {
        publish(s, 0, 80, PublishMode::Ingress);
        publish(s, 30002, 81, PublishMode::Ingress);
        publish(s, 0, 82, PublishMode::Ingress);
    }));
    let ports = |w: &World, id| w.service(id).endpoint.ports.iter().map(|p| p.published_port).collect::<Vec<_>>();
    assert_eq!(ports(&w, &a), [30000]);
    assert_eq!(ports(&w, &b), [30001, 30002, 30003]);
    w.ask(R::ServiceRemove { id: "a".into() }).unwrap();
    w.update(&b, |s| _ = s.endpoint_spec.as_mut().unwrap().ports.remove(1));
    assert_eq!(ports(&w, &b), [30001, 30003]);
    let mut udp = service_spec("u", |s| publish(s, 0, 53, PublishMode::Ingress));
    udp.endpoint_spec.as_mut().unwrap().ports[0].protocol = Protocol::Udp;
    let udp = w.create(udp);
    assert_eq!(ports(&w, &udp), [30000], "each protocol has its own range");
    let host = w.create(service_spec("h", |s| publish(s, 0, 53, PublishMode::Host)));
    assert_eq!(ports(&w, &host), [0], "the node's kernel chooses");
}

#[test]
fn vips_come_and_go_with_mode_and_networks() {
    let mut w = World::new(1);
    let a = w.create_network("a", |_| {});
    let b = w.create_network("b", |_| {});
    let id = w.create(service_spec("web", |s| on_network(s, "a")));
    let vip = w.service(&id).endpoint.virtual_ips[0].clone();
    w.update(&id, |s| on_network(s, "b"));
    let vips = &w.service(&id).endpoint.virtual_ips;
    assert_eq!((&vips[0], &vips[1].network), (&vip, &b));
    w.update(&id, |s| s.task_template.networks.retain(|n| n.target == b.as_str()));
    assert_eq!(w.service(&id).endpoint.virtual_ips.len(), 1);
    w.update(&id, |s| s.endpoint_spec.get_or_insert_default().mode = "dnsrr".into());
    assert!(w.service(&id).endpoint.virtual_ips.is_empty());
    w.settle();
    w.ask(R::NetworkRemove { id: a.to_string() }).unwrap();
}

#[test]
fn host_networking_needs_no_address() {
    let mut w = World::new(1);
    let id = w.create(service_spec("web", |s| on_network(s, "host")));
    let task = &w.wanted(&id)[0];
    assert_eq!(task.status.state, TaskState::Assigned);
    assert!(task.networks[0].addresses.is_empty());
    assert!(w.service(&id).endpoint.virtual_ips.is_empty());
    let views = malha_control::networks_of_node(&w.state, &"n1".into());
    assert!(views.contains(&task.networks[0].network), "the node learns that it is the host's network");
}
