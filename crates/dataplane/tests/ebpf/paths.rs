//! Packets between nodes go past the node's stack where a path is known, and never past what its administrator decided.

use std::{collections::BTreeMap, thread::sleep, time::Duration};

use crate::{
    servers::{self, within},
    world::{World, run, settle},
};

const NET: u32 = 4106;

/// `a` on node 0, `b` on node 1. Both nodes count the tunnel's packets that pass their stacks.
fn pair() -> World {
    let mut world = World::new(2);
    world.network(NET);
    world.container("a", 0, 2, &[NET]);
    world.container("b", 1, 3, &[NET]);
    world.apply();
    for node in &world.nodes {
        let nft = |what: &str| run(&format!("ip netns exec {} nft {what}", node.netns));
        nft("add table inet t");
        for hook in ["input", "output"] {
            nft(&format!("add chain inet t {hook} {{ type filter hook {hook} priority 0; }}"));
            nft(&format!("add counter inet t {hook}"));
            nft(&format!("add rule inet t {hook} udp dport 4789 counter name {hook}"));
        }
    }
    world
}

/// Of the tunnel, through the stack of a node since the last time: packets.
fn through_stack(world: &World, node: usize, hook: &str) -> u32 {
    counted(world, node, hook, "packets ") as u32
}

fn counted(world: &World, node: usize, hook: &str, what: &str) -> u64 {
    let said = run(&format!("ip netns exec {} nft reset counter inet t {hook}", world.nodes[node].netns));
    let number = said.split(what).nth(1).and_then(|rest| rest.split_whitespace().next());
    number.unwrap_or_else(|| panic!("{said}")).parse().unwrap()
}

/// How many of 50 echoes, one every 20 ms, came back.
fn echoes(world: &World) -> usize {
    let (from, to) = (&world.containers["a"].netns, world.address("b", NET));
    let ping = ["netns", "exec", from, "busybox", "ping", "-c", "50", "-i", "0.02", "-W", "1", &to.to_string()];
    let out = std::process::Command::new("ip").args(ping).output().unwrap();
    String::from_utf8_lossy(&out.stdout).lines().filter(|l| l.contains("bytes from")).count()
}

#[test]
fn a_known_path_is_taken() {
    let world = pair();
    assert!(world.ping("a", world.address("b", NET)));
    through_stack(&world, 0, "output");
    through_stack(&world, 1, "input");
    assert_eq!(echoes(&world), 50);
    assert_eq!(through_stack(&world, 0, "output"), 0);
    let admitted = through_stack(&world, 1, "input");
    assert!((1..25).contains(&admitted), "one a second or so is shown to the stack, on each processor: {admitted}");
}

#[test]
fn without_a_path_the_kernel_does_it() {
    let world = pair();
    for node in &world.nodes {
        node.dataplane().set_paths(&BTreeMap::new()).unwrap();
    }
    assert_eq!(echoes(&world), 50);
    assert!(through_stack(&world, 0, "output") >= 50);
    assert!(through_stack(&world, 1, "input") >= 50);
}

/// Whatever forbids the tunnel's packets forbids those on the short way too.
#[test]
fn the_nodes_firewall_is_heard() {
    let world = pair();
    assert_eq!(echoes(&world), 50);
    run(&format!("ip netns exec {} nft add rule inet t input udp dport 4789 drop", world.nodes[1].netns));
    sleep(Duration::from_millis(1200));
    assert_eq!(echoes(&world), 0);
    run(&format!("ip netns exec {} nft flush ruleset", world.nodes[1].netns));
    assert_eq!(echoes(&world), 50);
}

/// What does not fit a path in one piece is for the kernel to cut.
#[test]
fn large_packets_take_the_kernels_way() {
    let world = pair();
    for (n, node) in world.nodes.iter().enumerate() {
        node.dataplane().set_paths(&world.paths(n, 1400)).unwrap();
    }
    let (a, b) = (&world.containers["a"].netns, &world.containers["b"].netns);
    let to = (world.address("b", NET), 9000);
    let (sender, receiver) = (
        within(a, || std::net::UdpSocket::bind("0.0.0.0:0").unwrap()),
        within(b, || std::net::UdpSocket::bind("0.0.0.0:9000").unwrap()),
    );
    receiver.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut buffer = [0; 2000];
    // 20 + 8 inside, 50 around it, of which the outer Ethernet header does not count
    for (length, by_kernel) in [(100, 0), (1322, 0), (1323, 1), (1422, 1)] {
        sender.send_to(&vec![7; length], to).unwrap();
        assert_eq!(receiver.recv(&mut buffer).unwrap(), length);
        assert_eq!(through_stack(&world, 0, "output"), by_kernel, "{length}");
    }
    // segments that the kernel cuts later are measured one by one
    servers::tcp(b, "b", 80);
    let line = "x".repeat(300_000);
    let mut talk = servers::Conversation::open(a, (world.address("b", NET), 80));
    assert_eq!(talk.say(&line).unwrap(), format!("b echoes {line}"));
}

/// A source that is not its own is caught although another of the same container just passed.
#[test]
fn verdicts_are_for_the_very_addresses() {
    let world = pair();
    let a = &world.containers["a"].netns;
    assert_eq!(echoes(&world), 50);
    run(&format!("ip -n {a} addr add 10.7.106.99/24 dev eth0"));
    let to = world.address("b", NET);
    let spoof = format!("ip netns exec {a} busybox ping -c 1 -W 1 -I 10.7.106.99 {to}");
    assert!(!std::process::Command::new("sh").args(["-c", &spoof]).output().unwrap().status.success());
    assert!(world.dropped(0, malha_dataplane::ebpf::DropReason::SpoofedAddress) > 0);
    run(&format!("ip -n {a} addr del 10.7.106.99/24 dev eth0"));
    run(&format!("ip -n {a} link set eth0 address 02:42:00:00:00:09"));
    assert_eq!(echoes(&world), 0);
    assert!(world.dropped(0, malha_dataplane::ebpf::DropReason::SpoofedMac) > 0);
}

#[test]
fn congestion_marks_pass() {
    let world = pair();
    let (a, b) = (&world.containers["a"].netns, &world.containers["b"].netns);
    run(&format!("ip netns exec {b} nft add table inet m"));
    run(&format!("ip netns exec {b} nft add chain inet m c {{ type filter hook input priority 0; }}"));
    run(&format!("ip netns exec {b} nft add rule inet m c ip ecn ect0 counter"));
    let sender = within(a, || std::net::UdpSocket::bind("0.0.0.0:0").unwrap());
    socket2::SockRef::from(&sender).set_tos_v4(2).unwrap();
    for _ in 0..5 {
        sender.send_to(b"x", (world.address("b", NET), 9)).unwrap();
    }
    settle("five with their marks", || {
        run(&format!("ip netns exec {b} nft list chain inet m c")).contains("packets 5 ")
    });
}

/// Merged segments too, where a socket of the container is their end.
#[test]
fn large_transfers_pass_the_stack_by() {
    const SIZE: u64 = 64 << 20;
    let world = pair();
    let (a, b) = (&world.containers["a"].netns, &world.containers["b"].netns);
    let to = (world.address("b", NET), 9000);
    servers::sink(b, "b", 9000);
    assert_eq!(servers::pour(a, to, SIZE), format!("b got {SIZE}"));
    let long = counted(&world, 1, "input", "bytes ");
    assert!((1..SIZE / 4).contains(&long), "{long} of {SIZE}");
    // while the transfer goes on, a packet in each second is shown to the stack, and no more than that
    assert_eq!(servers::pour(a, to, 8 * SIZE), format!("b got {}", 8 * SIZE));
    let long = counted(&world, 1, "input", "bytes ");
    assert!(long < 2 * SIZE, "{long} of {}", 8 * SIZE);
}

/// The tunnel's marks would mislead a device that such segments leave by, so the kernel takes them off. That the
/// container listens on the port itself says nothing.
#[test]
fn merged_segments_that_are_passed_on_take_the_kernels_way() {
    const SIZE: u64 = 32 << 20;
    let world = pair();
    let (a, b) = (&world.containers["a"].netns, &world.containers["b"].netns);
    let far = world.behind("b");
    run(&format!("ip netns exec {b} nft add table ip n"));
    run(&format!("ip netns exec {b} nft add chain ip n c {{ type nat hook prerouting priority dstnat; }}"));
    run(&format!("ip netns exec {b} nft add rule ip n c tcp dport 9000 dnat to 192.168.79.2"));
    servers::sink(b, "b", 9000);
    servers::sink(&far, "far", 9000);
    assert_eq!(servers::pour(a, (world.address("b", NET), 9000), SIZE), format!("far got {SIZE}"));
    let long = counted(&world, 1, "input", "bytes ");
    assert!(long > SIZE / 10 * 9, "{long} of {SIZE}");
}
