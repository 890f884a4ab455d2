//! Network namespaces and name servers that the tests make themselves.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record, rdata::A},
};
use malha_netplan::{NetZone, Zone};

/// A namespace with `lo` up; gone when dropped.
pub(crate) struct Netns(String);

impl Netns {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mdns-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name]);
        let ns = Self(name);
        run("ip", &["-n", &ns.0, "link", "set", "lo", "up"]);
        ns
    }

    pub(crate) fn path(&self) -> PathBuf {
        format!("/run/netns/{}", self.0).into()
    }

    pub(crate) fn exec(&self, program: &str, args: &[&str]) -> String {
        let net = format!("--net={}", self.path().display());
        let output = Command::new("nsenter").arg(net).arg(program).args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    }

    /// `dig` with these words, asked of the embedded server.
    pub(crate) async fn dig(&self, words: &str) -> String {
        let net = format!("--net={}", self.path().display());
        let mut command = tokio::process::Command::new("nsenter");
        command.args([&net, "dig", "@127.0.0.11", "+tries=1", "+timeout=15"]).args(words.split(' '));
        String::from_utf8(command.output().await.unwrap().stdout).unwrap()
    }

    /// Opens something inside.
    pub(crate) fn inside<T: Send + 'static>(&self, make: impl FnOnce() -> T + Send + 'static) -> T {
        let path = self.path();
        let thread = thread::spawn(move || {
            let file = std::fs::File::open(path).unwrap();
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            make()
        });
        thread.join().unwrap()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn zone(names: &[(&str, &[&str])]) -> Zone {
    let names = names.iter().map(|(name, addrs)| {
        let mut addrs: Vec<IpAddr> = addrs.iter().map(|a| a.parse().unwrap()).collect();
        addrs.sort();
        ((*name).to_owned(), addrs)
    });
    let net = NetZone { network: "mynet".into(), names: names.collect(), ..NetZone::default() };
    Zone { networks: vec![Arc::new(net)], forward: true, ..Zone::default() }
}

/// A name server that does what the first label of the question says; otherwise it answers with its own address.
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    pub(crate) asked: Arc<AtomicUsize>,
}

impl Upstream {
    /// Opened in the namespace of the calling thread; its threads end with the test process.
    pub(crate) fn start(own: [u8; 4]) -> Self {
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let (addr, asked) = (udp.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let (by_udp, by_tcp) = (asked.clone(), asked.clone());
        thread::spawn(move || serve_udp(&udp, own, &by_udp));
        thread::spawn(move || serve_tcp(&tcp, own, &by_tcp));
        Self { addr, asked }
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn serve_udp(socket: &UdpSocket, own: [u8; 4], asked: &AtomicUsize) {
    let mut buffer = [0; 4096];
    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
        asked.fetch_add(1, Ordering::SeqCst);
        let query = Message::from_vec(&buffer[..len]).unwrap();
        let Some(mut reply) = reply(&query, own) else { continue };
        match label(&query).as_str() {
            "big" => {
                reply.answers.clear();
                reply.metadata.truncation = true;
            }
            "spoofed" => {
                let mut spoof = reply.clone();
                spoof.metadata.id = query.metadata.id.wrapping_add(1);
                spoof.answers.iter_mut().for_each(|r| r.data = RData::A(A::new(6, 6, 6, 6)));
                socket.send_to(&spoof.to_vec().unwrap(), from).unwrap();
            }
            "slow" => thread::sleep(Duration::from_millis(300)),
            _ => {}
        }
        socket.send_to(&reply.to_vec().unwrap(), from).unwrap();
    }
}

fn serve_tcp(listener: &TcpListener, own: [u8; 4], asked: &AtomicUsize) {
    use std::io::{Read as _, Write as _};
    while let Ok((mut stream, _)) = listener.accept() {
        asked.fetch_add(1, Ordering::SeqCst);
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query).unwrap();
        let Some(reply) = reply(&Message::from_vec(&query).unwrap(), own) else { continue };
        let reply = reply.to_vec().unwrap();
        stream.write_all(&(reply.len() as u16).to_be_bytes()).unwrap();
        stream.write_all(&reply).unwrap();
    }
}

fn label(query: &Message) -> String {
    let name = query.queries[0].name();
    name.iter().next().map(|l| String::from_utf8(l.to_vec()).unwrap()).unwrap_or_default()
}

fn reply(query: &Message, own: [u8; 4]) -> Option<Message> {
    let mut reply = query.clone();
    reply.metadata.message_type = MessageType::Response;
    let name = query.queries[0].name().clone();
    let mut add = |count: u8| {
        for n in 0..count {
            let mut addr = own;
            addr[2] = n;
            reply.add_answer(Record::from_rdata(name.clone(), 5, RData::A(A(addr.into()))));
        }
    };
    match label(query).as_str() {
        "silent" => return None,
        "nx" => reply.metadata.response_code = ResponseCode::NXDomain,
        "servfail" => reply.metadata.response_code = ResponseCode::ServFail,
        "refused" => reply.metadata.response_code = ResponseCode::Refused,
        "big" => add(100),
        _ => add(1),
    }
    Some(reply)
}
