//! Ports of the routing mesh are held on the node: nobody else gets them, and nothing is received by them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod common;

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use common::{World, plan};
use malha_dataplane::{Netns, NodeNetwork};
use malha_model::{PortConfig, Protocol, PublishMode};
use malha_netplan::{NetPlan, PublishedPort};
use socket2::{Domain, Socket, Type};
use tokio::time::timeout;

const ADDRS: [&str; 4] = ["0.0.0.0", "127.0.0.1", "[::]", "[::1]"];

fn published(ports: &[(Protocol, u16)]) -> NetPlan {
    let port = |p: &(Protocol, u16)| (*p, PublishedPort { service: "web".into(), ..PublishedPort::default() });
    NetPlan { published: ports.iter().map(port).collect(), ..NetPlan::default() }
}

/// As a server does that wants nothing more than to be let in.
async fn serve(ns: &Netns, kind: Type, addr: &str, port: u16) -> io::Result<Socket> {
    let addr: SocketAddr = format!("{addr}:{port}").parse().unwrap();
    let bound = ns.run(move || {
        let socket = Socket::new(Domain::for_address(addr), kind, None)?;
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&addr.into())?;
        Ok(socket)
    });
    bound.await.unwrap()
}

/// Applies until the node holds the port: while this looks, it may be who has it.
async fn until_held(node: &NodeNetwork, plan: &NetPlan, kind: Type, port: u16) {
    let held = timeout(Duration::from_secs(5), async {
        loop {
            node.apply(plan).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            if serve(node.node(), kind, "0.0.0.0", port).await.is_err() {
                return;
            }
        }
    });
    assert!(held.await.is_ok(), "{port} is not held");
}

fn container(port: u16) -> malha_netplan::SandboxPlan {
    let mut p = plan("box", vec![]);
    let publish_mode = PublishMode::Host;
    p.host_ports = vec![PortConfig { target_port: 80, published_port: port, publish_mode, ..PortConfig::default() }];
    p
}

#[tokio::test]
async fn published_ports_are_nobody_elses() {
    let w = World::new().await;
    let node = w.open().await;
    let both = published(&[(Protocol::Tcp, 8080), (Protocol::Udp, 5300), (Protocol::Sctp, 99)]);
    for (kind, port, other) in [(Type::STREAM, 8080, 5300), (Type::DGRAM, 5300, 8080)] {
        until_held(&node, &both, kind, port).await;
        for addr in ADDRS {
            let refused = serve(&w.node, kind, addr, port).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::AddrInUse, "{addr}:{port}");
            serve(&w.node, kind, addr, other).await.unwrap();
        }
    }
    let refused = node.ensure_sandbox(&container(8080)).await.unwrap_err().to_string();
    assert_eq!(refused, "Bind for 0.0.0.0:8080 failed: port is already allocated");
    // what no program takes is refused, as by a port that nobody has
    let connect = w.node.run(|| TcpStream::connect("127.0.0.1:8080").map(drop)).await.unwrap();
    assert_eq!(connect.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let told = w.node.run(|| {
        let client = UdpSocket::bind("127.0.0.1:0")?;
        client.connect("127.0.0.1:5300")?;
        client.set_read_timeout(Some(Duration::from_secs(5)))?;
        client.send(b"ping")?;
        client.recv(&mut [0; 9])
    });
    assert_eq!(told.await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionRefused);

    // gone with the plan, at once
    node.apply(&published(&[(Protocol::Udp, 5300)])).unwrap();
    for addr in ADDRS {
        serve(&w.node, Type::STREAM, addr, 8080).await.unwrap();
    }
    assert!(serve(&w.node, Type::DGRAM, "0.0.0.0", 5300).await.is_err());
    node.ensure_sandbox(&container(8080)).await.unwrap();
    // and with the daemon
    drop(node);
    serve(&w.node, Type::DGRAM, "0.0.0.0", 5300).await.unwrap();
}

#[tokio::test]
async fn a_port_that_somebody_has_is_held_once_it_is_free() {
    let w = World::new().await;
    let node = w.open().await;
    let theirs = serve(&w.node, Type::STREAM, "127.0.0.1", 8080).await.unwrap();
    let theirs6 = serve(&w.node, Type::STREAM, "[::]", 8081).await.unwrap();
    let plan = published(&[(Protocol::Tcp, 8080), (Protocol::Tcp, 8081), (Protocol::Tcp, 8082)]);
    until_held(&node, &plan, Type::STREAM, 8082).await;
    let refused = node.ensure_sandbox(&container(8080)).await.unwrap_err().to_string();
    assert_eq!(refused, "failed to bind host port 0.0.0.0:8080/tcp: address already in use");
    assert!(serve(&w.node, Type::STREAM, "0.0.0.0", 8081).await.is_err(), "IPv4 of a port that is taken for IPv6");
    drop((theirs, theirs6));
    until_held(&node, &plan, Type::STREAM, 8080).await;
}

/// A task may get a port that its service had in the mesh a moment ago: it waits, and then the port is free.
#[tokio::test]
async fn who_waits_for_a_port_of_the_mesh_gets_it() {
    let w = World::new().await;
    let node = w.open().await;
    let (with, without) = (published(&[(Protocol::Tcp, 8080)]), published(&[]));
    let wait = || tokio::spawn(node.mesh_lets_go([(Protocol::Tcp, 8080)].into()));
    until_held(&node, &with, Type::STREAM, 8080).await;
    let waiting = wait();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    node.apply(&without).unwrap();
    timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    serve(&w.node, Type::STREAM, "0.0.0.0", 8080).await.unwrap();
    // also where it is given up while it is being taken
    for turn in 0..20 {
        node.apply(&with).unwrap();
        for _ in 0..turn {
            tokio::task::yield_now().await;
        }
        node.apply(&without).unwrap();
        timeout(Duration::from_secs(5), wait()).await.unwrap().unwrap();
        serve(&w.node, Type::STREAM, "0.0.0.0", 8080).await.unwrap();
    }
}

/// Whoever opens the node's network anew must get the ports that were held for containers.
#[tokio::test]
async fn a_network_that_is_let_go_holds_no_port() {
    let w = World::new().await;
    for _ in 0..5 {
        let node = w.open().await;
        node.ensure_sandbox(&container(8080)).await.unwrap();
        let there = node.node().clone();
        node.let_go().await;
        serve(&there, Type::STREAM, "0.0.0.0", 8080).await.unwrap();
    }
}
