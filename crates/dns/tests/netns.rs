//! The server in real network namespaces, asked by `dig`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use malha_dns::Server;
use malha_kit::Tasks;
use malha_netplan::{Upstream as To, Zone};
use tokio::time::timeout;

mod support;
use support::{Netns, Upstream, zone};

fn node(upstream: &Upstream) -> To {
    To { addr: upstream.addr, from_node: true }
}

async fn serve(ns: &Netns, zone: Zone) -> (Server, Tasks) {
    let tasks = Tasks::new();
    let server = Server::start(&tasks, malha_dns::Listen::Port53).unwrap();
    server.add("s", &ns.path(), Arc::new(zone)).await.unwrap();
    (server, tasks)
}

#[tokio::test]
async fn names_are_answered_over_udp_and_tcp_and_swapped_live() {
    let ns = Netns::new();
    let (server, tasks) = serve(&ns, zone(&[("web", &["10.0.1.5"]), ("tasks.web", &["10.0.1.6", "10.0.1.7"])])).await;
    assert_eq!(ns.dig("+short web").await, "10.0.1.5\n");
    assert_eq!(ns.dig("+short +tcp web.mynet").await, "10.0.1.5\n");
    let full = ns.dig("tasks.web").await;
    assert!(full.contains("status: NOERROR") && full.contains("flags: qr rd ra;"), "{full}");
    assert!(full.contains("ANSWER: 2") && full.contains("600\tIN\tA\t10.0.1.6"), "{full}");
    assert!(server.update("s", Arc::new(zone(&[("web", &["10.0.1.9"])]))));
    assert_eq!(ns.dig("+short web").await, "10.0.1.9\n");
    assert!(ns.dig("tasks.web").await.contains("status: SERVFAIL"), "no upstream at all");
    assert!(!server.update("other", Arc::default()));
    let stats = server.stats();
    assert_eq!((stats.queries, stats.local, stats.forwarded), (5, 5, 0));
    tasks.shutdown().await;
}

#[tokio::test]
async fn sandboxes_are_apart_and_come_and_go() {
    let (a, b) = (Netns::new(), Netns::new());
    let tasks = Tasks::new();
    let server = Server::start(&tasks, malha_dns::Listen::Port53).unwrap();
    let one = |addr: &str| Arc::new(zone(&[("web", &[addr])]));
    server.add("a", &a.path(), one("10.0.0.1")).await.unwrap();
    server.add("b", &b.path(), one("10.0.0.2")).await.unwrap();
    assert_eq!((a.dig("+short web").await, b.dig("+short web").await), ("10.0.0.1\n".into(), "10.0.0.2\n".into()));
    // Again is fine and keeps the sockets.
    server.add("a", &a.path(), one("10.0.0.3")).await.unwrap();
    assert_eq!(a.dig("+short web").await, "10.0.0.3\n");
    // A namespace made anew under the same id.
    let c = Netns::new();
    server.add("a", &c.path(), one("10.0.0.4")).await.unwrap();
    assert_eq!(c.dig("+short web").await, "10.0.0.4\n");
    assert!(a.dig("web").await.contains("connection refused"));
    server.remove("b").await;
    server.remove("b").await;
    assert!(b.exec("ss", &["-Hlnut"]).trim().is_empty(), "both sockets are closed");
    let missing = server.add("x", "/run/netns/not-there".as_ref(), Arc::default()).await;
    assert!(matches!(missing, Err(malha_dns::Error::Netns { .. })));
    drop(c); // the namespace goes while it is served
    server.add("b", &b.path(), one("10.0.0.5")).await.unwrap();
    assert_eq!(b.dig("+short web").await, "10.0.0.5\n");
    server.remove("a").await;
    tasks.shutdown().await;
    drop(server);
    let noticed = async {
        while !b.exec("ss", &["-Hlnu"]).trim().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(Duration::from_secs(5), noticed).await.is_ok(), "nothing is left after the end");
}

#[tokio::test]
async fn unknown_names_are_relayed_as_they_are() {
    let ns = Netns::new();
    let (first, second) = (Upstream::start([1, 1, 1, 1]), Upstream::start([2, 2, 2, 2]));
    let zone = Zone { upstreams: vec![node(&first), node(&second)], ..zone(&[("web", &["10.0.0.1"])]) };
    let (server, tasks) = serve(&ns, zone).await;
    assert_eq!(ns.dig("+short example.com").await, "1.1.0.1\n");
    assert_eq!(ns.dig("+short +tcp example.com").await, "1.1.0.1\n");
    assert_eq!(ns.dig("+short single").await, "1.1.0.1\n");
    assert!(ns.dig("nx.example").await.contains("status: NXDOMAIN"), "an answer, passed on");
    assert!(ns.dig("web TXT").await.contains("status: NOERROR"), "other types are relayed");
    assert_eq!(second.asked(), 0);
    assert!(ns.dig("servfail.example").await.contains("status: SERVFAIL"));
    assert!(ns.dig("refused.example").await.contains("SERVFAIL"), "when all refuse");
    assert_eq!(second.asked(), 2, "the next was tried");
    assert_eq!(ns.dig("+short spoofed.example").await, "1.1.0.1\n", "an answer with another id is not taken");
    let truncated = ns.dig("+ignore +noedns big.example").await;
    assert!(truncated.contains("flags: qr tc"), "{truncated}");
    assert_eq!(ns.dig("+short big.example").await.lines().count(), 100, "over TCP after truncation");
    let stats = server.stats();
    assert_eq!((stats.local, stats.failed), (0, 2));
    tasks.shutdown().await;
}

#[tokio::test]
async fn upstreams_are_asked_from_where_they_are() {
    let ns = Netns::new();
    let on_node = Upstream::start([1, 1, 1, 1]);
    let inside = ns.inside(|| Upstream::start([3, 3, 3, 3]));
    let (server, tasks) = serve(&ns, Zone { upstreams: vec![node(&on_node)], ..zone(&[]) }).await;
    assert_eq!(ns.dig("+short a.example").await, "1.1.0.1\n", "a loopback address of the node");
    let own = To { addr: inside.addr, from_node: false };
    assert!(server.update("s", Arc::new(Zone { upstreams: vec![own], ..zone(&[]) })));
    assert_eq!(ns.dig("+short a.example").await, "3.3.0.3\n");
    assert_eq!(ns.dig("+short +tcp a.example").await, "3.3.0.3\n");
    // Itself, then a real one: the loop is left out.
    let itself = To { addr: "127.0.0.11:53".parse().unwrap(), from_node: false };
    assert!(server.update("s", Arc::new(Zone { upstreams: vec![itself, own], ..zone(&[]) })));
    assert_eq!(ns.dig("+short b.example").await, "3.3.0.3\n");
    assert!(server.update("s", Arc::new(Zone { upstreams: vec![own], forward: false, ..zone(&[]) })));
    let asked = inside.asked();
    assert!(ns.dig("c.example").await.contains("status: SERVFAIL"));
    assert_eq!(inside.asked(), asked, "nothing left the sandbox");
    tasks.shutdown().await;
}

#[tokio::test]
async fn a_silent_upstream_costs_four_seconds_and_only_three_are_asked() {
    let ns = Netns::new();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let quiet = To { addr: silent.local_addr().unwrap(), from_node: true };
    let up: Vec<Upstream> = (1..=2).map(|n| Upstream::start([n, n, n, n])).collect();
    let zone = Zone { upstreams: vec![quiet, node(&up[0]), quiet, node(&up[1])], ..zone(&[]) };
    let (_server, tasks) = serve(&ns, zone).await;
    let start = Instant::now();
    assert_eq!(ns.dig("+short a.example").await, "1.1.0.1\n");
    // one more that is silent would be four seconds more
    assert!((Duration::from_secs(4)..Duration::from_secs(8)).contains(&start.elapsed()), "{:?}", start.elapsed());
    let start = Instant::now();
    assert!(ns.dig("servfail.example").await.contains("SERVFAIL"), "the fourth would have answered");
    assert!((Duration::from_secs(8)..Duration::from_secs(12)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(up[1].asked(), 0);
    tasks.shutdown().await;
}

#[tokio::test]
async fn a_flood_of_unknown_names_is_bounded_and_known_ones_go_on() {
    let ns = Netns::new();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let quiet = To { addr: silent.local_addr().unwrap(), from_node: true };
    // three, so that no place is free again after four seconds
    let (server, tasks) = serve(&ns, Zone { upstreams: vec![quiet; 3], ..zone(&[("web", &["10.0.0.1"])]) }).await;
    let client = ns.inside(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let to: SocketAddr = "127.0.0.11:53".parse().unwrap();
    let heard = async |count: u64| {
        let all = async {
            loop {
                let stats = server.sandbox_stats("s").unwrap();
                if stats.queries >= count {
                    break stats;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(10), all).await.expect("a query was lost")
    };
    for n in 0..1500u16 {
        let mut query = b"xx\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x07example\x00\x00\x01\x00\x01".to_vec();
        query[..2].copy_from_slice(&n.to_be_bytes());
        client.send_to(&query, to).unwrap();
        if n % 50 == 49 {
            heard(u64::from(n) + 1).await; // within the socket's buffer
        }
    }
    let stats = heard(1500).await;
    assert_eq!((stats.queries, stats.forwarded, stats.refused), (1500, 1024, 476));
    let mut reply = [0; 512];
    client.recv_from(&mut reply).unwrap();
    assert_eq!(reply[3] & 0xf, 5, "REFUSED");
    assert_eq!(ns.dig("+short web").await, "10.0.0.1\n");
    server.remove("s").await;
    tasks.shutdown().await;
}

#[tokio::test]
async fn garbage_harms_nobody() {
    use std::io::{Read as _, Write as _};
    let ns = Netns::new();
    let (server, tasks) = serve(&ns, zone(&[("web", &["10.0.0.1"])])).await;
    let (udp, mut idle, mut bad) = ns.inside(|| {
        let tcp = || std::net::TcpStream::connect("127.0.0.11:53").unwrap();
        (UdpSocket::bind("127.0.0.1:0").unwrap(), tcp(), tcp())
    });
    for size in [0, 1, 11, 12, 100, 5000, 60_000] {
        udp.send_to(&vec![0xff; size], "127.0.0.11:53").unwrap();
        udp.send_to(&vec![0; size], "127.0.0.11:53").unwrap();
    }
    bad.write_all(&[0xff; 4000]).unwrap();
    idle.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(ns.dig("+short web").await, "10.0.0.1\n");
    assert_eq!(ns.dig("+short +tcp web").await, "10.0.0.1\n");
    let hung_up = tokio::task::spawn_blocking(move || idle.read(&mut [0; 8])).await.unwrap();
    assert_eq!(hung_up.expect("an idle connection is ended"), 0);
    server.remove("s").await;
    tasks.shutdown().await;
}
