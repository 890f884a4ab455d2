//! The daemon goes and returns; packets do not notice.

use std::net::Ipv4Addr;

use malha_model::Protocol;

use crate::{
    servers::{self, Conversation},
    world::{INGRESS, World},
};

const NET: u32 = 4105;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 7, 105, 200);

fn world() -> World {
    furnish(World::new(2))
}

fn furnish(mut world: World) -> World {
    world.network(NET);
    world.network(INGRESS);
    world.container("a", 0, 2, &[NET, INGRESS]);
    world.container("b", 1, 3, &[NET, INGRESS]);
    world.vip(NET, VIP, &["b"]);
    world.publish(Protocol::Tcp, 5000, 3000, &["b"]);
    world.apply();
    servers::tcp(&world.containers["b"].netns, "b", 3000);
    world
}

#[test]
fn everything_goes_on_without_the_daemon_and_with_the_next() {
    let mut world = world();
    let mut held = world.order("a", &format!("hold {VIP}:3000"));
    held.line().unwrap();
    let mut outside = Conversation::open(&world.client(), (world.nodes[0].address, 5000));
    for step in ["before", "away", "back"] {
        match step {
            "away" => world.nodes.iter_mut().for_each(crate::world::Node::stop),
            "back" => world.nodes.iter_mut().for_each(crate::world::Node::start),
            _ => {}
        }
        assert_eq!(held.say(step), Some(format!("b echoes {step}")));
        assert_eq!(outside.say(step).unwrap(), format!("b echoes {step}"));
        assert!(world.ping("a", world.address("b", NET)));
        assert_eq!(world.order("a", &format!("get {VIP}:3000 1")).lines().len(), 1);
        assert!(servers::get(&world.client(), (world.nodes[0].address, 5000)).is_ok());
    }
    // what it reads back is what the plan says
    for n in 0..2 {
        assert_eq!(world.nodes[n].dataplane().apply(&world.plan(n)).unwrap().writes, 0);
    }
}

#[test]
fn no_packet_is_lost_while_the_daemon_returns() {
    let mut world = world();
    let (from, to) = (world.containers["a"].netns.clone(), world.address("b", NET));
    let ping = std::process::Command::new("ip")
        .args(["netns", "exec", &from, "busybox", "ping", "-c", "150", "-i", "0.02", "-W", "1", &to.to_string()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    for _ in 0..3 {
        for node in &mut world.nodes {
            node.stop();
            node.start();
        }
        world.apply();
    }
    let said = String::from_utf8(ping.wait_with_output().unwrap().stdout).unwrap();
    assert!(said.contains("150 packets received, 0% packet loss"), "{said}");
}

/// As when a new version comes: its programs are loaded beside the old ones and put in their place.
#[test]
fn other_programs_take_over_without_a_gap() {
    let mut world = world();
    let mut held = world.order("a", &format!("hold {VIP}:3000"));
    held.line().unwrap();
    let programs = |world: &World| {
        let dir = world.nodes[0].pin_dir().join("programs");
        std::fs::read_dir(dir).unwrap().flatten().map(|e| e.path()).collect::<Vec<_>>()
    };
    let own = programs(&world);
    for node in &mut world.nodes {
        node.stop();
        let dir = node.pin_dir().join("programs");
        let own = std::fs::read_dir(&dir).unwrap().flatten().next().unwrap().path();
        std::fs::rename(own, dir.join("older")).unwrap();
        node.start();
    }
    assert_eq!(programs(&world), own, "the older version is unpinned");
    assert_eq!(held.say("updated"), Some("b echoes updated".to_owned()));
    assert!(world.ping("a", world.address("b", NET)));
}

/// A backend that went while the daemon was away: its sockets end as soon as the daemon knows where they are.
#[test]
fn sockets_of_a_backend_that_went_meanwhile_end() {
    let mut world = world();
    let mut held = world.order("a", &format!("hold {VIP}:3000"));
    held.line().unwrap();
    world.nodes[0].stop();
    world.nodes[0].start();
    world.forget("b");
    world.apply();
    world.scope("a");
    let said = held.say("gone").unwrap();
    assert!(said.starts_with("error"), "{said}");
}

#[test]
fn a_link_that_goes_takes_its_endpoints_along() {
    let world = world();
    let node = world.nodes[0].dataplane();
    let ifindex = node.link_of("a", NET).unwrap();
    node.detach_link(ifindex).unwrap();
    assert_eq!(node.link_of("a", NET), None);
    assert!(!world.ping("a", world.address("b", NET)));
    node.detach_link(ifindex).unwrap();
}

/// A link that is made anew, outside of any plan: the container is reached by the new one.
#[test]
fn another_link_takes_the_endpoints_over() {
    let world = world();
    let address = world.address("a", NET);
    assert!(world.ping("b", address));
    world.rewire("a", NET);
    assert!(world.ping("b", address));
    assert!(world.ping("a", world.address("b", NET)));
    assert_eq!(world.nodes[0].dataplane().apply(&world.plan(0)).unwrap().writes, 0, "as the plan says");
}

/// An apply that fails halfway has made changes: sockets of those who went are ended all the same.
#[test]
fn sockets_end_though_the_apply_fails() {
    for map in ["services", "epochs", "connected"] {
        let mut world = world();
        let mut held = world.order("a", &format!("hold {VIP}:3000"));
        held.line().unwrap();
        let address = world.address("b", NET).into();
        world.networks.get_mut(&NET).unwrap().endpoints.get_mut(&address).unwrap().owner += 1;
        world.vip(NET, Ipv4Addr::new(10, 7, 105, 201), &["b"]);
        crate::world::freeze(world.nodes[0].pin_dir(), map);
        world.nodes[0].dataplane().apply(&world.plan(0)).unwrap_err();
        let said = held.say("gone").unwrap();
        assert!(said.starts_with("error"), "{map}: {said}");
    }
}

/// A container that ended while the daemon was away leaves no attachment.
#[test]
fn devices_that_went_meanwhile_are_forgotten() {
    let mut world = world();
    world.nodes[0].stop();
    crate::world::run(&format!("ip -n {} link del va{NET}", world.nodes[0].netns));
    world.nodes[0].start();
    assert_eq!(world.nodes[0].dataplane().link_of("a", NET), None);
    assert!(world.nodes[0].dataplane().link_of("a", INGRESS).is_some());
    let links = std::fs::read_dir(world.nodes[0].pin_dir().join("links")).unwrap().flatten();
    assert!(!links.into_iter().any(|e| e.file_name().to_string_lossy().contains(&format!("link@{NET}@"))));
}

#[test]
fn removal_leaves_nothing() {
    let world = world();
    for node in &world.nodes {
        node.dataplane().remove().unwrap();
        assert!(!node.pin_dir().exists());
    }
    assert!(!world.ping("a", world.address("b", NET)));
}

/// Kernels before 6.6 attach programs as filters.
#[test]
fn filters_do_where_there_is_no_tcx() {
    let mut world = furnish(World::with_hook(2, malha_dataplane::ebpf::TcHook::Clsact));
    let filters = |world: &World, device: &str| {
        crate::world::run(&format!("tc -n {} filter show dev {device} ingress", world.nodes[0].netns))
    };
    let container = format!("va{NET}");
    let mut held = world.order("a", &format!("hold {VIP}:3000"));
    held.line().unwrap();
    for step in ["before", "back", "updated"] {
        for node in &mut world.nodes {
            if step == "before" {
                continue;
            }
            node.stop();
            if step == "updated" {
                let dir = node.pin_dir().join("programs");
                let own = std::fs::read_dir(&dir).unwrap().flatten().next().unwrap().path();
                std::fs::rename(own, dir.join("older")).unwrap();
            }
            node.start();
        }
        assert_eq!(held.say(step), Some(format!("b echoes {step}")));
        assert!(world.ping("a", world.address("b", NET)));
        assert!(servers::get(&world.client(), (world.nodes[0].address, 5000)).is_ok());
        assert!(servers::get(&world.nodes[0].netns, (Ipv4Addr::LOCALHOST, 5000)).is_ok());
        assert_eq!(filters(&world, &container).matches("direct-action").count(), 1);
    }
    let node = world.nodes[0].dataplane();
    node.detach_link(node.link_of("a", NET).unwrap()).unwrap();
    assert_eq!(filters(&world, &container), "");
    node.remove().unwrap();
    for device in ["eth0", "lo", "malha0"] {
        assert_eq!(filters(&world, device), "");
    }
}
