//! Names as containers see them: every row of the resolver's contract, asked from inside with real clients.

use std::{
    io::Read,
    net::{TcpListener, UdpSocket},
    time::Duration,
};

use crate::support::{Cluster, Task, resolved, talk::Place, text, until};

#[test]
fn names_resolve() {
    let c = Cluster::bare("name", 2, 1, &["--daemon-arg=--dns=192.168.77.200"]);
    c.load_images(2);
    c.d("node1", "network create -d overlay --attachable netone");
    c.d("node1", "network create -d overlay other");
    let create = "service create -q --no-resolve-image -d --stop-grace-period 1s";
    c.d(
        "node1",
        &format!("{create} --name web --network name=netone,alias=front --hostname joint --replicas 2 alpine sleep 1d"),
    );
    c.d("node1", &format!("{create} --name rr --network netone --endpoint-mode dnsrr --replicas 3 alpine sleep 1d"));
    c.d("node1", &format!("{create} --name far --network other alpine sleep 1d"));
    c.d("node1", &format!("{create} --name both --network netone --network other alpine sleep 1d"));
    let web = c.wait_running("web", 2);
    let rr = c.wait_running("rr", 3);
    let far = c.wait_running("far", 1).remove(0);
    let both = c.wait_running("both", 1).remove(0);
    known_names(&c, &web, &rr);
    scoping(&c, &web[0], &far, &both);
    on_the_wire(&c, &web, &rr);
    own_name_server(&c, &web[0]);
    forwarding(&c, &web[0]);
    many(&c);
}

fn vip(c: &Cluster, service: &str) -> String {
    let format = "{{range .Endpoint.VirtualIPs}}{{println .Addr}}{{end}}";
    let list = c.docker("node1", &["service", "inspect", "--format", format, service]);
    list.lines().next().unwrap().split_once('/').unwrap().0.to_owned()
}

fn expect(c: &Cluster, from: &Task, name: &str, addrs: &[String]) {
    let mut addrs = addrs.to_vec();
    addrs.sort();
    until(Duration::from_secs(10), &format!("{name} is {addrs:?}"), || {
        let mut found = resolved(&c.in_task(from, &["nslookup", name]));
        found.dedup();
        (found == addrs).then_some(())
    });
}

fn known_names(c: &Cluster, web: &[Task], rr: &[Task]) {
    let addrs = |tasks: &[Task]| tasks.iter().map(|t| t.addr("netone")).collect::<Vec<_>>();
    let web_vip = vip(c, "web");
    for from in [&web[0], &web[1]] {
        for name in ["web", "front", "web.netone", "front.netone", "WEB"] {
            expect(c, from, name, std::slice::from_ref(&web_vip));
        }
        for name in ["tasks.web", "tasks.front", "tasks.web.netone"] {
            expect(c, from, name, &addrs(web));
        }
        expect(c, from, "rr", &addrs(rr));
        expect(c, from, "tasks.rr", &addrs(rr));
        // In one of its own containers the hosts file wins.
        expect(c, &rr[0], "joint", &addrs(web));
        for task in web {
            let own = [task.addr("netone")];
            for name in [&task.name, &task.container[..12].to_owned(), &format!("{}.netone", task.name)] {
                expect(c, from, name, &own);
            }
        }
    }
}

fn scoping(c: &Cluster, web: &Task, far: &Task, both: &Task) {
    for name in ["web", "tasks.web", "front", "rr", "web.netone"] {
        assert!(resolved(&c.in_task(far, &["nslookup", name])).is_empty(), "{name} from another network");
    }
    assert!(resolved(&c.in_task(web, &["nslookup", "far"])).is_empty());
    expect(c, both, "far", &[vip(c, "far")]);
    expect(c, both, "web", &[vip(c, "web")]);
}

/// `dig` of the machine as a process of the container, which are led to where the resolver listens.
fn dig(task: &Task, args: &[&str]) -> String {
    text(&Place::task(task).run("exec dig @127.0.0.11 +tries=1 +time=5 \"$@\"", args).stdout)
}

/// A container may have a name server of its own on all its addresses.
fn own_name_server(c: &Cluster, task: &Task) {
    let netns = std::fs::File::open(format!("/proc/{}/ns/net", task.info["State"]["Pid"])).unwrap();
    let bind = move || {
        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        (UdpSocket::bind("0.0.0.0:53").unwrap(), TcpListener::bind("0.0.0.0:53").unwrap())
    };
    let (udp, tcp) = std::thread::spawn(bind).join().unwrap();
    let inside = Place::task(task);
    inside.run("echo hello >/dev/udp/127.0.0.1/53; exec 3<>/dev/tcp/127.0.0.1/53; echo hello >&3", &[]);
    let mut buffer = [0; 16];
    udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(udp.recv(&mut buffer).unwrap(), 6);
    assert_eq!(tcp.accept().unwrap().0.read(&mut buffer).unwrap(), 6);
    for transport in ["+notcp", "+tcp"] {
        assert_eq!(dig(task, &["+short", transport, "web", "A"]).trim(), vip(c, "web"), "{transport}");
    }
    udp.set_nonblocking(true).unwrap();
    assert!(udp.recv(&mut buffer).is_err(), "the resolver's queries are not its own");
}

fn on_the_wire(c: &Cluster, web: &[Task], rr: &[Task]) {
    let from = &web[0];
    for transport in ["+notcp", "+tcp"] {
        let said = dig(from, &[transport, "web", "A"]);
        assert!(said.contains("status: NOERROR") && said.contains(&vip(c, "web")), "{said}");
        assert!(said.contains("600\tIN\tA"), "TTL 600: {said}");
        let flags = said.lines().find(|l| l.contains("flags:")).unwrap_or_default();
        assert!(flags.contains(" ra") && !flags.contains(" aa"), "{flags}");
        for kind in ["AAAA", "MX"] {
            let said = dig(from, &[transport, "web", kind]);
            assert!(said.contains("status: NOERROR") && said.contains("ANSWER: 0"), "{kind}: {said}");
        }
    }
    let said = dig(from, &["-x", &rr[0].addr("netone")]);
    assert!(said.contains(&format!("{}.netone.", rr[0].name)), "{said}");
    let said = dig(from, &["-x", &vip(c, "web")]);
    assert!(said.contains("web.netone."), "{said}");
    let orders: std::collections::BTreeSet<String> = (0..12).map(|_| dig(from, &["+short", "tasks.rr", "A"])).collect();
    assert!(orders.len() > 1, "addresses come in random order: {orders:?}");
}

fn forwarding(c: &Cluster, from: &Task) {
    // No resolver there yet: an answer at once or after its time, and never "no such name".
    let said = dig(from, &["+time=15", "outside.example", "A"]);
    assert!(said.contains("status: SERVFAIL"), "{said}");
    let _upstream = Upstream::start(c);
    until(Duration::from_secs(15), "an outside name", || {
        dig(from, &["+short", "outside.example", "A"]).contains("203.0.113.7").then_some(())
    });
    until(Duration::from_secs(15), "an outside name over TCP", || {
        dig(from, &["+tcp", "+short", "outside.example", "A"]).contains("203.0.113.7").then_some(())
    });
    let said = dig(from, &["nosuch.example", "A"]);
    assert!(said.contains("status: NXDOMAIN"), "{said}");
    let said = dig(from, &["web", "AAAA"]);
    assert!(said.contains("status: NOERROR") && said.contains("ANSWER: 0"), "never forwarded: {said}");
}

fn many(c: &Cluster) {
    // More addresses than 512 bytes hold.
    c.d("node1", "service create -q --no-resolve-image -d --name lots --network name=netone --endpoint-mode dnsrr --replicas 34 --stop-grace-period 1s alpine sleep 1d");
    let from = c.wait_running("web", 2).remove(0);
    until(Duration::from_secs(120), "34 addresses over TCP", || {
        (dig(&from, &["+tcp", "+short", "lots"]).lines().count() == 34).then_some(())
    });
    let said = dig(&from, &["+noedns", "+ignore", "lots"]);
    assert!(said.lines().any(|l| l.contains("flags:") && l.contains(" tc")), "{said}");
    let said = dig(&from, &["+bufsize=4096", "+ignore", "lots"]);
    assert!(!said.lines().any(|l| l.contains("flags:") && l.contains(" tc")) && said.contains("ANSWER: 34"), "{said}");
    assert_eq!(dig(&from, &["+noedns", "+short", "lots"]).lines().count(), 34, "a client that asks again over TCP");
    c.d("node1", "service rm lots");
}

/// A name server on the underlay that knows one name.
struct Upstream(std::process::Child);

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Upstream {
    fn start(c: &Cluster) -> Self {
        const SERVER: &str = r"
import socket, struct, threading
def answer(q):
    i = 12
    while q[i]: i += q[i] + 1
    known = q[12:i+1].lower() == b'\x07outside\x07example\x00'
    a = known and q[i+1:i+3] == b'\x00\x01'
    head = q[:2] + (b'\x81\x80' if known else b'\x81\x83') + struct.pack('>HHHH', 1, int(a), 0, 0)
    return head + q[12:i+5] + (b'\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04' + bytes([203, 0, 113, 7]) if a else b'')
def tcp():
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('0.0.0.0', 53)); s.listen()
    while True:
        c, _ = s.accept(); n = struct.unpack('>H', c.recv(2))[0]; r = answer(c.recv(n)); c.sendall(struct.pack('>H', len(r)) + r); c.close()
threading.Thread(target=tcp, daemon=True).start()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('0.0.0.0', 53))
while True:
    q, a = u.recvfrom(4096); u.sendto(answer(q), a)
";
        let child = std::process::Command::new("ip")
            .args(["netns", "exec", &c.netns("client"), "python3", "-c", SERVER])
            .spawn()
            .unwrap();
        Self(child)
    }
}
