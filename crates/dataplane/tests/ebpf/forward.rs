//! Containers of one network reach each other, and nobody else.

use malha_dataplane::ebpf::DropReason;

use crate::{
    servers,
    world::{INGRESS, World, run},
};

const NET: u32 = 4101;
const OTHER: u32 = 4102;

/// `a` and `b` on node 0, `c` on node 1.
fn three(vni: u32) -> World {
    let mut world = World::new(2);
    world.network(vni);
    world.container("a", 0, 2, &[vni]);
    world.container("b", 0, 3, &[vni]);
    world.container("c", 1, 4, &[vni]);
    world.apply();
    world
}

#[test]
fn containers_reach_each_other_on_a_node_and_across() {
    let world = three(NET);
    for (from, to) in [("a", "b"), ("b", "a"), ("a", "c"), ("c", "b")] {
        assert!(world.ping(from, world.address(to, NET)), "{from} to {to}");
    }
    for to in ["b", "c"] {
        let container = &world.containers[to];
        servers::tcp(&container.netns, to, 80);
        servers::udp(&container.netns, to, 53);
        let from = &world.containers["a"].netns;
        let me = world.address("a", NET);
        assert_eq!(servers::get(from, (world.address(to, NET), 80)), Ok(format!("{to} sees {me}")));
        let (answer, _) = servers::datagram(from, (world.address(to, NET), 53)).unwrap();
        assert_eq!(answer, format!("{to} sees {me}"));
    }
    let neighbours = run(&format!("ip -n {} neigh", world.containers["a"].netns));
    assert!(neighbours.contains("10.7.101.4 dev eth0 lladdr 02:42:0a:07:65:04"), "{neighbours}");
}

#[test]
fn gateway_answers_echo_and_strangers_do_not() {
    let world = three(NET);
    assert!(world.ping("a", "10.7.101.1"));
    assert!(!world.ping("a", "10.7.101.77"));
    assert!(world.dropped(0, DropReason::UnknownDestination) > 0);
}

#[test]
fn networks_do_not_meet() {
    let mut world = World::new(1);
    world.network(NET);
    world.network(OTHER);
    world.container("a", 0, 2, &[NET]);
    world.container("b", 0, 3, &[OTHER]);
    world.apply();
    run(&format!("ip -n {} route add 10.7.102.0/24 dev eth0", world.containers["a"].netns));
    assert!(!world.ping("a", world.address("b", OTHER)));
    assert!(world.dropped(0, DropReason::UnknownDestination) > 0);
}

#[test]
fn a_source_that_is_not_its_own_is_dropped_and_counted() {
    let world = three(NET);
    let a = &world.containers["a"].netns;
    let to = world.address("c", NET);
    assert!(world.ping("a", to));

    run(&format!("ip -n {a} addr add 10.7.101.99/24 dev eth0"));
    let spoof = |source: &str| {
        let ping = format!("ip netns exec {a} busybox ping -c 1 -W 1 -I {source} {to}");
        std::process::Command::new("sh").args(["-c", &ping]).output().unwrap().status.success()
    };
    assert!(!spoof("10.7.101.99"));
    assert!(world.dropped(0, DropReason::SpoofedAddress) > 0);

    run(&format!("ip -n {a} neigh flush dev eth0"));
    assert!(!spoof("10.7.101.99"));
    assert!(world.dropped(0, DropReason::SpoofedArp) > 0);

    run(&format!("ip -n {a} link set eth0 address 02:42:00:00:00:09"));
    assert!(!spoof("10.7.101.2"));
    assert!(world.dropped(0, DropReason::SpoofedMac) > 0);
}

#[test]
fn strangers_cannot_send_into_a_network() {
    let world = three(NET);
    let client = world.client();
    for (vni, reason) in [(NET, DropReason::UnknownPeer), (9999, DropReason::UnknownNetwork)] {
        run(&format!("ip -n {client} link add vx{vni} type vxlan id {vni} dstport 4789 remote 192.168.77.11"));
        run(&format!("ip -n {client} link set vx{vni} address 02:42:00:00:00:0{} up", vni % 10));
        run(&format!("ip -n {client} addr add 10.7.101.5{}/24 dev vx{vni}", vni % 10));
        let to = world.address("a", NET);
        run(&format!("ip -n {client} neigh add {to} lladdr 02:42:0a:07:65:02 dev vx{vni}"));
        let before = world.dropped(0, reason);
        let _ = servers::datagram(&client, (to, 9));
        assert!(world.dropped(0, reason) > before, "{}", reason.as_str());
        run(&format!("ip -n {client} link del vx{vni}"));
    }
    let stats = world.nodes[0].dataplane().stats().unwrap();
    assert!(stats.network_drops[&NET]["unknown-peer"] > 0);
    assert!(stats.network_drops[&0]["unknown-network"] > 0);
}

#[test]
fn containers_on_ingress_do_not_reach_each_other() {
    let world = three(INGRESS);
    for (from, to) in [("a", "b"), ("a", "c")] {
        servers::tcp(&world.containers[to].netns, to, 80);
        assert!(servers::get(&world.containers[from].netns, (world.address(to, INGRESS), 80)).is_err());
        assert!(!world.ping(from, world.address(to, INGRESS)));
    }
    assert!(world.dropped(0, DropReason::IngressIsolated) > 0);
}

#[test]
fn an_endpoint_that_is_forgotten_is_not_reached() {
    let mut world = three(NET);
    let to = world.address("b", NET);
    assert!(world.ping("a", to));
    world.forget("b");
    world.apply();
    assert!(!world.ping("a", to));
}

#[test]
fn ipv6_is_forwarded_and_solicited() {
    use malha_netplan::{EndpointPlan, Location, mac_of, owner_of};
    let mut world = three(NET);
    // The harness gives v4 links; the v6 address comes by attaching them again with both.
    for (name, v6) in [("a", "fd00:7::2"), ("b", "fd00:7::3"), ("c", "fd00:7::4")] {
        let container = world.containers[name].clone();
        let v4 = container.addresses[&NET];
        let address: std::net::IpAddr = v6.parse().unwrap();
        let ifindex = crate::world::link_index(&world.nodes[container.node].netns, &format!("v{name}{NET}"));
        let info = malha_dataplane::ebpf::LinkInfo {
            sandbox: name.to_owned(),
            vni: NET,
            addresses: vec![v4.into(), address],
            mac: mac_of(v4.into()),
            ingress: false,
            netns: None,
        };
        world.nodes[container.node].dataplane().attach_link(ifindex, &info).unwrap();
        run(&format!("ip -n {} addr add {v6}/64 dev eth0 nodad", container.netns));
        let at = Location::Local(name.to_owned());
        let plan = EndpointPlan { mac: mac_of(v4.into()), at, owner: owner_of(name) };
        world.networks.get_mut(&NET).unwrap().endpoints.insert(address, plan);
    }
    world.networks.get_mut(&NET).unwrap().gateways.insert("fd00:7::1".parse().unwrap());
    world.apply();
    for to in ["fd00:7::3", "fd00:7::4", "fd00:7::1"] {
        assert!(world.ping("a", to), "{to}");
    }
}
