//! Virtual IPs: translated at connect, spread evenly, ended with their backend.

use std::{collections::BTreeMap, net::Ipv4Addr};

use crate::{servers, world::World};

const NET: u32 = 4103;
const OTHER: u32 = 4104;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 7, 103, 200);

/// `a` is a client; `b` on its node and `c` on the other serve behind the VIP.
fn service() -> World {
    let mut world = World::new(2);
    world.network(NET);
    world.container("a", 0, 2, &[NET]);
    world.container("b", 0, 3, &[NET]);
    world.container("c", 1, 4, &[NET]);
    world.vip(NET, VIP, &["b", "c"]);
    world.apply();
    for name in ["b", "c"] {
        servers::tcp(&world.containers[name].netns, name, 80);
        servers::udp(&world.containers[name].netns, name, 53);
    }
    world
}

fn tally(lines: Vec<String>) -> BTreeMap<String, usize> {
    lines.into_iter().fold(BTreeMap::new(), |mut all, line| {
        *all.entry(line).or_default() += 1;
        all
    })
}

#[test]
fn connections_go_round_and_see_the_vip() {
    let world = service();
    let seen = tally(world.order("a", &format!("get {VIP}:80 10")).lines());
    let wanted = ["b", "c"].map(|n| (format!("{n} sees 10.7.103.2 peer {VIP}:80"), 5));
    assert_eq!(seen, BTreeMap::from(wanted));
}

#[test]
fn v6_sockets_find_the_vip_too() {
    let world = service();
    let seen = tally(world.order("a", &format!("get [::ffff:{VIP}]:80 4")).lines());
    let wanted = ["b", "c"].map(|n| (format!("{n} sees 10.7.103.2 peer [::ffff:{VIP}]:80"), 2));
    assert_eq!(seen, BTreeMap::from(wanted));
}

#[test]
fn the_vip_answers_echo() {
    let world = service();
    assert!(world.ping("a", VIP));
}

#[test]
fn a_datagram_socket_keeps_its_backend_while_it_lives() {
    let mut world = service();
    let seen = tally(world.order("a", &format!("udp {VIP}:53 6")).lines());
    assert_eq!(seen.len(), 1, "{seen:?}");
    let (said, count) = seen.first_key_value().unwrap();
    assert_eq!(*count, 6);
    assert!(said.ends_with(&format!("sees 10.7.103.2 from {VIP}:53")), "{said}");

    // the other node's backend goes: nobody gets it any more
    world.forget("c");
    world.apply();
    for _ in 0..3 {
        let seen = tally(world.order("a", &format!("udp {VIP}:53 2")).lines());
        assert_eq!(seen, BTreeMap::from([(format!("b sees 10.7.103.2 from {VIP}:53"), 2)]));
    }
}

#[test]
fn a_vip_without_backends_refuses_at_once() {
    let mut world = service();
    world.vip(NET, VIP, &[]);
    world.apply();
    assert_eq!(world.order("a", &format!("get {VIP}:80 1")).lines(), ["error 111"]);
    assert_eq!(world.order("a", &format!("udp {VIP}:53 1")).lines(), ["error 111"]);
    assert_eq!(world.order("a", &format!("probe {VIP}:53")).lines(), ["error 111"]);
    // the network itself answers echo, and ping of iputils begins like this
    assert_eq!(world.order("a", &format!("probe {VIP}:1025")).lines(), ["from 10.7.103.2"]);
    assert!(world.ping("a", VIP));
}

/// A container may end before the plan says so: nobody is led to where it was, to wait there for nothing.
#[test]
fn a_backend_that_is_gone_refuses_at_once() {
    let mut world = service();
    world.vip(NET, VIP, &["b"]);
    world.apply();
    let node = world.nodes[0].dataplane();
    node.detach_link(node.link_of("b", NET).unwrap()).unwrap();
    assert_eq!(world.order("a", &format!("get {VIP}:80 1")).lines(), ["error 111"]);
    let dump = node.dump().unwrap();
    let connected = dump.iter().find(|m| m.name == "connected").unwrap();
    assert!(connected.rows.is_empty(), "{:?}", connected.rows);
}

/// While one of several is so, it is everybody's turn but its own.
#[test]
fn others_stand_in_for_a_backend_that_is_gone() {
    let world = service();
    let node = world.nodes[0].dataplane();
    node.detach_link(node.link_of("b", NET).unwrap()).unwrap();
    let seen = tally(world.order("a", &format!("get {VIP}:80 4")).lines());
    assert_eq!(seen, BTreeMap::from([(format!("c sees 10.7.103.2 peer {VIP}:80"), 4)]));
    for _ in 0..2 {
        let seen = world.order("a", &format!("udp {VIP}:53 1")).lines();
        assert_eq!(seen, [format!("c sees 10.7.103.2 from {VIP}:53")]);
    }
}

#[test]
fn vips_mean_something_on_their_network_only() {
    let mut world = service();
    world.network(OTHER);
    world.container("d", 0, 9, &[OTHER]);
    world.apply();
    let said = world.order("d", &format!("get {VIP}:80 1")).lines();
    assert_eq!(said, [format!("error {}", libc::ENETUNREACH)]);
}

/// VIPs of the last network count as those of the first; a network too many is an error and not a silent loss.
#[test]
fn a_container_on_many_networks_finds_the_vip_on_its_last() {
    let world = service();
    let a = &world.containers["a"].netns;
    let path = format!("/run/netns/{a}");
    let node = world.nodes[0].dataplane();
    let scope = |others: u32| {
        let vnis: Vec<u32> = (5000..5000 + others).chain([NET]).collect();
        node.set_scope(crate::world::cookie(a), path.as_ref(), &vnis, None)
    };
    scope(127).unwrap();
    assert_eq!(world.order("a", &format!("get {VIP}:80 2")).lines().len(), 2);
    assert!(world.order("a", &format!("get {VIP}:80 1")).line().unwrap().contains("sees"));
    assert_eq!(world.order("a", &format!("udp {VIP}:53 1")).lines().len(), 1);
    let error = scope(128).unwrap_err().to_string();
    assert!(error.contains("129 networks"), "{error}");
}

#[test]
fn draining_keeps_connections_and_losing_the_endpoint_ends_them() {
    let mut world = service();
    let mut held: Vec<_> = (0..2).map(|_| world.order("a", &format!("hold {VIP}:80"))).collect();
    let names: Vec<String> = held.iter_mut().map(|h| h.line().unwrap()[..1].to_owned()).collect();
    assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 2);

    world.vip(NET, VIP, &["b"]);
    world.apply();
    for (holder, name) in held.iter_mut().zip(&names) {
        assert_eq!(holder.say("draining"), Some(format!("{name} echoes draining")));
    }
    assert_eq!(world.order("a", &format!("get {VIP}:80 3")).lines().len(), 3);

    world.forget("c");
    let applied = world.nodes[0].dataplane().apply(&world.plan(0)).unwrap();
    assert_eq!(applied.sockets, 1);
    world.apply();
    for (holder, name) in held.iter_mut().zip(&names) {
        let said = holder.say("gone").unwrap();
        if name == "c" {
            assert!(said.starts_with("error"), "{said}");
        } else {
            assert_eq!(said, "b echoes gone");
        }
    }
}

/// The next task on the same node with the same address is another: nobody is left with the old one's connection.
#[test]
fn another_owner_at_the_same_place_ends_sockets() {
    let mut world = service();
    world.vip(NET, VIP, &["c"]);
    world.apply();
    let mut held = world.order("a", &format!("hold {VIP}:80"));
    held.line().unwrap();
    assert_eq!(held.say("same"), Some("c echoes same".to_owned()));
    let address = world.address("c", NET).into();
    world.networks.get_mut(&NET).unwrap().endpoints.get_mut(&address).unwrap().owner += 1;
    let applied = world.nodes[0].dataplane().apply(&world.plan(0)).unwrap();
    assert_eq!((applied.writes, applied.gone, applied.sockets), (1, 1, 1));
    assert!(held.say("gone").unwrap().starts_with("error"));
    assert_eq!(world.nodes[0].dataplane().apply(&world.plan(0)).unwrap().writes, 0);
}

#[test]
fn closed_sockets_leave_nothing() {
    let world = service();
    world.order("a", &format!("get {VIP}:80 5")).lines();
    let dump = world.nodes[0].dataplane().dump().unwrap();
    let connected = dump.iter().find(|m| m.name == "connected").unwrap();
    assert!(connected.rows.is_empty(), "{:?}", connected.rows);
}

/// The container has a name server of its own on all addresses; the resolver is somewhere else all the same.
#[test]
fn the_resolvers_port_belongs_to_the_container() {
    let world = service();
    let a = &world.containers["a"].netns;
    servers::tcp(a, "own", 53);
    servers::udp(a, "own", 53);
    let (udp, tcp) = (servers::udp_at(a, "resolver", "127.0.0.11:0"), servers::tcp_at(a, "resolver", "127.0.0.11:0"));
    let dataplane = world.nodes[0].dataplane();
    dataplane.set_resolver(crate::world::cookie(a), udp, tcp).unwrap();
    world.scope("a"); // told again, it forgets no resolver
    let said = |order: &str| world.order("a", order).lines();
    assert_eq!(said("get 127.0.0.11:53 1"), ["resolver sees 127.0.0.1 peer 127.0.0.11:53"]);
    assert_eq!(said("get [::ffff:127.0.0.11]:53 1"), ["resolver sees 127.0.0.1 peer [::ffff:127.0.0.11]:53"]);
    assert_eq!(said("udp 127.0.0.11:53 2"), ["resolver sees 127.0.0.1 from 127.0.0.11:53"; 2]);
    assert_eq!(said("get 127.0.0.1:53 1"), ["own sees 127.0.0.1 peer 127.0.0.1:53"]);
    assert_eq!(said("udp 127.0.0.1:53 1"), ["own sees 127.0.0.1 from 127.0.0.1:53"]);
    assert_eq!(said(&format!("udp {VIP}:53 1")).len(), 1);
}

#[test]
fn one_change_is_one_or_two_writes() {
    let mut world = service();
    let node = |world: &World| world.nodes[0].dataplane().apply(&world.plan(0)).unwrap();
    assert_eq!(node(&world).writes, 0);
    world.vip(NET, VIP, &["b"]);
    assert!(node(&world).writes <= 3, "slot, count, slot past it");
    world.vip(NET, VIP, &["b", "c"]);
    assert_eq!(node(&world).writes, 2);
    world.vip(NET, VIP, &["b"]);
    node(&world);
    world.forget("c");
    assert_eq!(node(&world).writes, 1);
}
