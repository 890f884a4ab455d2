//! Garbage on every socket, strangers and liars on the wire, crash loops and a full disk.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{Read, Write},
    net::Ipv4Addr,
    os::unix::net::UnixStream,
    process::Command,
    time::{Duration, Instant},
};

use crate::support::{Cluster, Task, resolved, run, talk::Place, text, until, until_is};

/// Resident memory of a node's daemon in MB.
fn resident(c: &Cluster, node: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", c.pid(node))).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

/// What the API socket answers to these bytes, up to its first lines; empty where it only hangs up.
fn api_answer(c: &Cluster, node: &str, chunks: impl Iterator<Item = Vec<u8>>) -> String {
    let mut stream = UnixStream::connect(c.socket(node)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    for chunk in chunks {
        // It may hang up before it has heard everything.
        if stream.write_all(&chunk).is_err() {
            break;
        }
    }
    let mut answer = [0; 4096];
    let n = stream.read(&mut answer).unwrap_or_else(|e| {
        assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "no answer at all: {e}");
        0
    });
    text(&answer[..n])
}

fn garbage_at_the_api(c: &Cluster) {
    let before = resident(c, "node1");
    let noise: Vec<u8> = (0..65_536_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let answer = api_answer(c, "node1", std::iter::once(noise));
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");

    let line = format!("GET /v1.41/info HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "a".repeat(2_000_000));
    let answer = api_answer(c, "node1", std::iter::once(line.into_bytes()));
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");

    let head = "POST /v1.41/services/create HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 268435456\r\n\r\n{\"Name\":\"";
    let body = std::iter::once(head.as_bytes().to_vec()).chain((0..256).map(|_| vec![b'a'; 1 << 20]));
    let answer = api_answer(c, "node1", body);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");

    let lies = "POST /v1.41/services/create HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 7\r\n\r\n{\"Name\"";
    let answer = api_answer(c, "node1", std::iter::once(lies.into()));
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("message"), "an error in Docker's shape: {answer}");
    let after = resident(c, "node1");
    assert!(after < before + 64, "memory of the daemon went from {before} to {after} MB");
    c.docker("node1", &["info"]);
}

fn garbage_at_the_cluster_port(c: &Cluster) {
    let (client, addr) = (Place::client(c), c.addr("node1"));
    let before = resident(c, "node1");
    // It hangs up on noise; the write then fails, and that is fine.
    client.run("head -c 8000000 /dev/urandom >/dev/tcp/$1/2377; true", &[&addr]);
    client.run("head -c 20000000 /dev/zero | curl -sk -m 5 --http2 --data-binary @- https://$1:2377/malha.Manager/control; true", &[&addr]);
    client.run("for i in $(seq 50); do exec {fd}<>/dev/tcp/$1/2377; done; sleep 0.5", &[&addr]);
    let after = resident(c, "node1");
    assert!(after < before + 64, "memory of the daemon went from {before} to {after} MB");
    let nodes = c.docker("node1", &["node", "ls", "--format", "{{.Status}}"]);
    assert!(nodes.lines().all(|s| s == "Ready"), "{nodes}");
}

fn garbage_at_the_names(c: &Cluster, cli: &Task) {
    let inside = Place::task(cli);
    inside.run("for i in 1 2 3 4 5; do head -c 1200 /dev/urandom >/dev/udp/127.0.0.11/53; done", &[]);
    inside.run("head -c 60000 /dev/zero >/dev/udp/127.0.0.11/53; true", &[]);
    inside.run("(printf '\\xff\\xff'; head -c 70000 /dev/urandom) >/dev/tcp/127.0.0.11/53; true", &[]);
    // a length and no message
    inside.run(
        "for i in $(seq 40); do exec {fd}<>/dev/tcp/127.0.0.11/53; printf '\\x10\\x00' >&$fd; done; sleep 0.2",
        &[],
    );
    assert_eq!(resolved(&c.in_task(cli, &["nslookup", "web"])).len(), 1, "names answer on");
}

/// Packets that a container's own stack has taken in.
fn received(task: &Task) -> u64 {
    let pid = &task.info["State"]["Pid"];
    let snmp = std::fs::read_to_string(format!("/proc/{pid}/net/snmp")).unwrap();
    let mut lines = snmp.lines().filter(|l| l.starts_with("Ip:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|n| n == "InReceives").unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

/// A VXLAN packet with a UDP datagram between two containers, as escapes for `printf`.
fn vxlan(vni: u32, from: Ipv4Addr, to: Ipv4Addr) -> String {
    let mac = |a: Ipv4Addr| [&[0x02, 0x42][..], &a.octets()].concat();
    let mut ip = vec![0x45, 0, 0, 33, 0, 1, 0, 0, 64, 17, 0, 0];
    ip.extend(from.octets());
    ip.extend(to.octets());
    let sum: u32 = ip.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let udp = [0x27, 0x0f, 0x27, 0x0f, 0, 13, 0, 0];
    let id = vni.to_be_bytes();
    let packet =
        [&[0x08, 0, 0, 0, id[1], id[2], id[3], 0][..], &mac(to), &mac(from), &[0x08, 0x00], &ip, &udp, b"hello"]
            .concat();
    packet.iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "\\x{b:02x}");
        out
    })
}

fn strangers_on_the_underlay(c: &Cluster, target: &Task, other: &Task) {
    let node = c.addr(&target.node);
    let vni = {
        let args = [
            "network",
            "inspect",
            "-f",
            "{{index .Options \"com.docker.network.driver.overlay.vxlanid_list\"}}",
            "net",
        ];
        c.docker("node1", &args).trim().parse().unwrap()
    };
    let packet = vxlan(vni, other.addr("net").parse().unwrap(), target.addr("net").parse().unwrap());
    let send = |from: &str, packet: &str| {
        // bash itself would write line by line, and each 0x0a in the packet ends a line
        let script = "f=$(mktemp); printf \"$2\" >$f; for i in 1 2 3; do cat $f >/dev/udp/$1/4789; done; rm $f";
        let out = Place::Netns(c.netns(from)).run(script, &[&node, packet]);
        assert!(out.status.success(), "{}", text(&out.stderr));
    };
    let counted = |reason: &str, count: u64| {
        let what = format!("counted as what they are: {reason}");
        until_is(Duration::from_secs(10), &what, &count, || c.dropped(&target.node, reason));
    };
    let before = received(target);
    send(&other.node, &packet);
    let what = "the packet is one that a member's is delivered of";
    until_is(Duration::from_secs(10), what, &(before + 3), || received(target));
    let (before, refused) = (received(target), c.dropped(&target.node, "unknown-peer"));
    send("client", &packet);
    counted("unknown-peer", refused + 3);
    assert_eq!(received(target), before, "a stranger's packet is not delivered");
    let (before, refused) = (received(target), c.dropped(&target.node, "unknown-network"));
    let elsewhere = vxlan(vni + 999, other.addr("net").parse().unwrap(), target.addr("net").parse().unwrap());
    send(&other.node, &elsewhere);
    counted("unknown-network", refused + 3);
    assert_eq!(received(target), before);
    Place::client(c).run("for i in $(seq 20); do head -c 1300 /dev/urandom >/dev/udp/$1/4789; done", &[&node]);
    assert_eq!(received(target), before, "noise is not delivered");
}

fn a_liar_in_a_container(c: &Cluster, liar: &Task, victim: &Task) {
    let inside = Place::task(liar);
    let (before, packets, arps) =
        (received(victim), c.dropped(&liar.node, "spoofed-address"), c.dropped(&liar.node, "spoofed-arp"));
    let victim_addr = victim.addr("net");
    let script = "
        dev=$(ip -o route get $1 | sed -n 's/.* dev \\([^ ]*\\).*/\\1/p')
        ip addr add 10.0.1.200/32 dev $dev
        busybox ping -I 10.0.1.200 -c 3 -W 1 $1; answered=$?
        ip neigh replace $1 lladdr $2 dev $dev nud permanent
        busybox ping -I 10.0.1.200 -c 3 -W 1 $1 && answered=0
        ip neigh del $1 dev $dev
        ip addr del 10.0.1.200/32 dev $dev
        exit $answered";
    let octets: Vec<u8> = victim_addr.split('.').map(|o| o.parse().unwrap()).collect();
    let mac = format!("02:42:{:02x}:{:02x}:{:02x}:{:02x}", octets[0], octets[1], octets[2], octets[3]);
    let out = inside.run(script, &[&victim_addr, &mac]);
    assert!(!out.status.success(), "an answer to a false source: {}", text(&out.stdout));
    assert_eq!(received(victim), before, "the victim hears nothing of it");
    let counted = (c.dropped(&liar.node, "spoofed-address") - packets, c.dropped(&liar.node, "spoofed-arp") - arps);
    assert!(counted.0 >= 3, "counted: {counted:?}\n{}", text(&out.stdout));
    let out = inside.run("busybox ping -c 1 -W 2 $1", &[&victim_addr]);
    assert!(out.status.success(), "its own address works on: {}", text(&out.stdout));
}

fn a_crash_loop(c: &Cluster) {
    let before = c.sandboxes("node2");
    let args = ["service", "create", "-q", "--detach", "--name", "crash", "--network", "net", "--restart-delay", "2s"];
    let place = ["--constraint", "node.hostname==node2", "alpine", "sh", "-c", "exit 3"];
    let start = Instant::now();
    c.docker("node1", &[&args[..], &place].concat());
    std::thread::sleep(Duration::from_secs(9));
    let all = c.docker("node1", &["service", "ps", "crash", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}"]);
    let starts = all.lines().count();
    let most = 1 + start.elapsed().as_secs() as usize / 2;
    eprintln!("{starts} starts in {:?} with a delay of 2 s", start.elapsed());
    assert!((2..=most).contains(&starts), "{starts} starts in {:?}: {all}", start.elapsed());
    assert!(all.contains("task: non-zero exit (3)"), "{all}");
    let standing = c.sandboxes("node2");
    assert!(standing.len() <= before.len() + 1, "one sandbox at a time: {before:?} {standing:?}");
    c.docker("node1", &["service", "rm", "crash"]);
    until(Duration::from_secs(10), "nothing left of it", || {
        let containers = c.docker("node2", &["ps", "-aq", "--filter", "name=crash"]);
        (c.sandboxes("node2") == before && containers.is_empty()).then_some(())
    });
}

#[test]
fn abuse_is_refused_counted_and_survived() {
    let c = Cluster::up("abuse", 2, 1);
    c.docker("node1", &["network", "create", "-d", "overlay", "net"]);
    let create = |args: &[&str]| {
        c.docker("node1", &[&["service", "create", "-q", "--detach", "--network", "net"], args].concat());
    };
    create(&["--name", "cli", "--mode", "global", "alpine", "sleep", "1h"]);
    create(&["--name", "web", "--replicas", "1", "--constraint", "node.hostname==node1", "-p", "8080:3000", "hello"]);
    c.wait_running("web", 1);
    let mut tasks = c.wait_running("cli", 2);
    tasks.sort_by(|a, b| a.node.cmp(&b.node));
    let [one, two] = tasks.as_slice() else { panic!("{tasks:?}") };
    until(Duration::from_secs(5), "the other task", || {
        c.in_task(one, &["ping", "-c", "1", "-W", "1", &two.addr("net")]).status.success().then_some(())
    });
    let pids = ["node1", "node2"].map(|n| c.pid(n));

    strangers_on_the_underlay(&c, two, one);
    a_liar_in_a_container(&c, two, one);
    garbage_at_the_names(&c, two);
    garbage_at_the_api(&c);
    garbage_at_the_cluster_port(&c);
    a_crash_loop(&c);
    assert_eq!(["node1", "node2"].map(|n| c.pid(n)), pids, "no daemon died");
    Place::client(&c).get(&format!("http://{}:8080/cgi-bin/index.cgi", c.addr("node2"))).unwrap();
}

/// A file system of its own for a node's data, removed with the cluster's directory.
fn small_disk(name: &str, node: &str) -> String {
    let dir = format!("/var/lib/malha/dev/{name}/{node}");
    std::fs::create_dir_all(&dir).unwrap();
    let out = run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "malha-test", &dir]));
    assert!(out.status.success(), "{}", text(&out.stderr));
    dir
}

#[test]
fn a_full_disk_is_told_and_overcome() {
    let c = Cluster::prepared("full", |name| {
        small_disk(name, "node1");
    });
    let dir = format!("/var/lib/malha/dev/{}/node1", c.name);
    c.dev(&["up", "--nodes", "1"]);
    let create = |name: &str| {
        let label = format!("filler={}", "x".repeat(20_000));
        let args = [
            "docker",
            "service",
            "create",
            "-q",
            "--detach",
            "--no-resolve-image",
            "--name",
            name,
            "--label",
            &label,
            "--replicas",
            "0",
            "alpine",
        ];
        c.try_exec("node1", &args)
    };
    let mut acknowledged = BTreeSet::new();
    for i in 0..3 {
        assert!(create(&format!("before{i}")).status.success());
        acknowledged.insert(format!("before{i}"));
    }
    run(Command::new("dd").args(["if=/dev/zero", &format!("of={dir}/filler"), "bs=64k"]));
    let mut refusal = None;
    for i in 0..400 {
        let asked = Instant::now();
        let (name, out) = (format!("full{i}"), create(&format!("full{i}")));
        if out.status.success() {
            acknowledged.insert(name);
        } else {
            refusal = Some((text(&out.stderr), asked.elapsed()));
            break;
        }
    }
    let (told, after) = refusal.expect("a full disk never shows");
    eprintln!("{} accepted on a full disk, then after {after:?}: {}", acknowledged.len() - 3, told.trim());
    assert!(told.contains("no space left") || told.contains("No space left"), "tells why: {told}");
    assert!(after < Duration::from_secs(10), "refused after {after:?}");
    let list = || -> BTreeSet<String> {
        let out = c.try_exec("node1", &["docker", "service", "ls", "--format", "{{.Name}}"]);
        text(&out.stdout).lines().map(str::to_owned).collect()
    };

    std::fs::remove_file(format!("{dir}/filler")).unwrap();
    let freed = Instant::now();
    until(Duration::from_secs(15), "writes accepted again", || create("after").status.success().then_some(()));
    eprintln!("accepted again {:?} after there was space", freed.elapsed());
    acknowledged.insert("after".into());
    assert!(list().is_superset(&acknowledged), "{:?}", acknowledged.difference(&list()).collect::<Vec<_>>());
    c.dev(&["kill", "node1"]);
    c.dev(&["start", "node1"]);
    until(Duration::from_secs(10), "everything acknowledged after a restart", || {
        list().is_superset(&acknowledged).then_some(())
    });
}
