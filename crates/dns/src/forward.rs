//! Queries that the zone does not know, relayed as they came.
//!
//! Each goes to the first three upstreams, one after the other: SERVFAIL, REFUSED, silence and unreachability mean the
//! next; anything else, NXDOMAIN too, is the answer. Every attempt has its own socket and its own random id, so that
//! nobody can answer who has not seen the query.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use malha_netplan::Upstream;
use rand::RngCore as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, UdpSocket},
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tracing::{debug, warn};

use crate::{
    answer::Transport,
    message::{HEADER, Rcode, empty_reply, question, truncate, udp_limit},
    sandbox::{ADDRESS, Sandbox},
    stats::count,
};

const UPSTREAMS: usize = 3;
const TIMEOUT: Duration = Duration::from_secs(4);
/// Under way for all sandboxes together: bounds the node's sockets.
const MAX_FORWARDS: usize = 4096;

#[derive(Clone, Debug)]
pub(crate) struct Forwarder {
    runtime: Handle,
    all: Arc<Semaphore>,
}

impl Forwarder {
    /// Relays on the current runtime, whose threads are in the node's network namespace.
    pub(crate) fn new() -> Self {
        Self { runtime: Handle::current(), all: Arc::new(Semaphore::new(MAX_FORWARDS)) }
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Relays a datagram and returns at once. May be called from any thread.
    pub(crate) fn udp(&self, sandbox: &Arc<Sandbox>, query: &[u8], from: SocketAddr) {
        let Some(permits) = self.admit(sandbox) else {
            let mut reply = Vec::new();
            empty_reply(query, Rcode::Refused, &mut reply);
            return sandbox.send(&reply, from);
        };
        let (asker, query) = (sandbox.clone(), query.to_vec());
        let _runtime = self.runtime.enter();
        sandbox.tasks.spawn("dns forward", async move {
            let limit = udp_limit(&query);
            let mut reply = relay(&asker, query, Transport::Udp).await;
            if reply.len() > limit {
                truncate(&mut reply);
            }
            asker.send(&reply, from);
            drop(permits);
        });
    }

    /// Relays a query that came over TCP.
    pub(crate) async fn tcp(&self, sandbox: &Sandbox, query: Vec<u8>) -> Vec<u8> {
        let Some(permits) = self.admit(sandbox) else {
            let mut reply = Vec::new();
            empty_reply(&query, Rcode::Refused, &mut reply);
            return reply;
        };
        let reply = relay(sandbox, query, Transport::Tcp).await;
        drop(permits);
        reply
    }

    fn admit(&self, sandbox: &Sandbox) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let own = sandbox.forwards.clone().try_acquire_owned();
        let permits = own.and_then(|own| Ok((own, self.all.clone().try_acquire_owned()?)));
        let counter = if permits.is_ok() { &sandbox.counters.forwarded } else { &sandbox.counters.refused };
        count(counter);
        permits.ok()
    }
}

/// The reply for the asker, with the asker's id; SERVFAIL where no upstream gave one.
async fn relay(sandbox: &Sandbox, mut query: Vec<u8>, transport: Transport) -> Vec<u8> {
    let asked = [query[0], query[1]];
    let zone = sandbox.zone.load_full();
    for upstream in zone.upstreams.iter().take(UPSTREAMS) {
        if is_loop(upstream) {
            warn!(sandbox = sandbox.id, "upstream is this server itself; left out");
            continue;
        }
        let id = (rand::rng().next_u32() as u16).to_be_bytes();
        query[..2].copy_from_slice(&id);
        let attempt = async {
            match transport {
                Transport::Udp => ask_udp(sandbox, upstream, &query).await,
                Transport::Tcp => ask_tcp(sandbox, upstream, &query).await,
            }
        };
        match timeout(TIMEOUT, attempt).await {
            Ok(Ok(mut reply)) if !try_next(&reply) => {
                reply[..2].copy_from_slice(&asked);
                return reply;
            }
            Ok(Ok(reply)) => debug!(sandbox = sandbox.id, upstream = %upstream.addr, rcode = reply[3] & 0xf, "refused"),
            Ok(Err(error)) => debug!(sandbox = sandbox.id, upstream = %upstream.addr, %error, "no answer"),
            Err(_) => debug!(sandbox = sandbox.id, upstream = %upstream.addr, "no answer in time"),
        }
    }
    count(&sandbox.counters.failed);
    query[..2].copy_from_slice(&asked);
    let mut reply = Vec::new();
    empty_reply(&query, Rcode::ServFail, &mut reply);
    reply
}

/// Seen from the container, `127.0.0.11` is we. Seen from the node it may be another engine's resolver.
fn is_loop(upstream: &Upstream) -> bool {
    !upstream.from_node && upstream.addr.ip() == IpAddr::V4(ADDRESS)
}

fn try_next(reply: &[u8]) -> bool {
    let rcode = reply[3] & 0x0f;
    rcode == Rcode::ServFail as u8 || rcode == Rcode::Refused as u8
}

/// Whether `reply` answers `query`: same id and, where it repeats the question, the same one.
fn answers(reply: &[u8], query: &[u8]) -> bool {
    if reply.len() < HEADER || reply[..2] != query[..2] || reply[2] & 0x80 == 0 {
        return false;
    }
    let repeated = reply[4..6] != [0, 0];
    !repeated || matches!((question(reply), question(query)), (Some(a), Some(b)) if a.eq_ignore_ascii_case(b))
}

async fn ask_udp(sandbox: &Sandbox, upstream: &Upstream, query: &[u8]) -> io::Result<Vec<u8>> {
    let domain = Domain::for_address(upstream.addr);
    let socket = if upstream.from_node {
        Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?
    } else {
        sandbox.stock.take(&sandbox.netns, domain).await?
    };
    let any: IpAddr = if upstream.addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    socket.bind(&SocketAddr::new(any, 0).into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    socket.connect(upstream.addr).await?;
    socket.send(query).await?;
    let mut reply = Vec::with_capacity(usize::from(u16::MAX));
    loop {
        reply.clear();
        socket.recv_buf(&mut reply).await?;
        if answers(&reply, query) {
            return Ok(reply);
        }
    }
}

async fn ask_tcp(sandbox: &Sandbox, upstream: &Upstream, query: &[u8]) -> io::Result<Vec<u8>> {
    let domain = Domain::for_address(upstream.addr);
    let make = move || Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP));
    let socket = if upstream.from_node { make()? } else { sandbox.netns.inside(make).await? };
    let mut stream = TcpSocket::from_std_stream(socket.into()).connect(upstream.addr).await?;
    write_message(&mut stream, query).await?;
    let reply = read_message(&mut stream).await?;
    if answers(&reply, query) { Ok(reply) } else { Err(io::Error::other("the answer is to another question")) }
}

/// A message with its length before it, as TCP carries them.
pub(crate) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::other("message too long"))?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

pub(crate) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
