//! How a port of the node is held: by a bound socket that never receives.
//!
//! Packets of a held port are led elsewhere before they would reach a socket. Bound it is all the same, on all addresses
//! of both families, so that whoever wants the port as well is told so (`EADDRINUSE`), as with Docker's proxies: neither
//! `SO_REUSEADDR` nor an address of its own lets a server in. TCP does not listen, and a UDP socket belongs to the tunnel's
//! device, by which no datagram comes: what is led nowhere is refused as by a port that nobody has. The kernel lets go of
//! the port with the descriptor, which no child inherits.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
};

use malha_model::Protocol;
use socket2::{Domain, Socket, Type};

use crate::vxlan::VXLAN_DEVICE;

/// The port's number, and what holds it: nothing where no socket can.
pub(crate) type Bound = io::Result<(u16, Option<OwnedFd>)>;

/// Binds `port` in the namespace of this thread; 0 becomes a free one.
pub(crate) fn bind(protocol: Protocol, port: u16) -> Bound {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
        // few kernels have SCTP sockets; the rule alone serves
        Protocol::Sctp if port != 0 => return Ok((port, None)),
        Protocol::Sctp => return Err(io::Error::other("an SCTP port needs its number on the node")),
    };
    let both = bound(Domain::IPV6, kind, (Ipv6Addr::UNSPECIFIED, port).into());
    let socket = match both {
        // A kernel without IPv6, or a server of others that serves nothing but IPv6: what we lead is IPv4.
        Err(e) if e.kind() == io::ErrorKind::AddrInUse || e.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            bound(Domain::IPV4, kind, (Ipv4Addr::UNSPECIFIED, port).into())?
        }
        both => both?,
    };
    let number = socket.local_addr()?.as_socket().map_or(port, |a| a.port());
    Ok((number, Some(socket.into())))
}

fn bound(domain: Domain, kind: Type, addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(domain, kind, None)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    if kind == Type::DGRAM {
        socket.bind_device(Some(VXLAN_DEVICE.as_bytes()))?;
    }
    socket.bind(&addr.into())?;
    Ok(socket)
}
