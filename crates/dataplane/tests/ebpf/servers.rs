//! Servers in containers, and clients outside of cgroups: threads of the test, each in a namespace.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};

/// Runs `work` on a thread in the namespace `netns`.
pub fn within<T: Send>(netns: &str, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{netns}")).unwrap();
    thread::scope(|scope| {
        let inside = move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        scope.spawn(inside).join().unwrap()
    })
}

/// A server that greets with its name and the client's address, then echoes lines. Ends with the test process.
pub fn tcp(netns: &str, name: &str, port: u16) {
    tcp_at(netns, name, &format!("0.0.0.0:{port}"));
}

/// Answers the port that it listens on.
pub fn tcp_at(netns: &str, name: &str, at: &str) -> u16 {
    let listener = within(netns, || TcpListener::bind(at).unwrap());
    let port = listener.local_addr().unwrap().port();
    let name = name.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let name = name.clone();
            thread::spawn(move || {
                let Ok(peer) = stream.peer_addr() else { return };
                let _ = writeln!(&stream, "{name} sees {}", peer.ip());
                for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                    let _ = writeln!(&stream, "{name} echoes {line}");
                }
            });
        }
    });
    port
}

/// A server that reads to the end and tells how much it was.
pub fn sink(netns: &str, name: &str, port: u16) {
    let listener = within(netns, || TcpListener::bind(("0.0.0.0", port)).unwrap());
    let name = name.to_owned();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let got = std::io::copy(&mut stream, &mut std::io::sink());
            let _ = got.and_then(|got| write!(stream, "{name} got {got}"));
        }
    });
}

/// Sends this much to a [`sink`]; what it answers.
pub fn pour(netns: &str, to: (Ipv4Addr, u16), size: u64) -> String {
    let mut stream = within(netns, || TcpStream::connect(to).unwrap());
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let block = vec![7; 1 << 20];
    for _ in 0..size >> 20 {
        stream.write_all(&block).unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Answers each datagram with its name and the sender's address.
pub fn udp(netns: &str, name: &str, port: u16) {
    udp_at(netns, name, &format!("0.0.0.0:{port}"));
}

/// Answers the port that it listens on.
pub fn udp_at(netns: &str, name: &str, at: &str) -> u16 {
    let socket = within(netns, || UdpSocket::bind(at).unwrap());
    let port = socket.local_addr().unwrap().port();
    let name = name.to_owned();
    thread::spawn(move || {
        let mut buffer = [0; 200];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{name} sees {}", from.ip()).as_bytes(), from);
        }
    });
    port
}

/// What the server says to one connection; the error otherwise.
pub fn get(netns: &str, addr: impl Into<SocketAddr>) -> Result<String, String> {
    let addr = addr.into();
    within(netns, || {
        let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(2)).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        stream.shutdown(std::net::Shutdown::Write).map_err(|e| e.to_string())?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(|e| e.to_string())?;
        Ok(text.trim_end().to_owned())
    })
}

/// An open connection of a client that is in no container.
pub struct Conversation {
    reader: BufReader<TcpStream>,
    pub greeting: String,
}

impl Conversation {
    pub fn open(netns: &str, addr: impl Into<SocketAddr>) -> Self {
        let addr = addr.into();
        let stream = within(netns, || TcpStream::connect_timeout(&addr, Duration::from_secs(2)).unwrap());
        Self::on(stream)
    }

    pub fn on(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut conversation = Self { reader: BufReader::new(stream), greeting: String::new() };
        conversation.greeting = conversation.read().unwrap();
        conversation
    }

    fn read(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// Leaves nothing behind, so that its numbers can be used again.
    pub fn reset(self) {
        socket2::SockRef::from(self.reader.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
    }

    pub fn say(&mut self, line: &str) -> std::io::Result<String> {
        writeln!(self.reader.get_mut(), "{line}")?;
        self.read()
    }
}

/// One datagram from a socket of its own; the answer and where it came from.
pub fn datagram(netns: &str, addr: impl Into<SocketAddr>) -> Result<(String, IpAddr), String> {
    datagram_of(netns, addr, 5)
}

/// The same with one of this size.
pub fn datagram_of(netns: &str, addr: impl Into<SocketAddr>, size: usize) -> Result<(String, IpAddr), String> {
    let addr = addr.into();
    within(netns, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket.send_to(&vec![b'x'; size], addr).map_err(|e| e.to_string())?;
        let mut buffer = vec![0; 1 << 16];
        let (n, from) = socket.recv_from(&mut buffer).map_err(|e| e.to_string())?;
        Ok((String::from_utf8_lossy(&buffer[..n]).into_owned(), from.ip()))
    })
}

/// This many datagrams or SYNs, each of another client that nobody knows.
pub fn flood(netns: &str, protocol: i32, to: (Ipv4Addr, u16), count: u32) {
    let clients = (0..count).map(|n| (Ipv4Addr::new(10, 200, (n >> 14) as u8, 9), 1024 + (n & 0x3fff) as u16));
    forge(netns, protocol, clients, to);
}

/// A datagram or SYN from each of these.
pub fn forge(netns: &str, protocol: i32, from: impl IntoIterator<Item = (Ipv4Addr, u16)>, to: (Ipv4Addr, u16)) {
    let socket = within(netns, || {
        let raw = Some(socket2::Protocol::from(255)); // with headers of one's own
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::from(libc::SOCK_RAW), raw).unwrap()
    });
    let target = SocketAddr::from(to).into();
    for from in from {
        let packet = first_packet(protocol, from, to);
        while socket.send_to(&packet, &target).is_err() {
            thread::sleep(Duration::from_millis(1)); // faster than the device
        }
    }
}

/// A SYN or a small datagram. Nobody who forwards it looks at its checksum.
fn first_packet(protocol: i32, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol as u8, 0, 0];
    packet.extend(from.0.octets());
    packet.extend(to.0.octets());
    packet.extend(from.1.to_be_bytes());
    packet.extend(to.1.to_be_bytes());
    if protocol == libc::IPPROTO_UDP {
        packet.extend([0, 20, 0, 0]);
    } else {
        packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2]);
    }
    packet.resize(40, 0);
    packet
}

/// A SYN in a frame with this VLAN tag, from `eth0` of `netns` to that of `node`.
pub fn tagged_syn(netns: &str, node: &str, tag: u16, to: (Ipv4Addr, u16)) {
    let mac = |netns: &str| {
        let text = crate::world::run(&format!("ip netns exec {netns} cat /sys/class/net/eth0/address"));
        text.trim().split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect::<Vec<u8>>()
    };
    let mut frame = [mac(node), mac(netns), vec![0x81, 0x00]].concat();
    frame.extend(tag.to_be_bytes());
    frame.extend([0x08, 0x00]);
    frame.extend(first_packet(libc::IPPROTO_TCP, (Ipv4Addr::new(192, 168, 77, 100), 7), to));
    within(netns, || {
        let index = nix::net::if_::if_nametoindex("eth0").unwrap();
        send_frame(&frame, index);
    });
}

#[allow(unsafe_code, reason = "no wrapper knows packet sockets")]
fn send_frame(frame: &[u8], ifindex: u32) {
    let socket = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::from(libc::SOCK_RAW), None).unwrap();
    // SAFETY: all zeros is a valid address.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    (to.sll_family, to.sll_ifindex) = (libc::AF_PACKET as u16, ifindex as i32);
    let (address, len) = (std::ptr::from_ref(&to).cast(), size_of_val(&to) as u32);
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: frame and address live through the call and have the sizes that are told.
    let sent = unsafe { libc::sendto(fd, frame.as_ptr().cast(), frame.len(), 0, address, len) };
    assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
}
