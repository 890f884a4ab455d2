//! Published ports: from outside, through any node, with the client's own address.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    thread::sleep,
    time::Duration,
};

use malha_dataplane::ebpf::DropReason;
use malha_model::Protocol;
use socket2::{Domain, Socket, Type};

use crate::{
    servers::{self, Conversation, within},
    world::{FLOW_CAPACITY, INGRESS, World, run, settle},
};

const PORT: u16 = 5000;

/// `a` on node 0 and `b` on node 1 serve behind port 5000; node 2 has no task.
fn mesh() -> World {
    let mut world = World::new(3);
    world.network(INGRESS);
    world.container("a", 0, 2, &[INGRESS]);
    world.container("b", 1, 3, &[INGRESS]);
    for name in ["a", "b"] {
        servers::tcp(&world.containers[name].netns, name, 3000);
    }
    world.serve_udp("a", "0.0.0.0:3000");
    world.serve_udp("b", "[::]:3000");
    world.publish(Protocol::Tcp, PORT, 3000, &["a", "b"]);
    world.publish(Protocol::Udp, PORT, 3000, &["a", "b"]);
    world.apply();
    world
}

fn both(client: IpAddr) -> BTreeSet<String> {
    ["a", "b"].map(|n| format!("{n} sees {client}")).into()
}

#[test]
fn any_node_serves_and_the_task_sees_the_client() {
    let world = mesh();
    for node in &world.nodes {
        let said: Vec<String> = (0..4).map(|_| servers::get(&world.client(), (node.address, PORT)).unwrap()).collect();
        assert_eq!(said.iter().cloned().collect::<BTreeSet<_>>(), both(World::CLIENT), "{}", node.netns);
        assert_eq!(said.iter().filter(|s| s.starts_with('a')).count(), 2, "evenly");
    }
}

/// A tagged packet is for the VLAN's own device, where its program sees it without the tag. One that only has a priority
/// is the device's.
#[test]
fn a_vlan_of_an_uplink_is_another_device() {
    let world = mesh();
    let node = &world.nodes[0];
    let taken = || node.dataplane().stats().unwrap().traffic["entry"].packets;
    for (tag, more) in [(0x2050, 0), (0x2000, 1)] {
        let before = taken();
        servers::tagged_syn(&world.client(), &node.netns, tag, (node.address, PORT));
        sleep(Duration::from_millis(200)); // for one that is not to be taken
        settle(&format!("{more} more with {tag:x}"), || taken() - before == more);
    }
}

#[test]
fn datagrams_too() {
    let world = mesh();
    for node in &world.nodes {
        let answers: Vec<_> =
            (0..4).map(|_| servers::datagram(&world.client(), (node.address, PORT)).unwrap()).collect();
        assert_eq!(answers.iter().map(|(said, _)| said.clone()).collect::<BTreeSet<_>>(), both(World::CLIENT));
        assert!(answers.iter().all(|(_, from)| *from == node.address));
    }
}

/// Larger than any packet: in pieces, both ways.
#[test]
fn large_datagrams_too() {
    let world = mesh();
    for node in &world.nodes {
        for (netns, to) in
            [(&world.client(), node.address), (&node.netns, node.address), (&node.netns, Ipv4Addr::LOCALHOST)]
        {
            let mut said = BTreeSet::new();
            for size in [1400, 1460, 9000, 20000] {
                for _ in 0..2 {
                    let (answer, from) = servers::datagram_of(netns, (to, PORT), size).unwrap();
                    assert_eq!((answer.len(), from), (size, to.into()), "{netns} to {to}");
                    said.insert(answer.trim_end().to_owned());
                }
            }
            let client = if *netns == world.client() { World::CLIENT } else { node.address.into() };
            assert_eq!(said, both(client), "{netns} to {to}");
        }
    }
}

#[test]
fn the_node_itself_reaches_it_by_localhost_and_by_its_address() {
    let world = mesh();
    for node in &world.nodes {
        for address in [Ipv4Addr::LOCALHOST, node.address] {
            let said: BTreeSet<String> = (0..4).map(|_| servers::get(&node.netns, (address, PORT)).unwrap()).collect();
            assert_eq!(said, both(node.address.into()), "{} by {address}", node.netns);
            let (said, from) = servers::datagram(&node.netns, (address, PORT)).unwrap();
            assert!(both(node.address.into()).contains(&said), "{said}");
            assert_eq!(from, address);
        }
        // another node is a client like any other
        let other = world.nodes.iter().find(|n| n.netns != node.netns).unwrap();
        let said: BTreeSet<String> =
            (0..4).map(|_| servers::get(&node.netns, (other.address, PORT)).unwrap()).collect();
        assert_eq!(said, both(node.address.into()));
    }
}

/// Containers come by the egress bridge, where those of other nodes have the same addresses: the task sees the node.
#[test]
fn containers_reach_it_by_the_address_of_their_node() {
    let world = mesh();
    // both have the address that the other has on its own node
    world.egress("a", 2);
    world.egress("b", 2);
    for (name, node) in [("a", &world.nodes[0]), ("b", &world.nodes[1])] {
        let netns = &world.containers[name].netns;
        let said: BTreeSet<String> = (0..4).map(|_| servers::get(netns, (node.address, PORT)).unwrap()).collect();
        assert_eq!(said, both(node.address.into()), "{name}, itself among them");
    }
    for node in &world.nodes {
        settle(&format!("no flows on {}", node.netns), || {
            let dump = node.dataplane().dump().unwrap();
            dump.iter().find(|m| m.name == "flows").unwrap().rows.is_empty()
        });
    }
}

#[test]
fn an_idle_connection_outlives_every_timer() {
    let world = mesh();
    let mut open = Vec::new();
    for node in &world.nodes {
        for name in ["established", "unacknowledged", "syn_sent", "syn_recv", "fin_wait", "close"] {
            let setting = format!("net.netfilter.nf_conntrack_tcp_timeout_{name}");
            run(&format!("ip netns exec {} busybox sysctl -q -w {setting}=2", node.netns));
        }
        // somebody's firewall, so that the kernel tracks connections at all
        run(&format!("ip netns exec {} nft add table ip t", node.netns));
        run(&format!(
            "ip netns exec {} nft add chain ip t c {{ type filter hook prerouting priority 0; }}",
            node.netns
        ));
        run(&format!("ip netns exec {} nft add rule ip t c ct state established accept", node.netns));
        open.push(Conversation::open(&world.client(), (node.address, PORT)));
        open.push(Conversation::open(&world.client(), (node.address, PORT)));
        open.push(Conversation::open(&node.netns, (Ipv4Addr::LOCALHOST, PORT)));
    }
    sleep(Duration::from_secs(6));
    for conversation in &mut open {
        let name = conversation.greeting[..1].to_owned();
        assert_eq!(conversation.say("still here").unwrap(), format!("{name} echoes still here"));
    }
}

/// Nobody listens at the task: its word reaches the client, as the entry node's.
#[test]
fn a_client_learns_that_nobody_takes_its_datagrams() {
    let mut world = mesh();
    world.publish(Protocol::Udp, PORT + 1, 3999, &["a"]);
    world.apply();
    for node in &world.nodes {
        for (netns, to) in
            [(&world.client(), node.address), (&node.netns, Ipv4Addr::LOCALHOST), (&node.netns, node.address)]
        {
            let socket = within(netns, || std::net::UdpSocket::bind("0.0.0.0:0").unwrap());
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.connect((to, PORT + 1)).unwrap();
            socket.send(b"anybody?").unwrap();
            let error = socket.recv(&mut [0; 10]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{netns} to {to}");
        }
    }
}

/// More datagrams and half-open connections than there are places: connections keep theirs.
#[test]
fn a_flood_loses_no_idle_connection() {
    let world = mesh();
    let mut open = Vec::new();
    for node in &world.nodes {
        for _ in 0..4 {
            open.push(Conversation::open(&world.client(), (node.address, PORT)));
            open.push(Conversation::open(&node.netns, (Ipv4Addr::LOCALHOST, PORT)));
        }
    }
    for node in &world.nodes {
        servers::flood(&world.client(), libc::IPPROTO_UDP, (node.address, PORT), 3 * FLOW_CAPACITY);
        servers::flood(&world.client(), libc::IPPROTO_TCP, (node.address, PORT), 3 * FLOW_CAPACITY);
    }
    for conversation in &mut open {
        let name = conversation.greeting[..1].to_owned();
        assert_eq!(conversation.say("still here").unwrap(), format!("{name} echoes still here"));
    }
}

#[test]
fn no_backend_and_no_publication_are_refused_at_once() {
    let mut world = mesh();
    let refused = Err("Connection refused (os error 111)".to_owned());
    assert_eq!(servers::get(&world.client(), (world.nodes[2].address, PORT + 1)), refused);
    world.publish(Protocol::Tcp, PORT, 3000, &[]);
    world.apply();
    assert_eq!(servers::get(&world.client(), (world.nodes[2].address, PORT)), refused);
}

#[test]
fn a_backend_that_goes_takes_its_flows_along() {
    let mut world = mesh();
    let mut open: Vec<Conversation> =
        (0..2).map(|_| Conversation::open(&world.client(), (world.nodes[2].address, PORT))).collect();

    world.publish(Protocol::Tcp, PORT, 3000, &["b"]);
    world.apply();
    for conversation in &mut open {
        assert!(conversation.say("draining").is_ok());
    }
    for _ in 0..3 {
        assert!(servers::get(&world.client(), (world.nodes[2].address, PORT)).unwrap().starts_with('b'));
    }

    world.forget("a");
    world.apply();
    for conversation in &mut open {
        let said = conversation.say("gone");
        if conversation.greeting.starts_with('a') {
            assert_eq!(said.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        } else {
            assert_eq!(said.unwrap(), "b echoes gone");
        }
    }
}

#[test]
fn closed_flows_are_forgotten() {
    let world = mesh();
    for node in &world.nodes {
        for _ in 0..10 {
            servers::get(&world.client(), (node.address, PORT)).unwrap();
            servers::get(&node.netns, (Ipv4Addr::LOCALHOST, PORT)).unwrap();
        }
    }
    for node in &world.nodes {
        settle(&format!("no flows and replies on {}", node.netns), || {
            let dump = node.dataplane().dump().unwrap();
            dump.iter().filter(|m| ["flows", "replies"].contains(&m.name)).all(|m| m.rows.is_empty())
        });
    }
}

/// A client whose way to the node changes, its address does not.
#[test]
fn replies_follow_the_way_of_the_client() {
    for node in [0, 2] {
        let mut world = mesh();
        let client = world.client();
        let mut open: Vec<Conversation> =
            (0..2).map(|_| Conversation::open(&client, (world.nodes[node].address, PORT))).collect();
        let there = world.second_uplink(node, 81);
        let (netns, address) = (&world.nodes[node].netns, world.nodes[node].address);
        run(&format!("ip -n {client} addr add 192.168.77.100/32 dev up81"));
        run(&format!("ip -n {client} link set eth0 down"));
        run(&format!("ip -n {client} route add {address}/32 via {there} src 192.168.77.100"));
        run(&format!("ip -n {netns} route add 192.168.77.100/32 via 192.168.81.100"));
        for conversation in &mut open {
            let name = conversation.greeting[..1].to_owned();
            assert_eq!(conversation.say("moved").unwrap(), format!("{name} echoes moved"));
        }
    }
}

/// A container that makes its own packets cannot draw a client's connection to itself.
#[test]
fn a_container_cannot_forge_the_way_of_a_client() {
    let world = mesh();
    world.egress("a", 2);
    let (client, node) = (world.client(), world.nodes[0].address);
    let from = (Ipv4Addr::new(192, 168, 77, 100), 45678);
    let mut open = Conversation::on(within(&client, || connect_from(from.into(), (node, PORT).into())));
    servers::forge(&world.containers["a"].netns, libc::IPPROTO_TCP, [from], (node, PORT));
    sleep(Duration::from_millis(100));
    let name = open.greeting[..1].to_owned();
    assert_eq!(open.say("mine").unwrap(), format!("{name} echoes mine"));
}

/// One end has closed, the other goes on: such a connection is alive, however long ago that was.
#[test]
fn half_closed_connections_stay() {
    use std::io::{Read, Write};
    let mut world = mesh();
    let listener = within(&world.containers["b"].netns, || std::net::TcpListener::bind(("0.0.0.0", 3001)).unwrap());
    world.publish(Protocol::Tcp, PORT + 1, 3001, &["b"]);
    world.apply();
    for node in &world.nodes {
        for (netns, address) in [(&world.client(), node.address), (&node.netns, Ipv4Addr::LOCALHOST)] {
            let mut client = within(netns, || TcpStream::connect((address, PORT + 1)).unwrap());
            client.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            client.write_all(b"all I have").unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let mut request = String::new();
            server.read_to_string(&mut request).unwrap();
            assert_eq!(request, "all I have");
            for node in &world.nodes {
                assert_eq!(node.dataplane().sweep_after(Duration::ZERO).unwrap(), 0);
            }
            server.write_all(b"late").unwrap();
            drop(server);
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "late", "{}", node.netns);
        }
    }
}

fn connect_from(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect_timeout(&to.into(), Duration::from_secs(2)).unwrap();
    TcpStream::from(socket)
}

/// A container is shown as its node, and a process of the node has the very numbers as which it is shown. And the other
/// way round.
#[test]
fn a_process_of_the_node_is_not_taken_for_a_container() {
    let mut world = mesh();
    world.egress("a", 2);
    for (backend, port) in [("b", 45000), ("a", 45001)] {
        world.publish(Protocol::Tcp, PORT, 3000, &[backend]);
        world.apply();
        let (container, node) = (world.containers["a"].netns.clone(), &world.nodes[0]);
        let to = SocketAddr::from((node.address, PORT));
        let clients =
            [(&container, SocketAddr::from(([172, 18, 0, 2], port))), (&node.netns, (node.address, port).into())];
        let turns = if backend == "b" { [0, 1] } else { [1, 0] };
        let mut open: Vec<Conversation> = Vec::new();
        for (netns, from) in turns.map(|n| clients[n]) {
            open.push(Conversation::on(within(netns, || connect_from(from, to))));
        }
        for round in ["one", "two"] {
            for conversation in &mut open {
                assert_eq!(conversation.greeting, format!("{backend} sees {}", node.address));
                assert_eq!(conversation.say(round).unwrap(), format!("{backend} echoes {round}"));
            }
        }
    }
}

/// Masquerading keeps the port that a container connects from, and it may be one that is published.
#[test]
fn a_containers_own_connection_may_have_a_published_port() {
    let world = mesh();
    world.egress("a", 2);
    let (container, node, client) = (&world.containers["a"].netns, &world.nodes[0].netns, world.client());
    run(&format!("ip netns exec {node} busybox sysctl -q -w net.ipv4.ip_forward=1"));
    run(&format!("ip netns exec {node} nft add table ip t"));
    run(&format!("ip netns exec {node} nft add chain ip t c {{ type nat hook postrouting priority srcnat; }}"));
    run(&format!("ip netns exec {node} nft add rule ip t c ip saddr 172.18.0.0/16 oifname eth0 masquerade"));
    servers::tcp(&client, "outside", 7000);
    for _ in 0..2 {
        let to = SocketAddr::from(([192, 168, 77, 100], 7000));
        let mut out = Conversation::on(within(container, || connect_from(([172, 18, 0, 2], PORT).into(), to)));
        assert_eq!(out.greeting, format!("outside sees {}", world.nodes[0].address));
        for round in ["one", "two"] {
            assert_eq!(out.say(round).unwrap(), format!("outside echoes {round}"));
        }
        assert!(servers::get(&client, (world.nodes[0].address, PORT)).is_ok());
        out.reset();
    }
}

/// The same client port towards several nodes lands on one task: the task must see two connections, not one.
#[test]
fn one_client_port_through_several_nodes() {
    let mut world = mesh();
    world.publish(Protocol::Tcp, PORT, 3000, &["a"]);
    world.publish(Protocol::Tcp, PORT + 1, 3000, &["a"]);
    world.apply();
    let client = world.client();
    let targets: Vec<SocketAddr> =
        world.nodes.iter().flat_map(|n| [PORT, PORT + 1].map(|port| SocketAddr::from((n.address, port)))).collect();
    let streams: Vec<TcpStream> =
        within(&client, || targets.iter().map(|to| connect_from(([192, 168, 77, 100], 45678).into(), *to)).collect());
    let mut open: Vec<Conversation> = streams.into_iter().map(Conversation::on).collect();
    for round in ["one", "two"] {
        for conversation in &mut open {
            assert_eq!(conversation.say(round).unwrap(), format!("a echoes {round}"));
        }
    }
}

/// Large transfers both ways: segments bigger than any wire's, checksums left to the device.
#[test]
fn bulk_passes_both_ways() {
    use std::io::{Read, Write};
    let world = mesh();
    for node in &world.nodes {
        for netns in [&world.client(), &node.netns] {
            let stream = within(netns, || TcpStream::connect((node.address, PORT)).unwrap());
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let line = format!("{}\n", "x".repeat(1_000_000));
            std::thread::scope(|scope| {
                scope.spawn(|| (&stream).write_all(line.repeat(4).as_bytes()).unwrap());
                let mut got = 0;
                let mut buffer = vec![0; 1 << 16];
                while got < 4_000_000 {
                    let n = (&stream).read(&mut buffer).unwrap();
                    assert!(n > 0);
                    got += n;
                }
            });
        }
    }
}

/// A client behind a narrow path: the router's complaint must reach the task, or large answers never arrive.
#[test]
fn a_task_learns_of_a_narrow_path() {
    use std::io::{Read, Write};
    let world = mesh();
    let (far, router) = (world.behind_client(1300), world.client());
    run(&format!("ip netns exec {router} busybox sysctl -q -w net.ipv4.ip_forward=1"));
    for node in &world.nodes {
        run(&format!("ip -n {} route add 192.168.78.0/24 via 192.168.77.100", node.netns));
        for _ in 0..2 {
            let stream = within(&far, || TcpStream::connect((node.address, PORT)).unwrap());
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let line = format!("{}\n", "x".repeat(1000));
            for _ in 0..100 {
                (&stream).write_all(line.as_bytes()).unwrap();
            }
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut all = String::new();
            (&stream).read_to_string(&mut all).unwrap();
            assert!(all.starts_with("a sees 192.168.78.2") || all.starts_with("b sees 192.168.78.2"), "{all:.40}");
            assert_eq!(all.lines().count(), 101);
        }
    }
}

#[test]
fn only_replies_leave_a_task() {
    let world = mesh();
    let a = &world.containers["a"];
    // from its ingress address to the outside, unasked
    let socket = within(&a.netns, || std::net::UdpSocket::bind((a.addresses[&INGRESS], 0)).unwrap());
    let _ = socket.send_to(b"unasked", (World::CLIENT, 9));
    settle("it is dropped", || world.dropped(0, DropReason::IngressIsolated) > 0);
}

/// A node that is on the ingress network but not entitled to a reply's address cannot speak for it.
#[test]
fn strangers_cannot_enter_the_mesh() {
    let world = mesh();
    let client = world.client();
    run(&format!("ip -n {client} link add vx0 type vxlan id {INGRESS} dstport 4789 remote 192.168.77.11"));
    run(&format!("ip -n {client} link set vx0 address 02:46:0b:b8:00:00 up"));
    run(&format!("ip -n {client} addr add 10.7.96.50/24 dev vx0"));
    let to = world.address("a", INGRESS);
    run(&format!("ip -n {client} neigh add {to} lladdr 02:42:0a:07:60:02 dev vx0"));
    assert!(servers::datagram(&client, (to, 3000)).is_err());
    assert!(world.dropped(0, DropReason::UnknownPeer) > 0);
}
