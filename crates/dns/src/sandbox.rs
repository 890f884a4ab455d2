//! One sandbox: its sockets, its zone, its counts.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
};

use arc_swap::ArcSwap;
use malha_kit::Tasks;
use malha_netplan::Zone;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::Semaphore;

use crate::{netns::Netns, stats::Counters, stock::Stock};

/// Where every resolver in a sandbox is told to ask.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const PORT: u16 = 53;
/// Tried first where it is to be another port: the same after a restart, for sockets that are connected to it.
const OTHER_PORT: u16 = 65053;

/// Which port of `127.0.0.11` the sockets take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Where they are asked.
    Port53,
    /// Another, so that the container has port 53 for itself. Whoever starts the server leads queries there.
    Elsewhere,
}

/// Where the sockets of a sandbox are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub udp: u16,
    pub tcp: u16,
}

/// Forwarded queries under way, per sandbox.
const MAX_FORWARDS: usize = 1024;
/// Accepted TCP connections, per sandbox.
const TCP_BACKLOG: i32 = 128;

#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) netns: Netns,
    pub(crate) udp: UdpSocket,
    pub(crate) ports: Ports,
    pub(crate) zone: ArcSwap<Zone>,
    pub(crate) counters: Counters,
    pub(crate) forwards: Arc<Semaphore>,
    pub(crate) stock: Stock,
    /// TCP connections and forwards, which hold the sockets too.
    pub(crate) tasks: Tasks,
}

impl Sandbox {
    pub(crate) fn new(id: &str, netns: Netns, (udp, ports): (UdpSocket, Ports), zone: Arc<Zone>, tasks: Tasks) -> Self {
        Self {
            id: id.to_owned(),
            netns,
            udp,
            ports,
            zone: ArcSwap::new(zone),
            counters: Counters::default(),
            forwards: Arc::new(Semaphore::new(MAX_FORWARDS)),
            stock: Stock::default(),
            tasks,
        }
    }

    /// Sends a reply; one that the asker's socket has no room for is lost, as datagrams are.
    pub(crate) fn send(&self, reply: &[u8], to: SocketAddr) {
        let _ = self.udp.send_to(reply, to);
    }
}

/// Both sockets, opened in the namespace of the calling thread.
pub(crate) fn listen(at: Listen) -> io::Result<(UdpSocket, TcpListener, Ports)> {
    let udp = socket(Type::DGRAM, Protocol::UDP, at)?;
    let tcp = socket(Type::STREAM, Protocol::TCP, at)?;
    tcp.listen(TCP_BACKLOG)?;
    let (udp, tcp) = (UdpSocket::from(udp), TcpListener::from(tcp));
    let ports = Ports { udp: udp.local_addr()?.port(), tcp: tcp.local_addr()?.port() };
    Ok((udp, tcp, ports))
}

fn socket(kind: Type, protocol: Protocol, at: Listen) -> io::Result<Socket> {
    let bound = |port: u16| {
        let socket = Socket::new(Domain::IPV4, kind.nonblocking(), Some(protocol))?;
        // Connections of before a restart may still be closing.
        socket.set_reuse_address(kind == Type::STREAM)?;
        // The address exists once `lo` is up, which may come later.
        socket.set_freebind_v4(true)?;
        socket.bind(&SocketAddr::from((ADDRESS, port)).into())?;
        Ok(socket)
    };
    match at {
        Listen::Port53 => bound(PORT),
        Listen::Elsewhere => bound(OTHER_PORT).or_else(|e: io::Error| match e.kind() {
            io::ErrorKind::AddrInUse => bound(0),
            _ => Err(e),
        }),
    }
}
