//! Netlink by hand, for the two families that the packet crates do not speak: socket diagnosis and connection tracking.

use std::io;

use netlink_sys::{Socket, SocketAddr};

pub(crate) const NLM_F_REQUEST: u16 = 1;
pub(crate) const NLM_F_ACK: u16 = 4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_HEADER: usize = 16;

/// In the network namespace of this thread.
pub(crate) fn open(family: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(family)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// `struct nlmsghdr` and what follows it.
pub(crate) fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = (NLMSG_HEADER + body.len()) as u32;
    let mut m = Vec::with_capacity(length as usize);
    m.extend(length.to_ne_bytes());
    m.extend(kind.to_ne_bytes());
    m.extend(flags.to_ne_bytes());
    m.extend([0; 8]); // sequence and port
    m.extend(body);
    m
}

/// Asks for a list; `each` gets the bodies.
pub(crate) fn dump(socket: &Socket, request: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
    socket.send(request, 0)?;
    loop {
        let (buffer, _) = socket.recv_from_full()?;
        let mut rest = &buffer[..];
        while let Some((kind, body, next)) = split(rest) {
            rest = next;
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return code(body),
                _ => each(body),
            }
        }
    }
}

/// The type and body of the first message, and what follows it.
fn split(buffer: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(buffer.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(buffer.get(4..6)?.try_into().ok()?);
    let body = buffer.get(NLMSG_HEADER..length)?;
    let next = length.next_multiple_of(4).min(buffer.len());
    Some((kind, body, &buffer[next..]))
}

pub(crate) fn acknowledged(buffer: &[u8]) -> io::Result<()> {
    split(buffer).map_or(Ok(()), |(_, body, _)| code(body))
}

/// Of `struct nlmsgerr`.
fn code(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().copied().map(i32::from_ne_bytes) {
        Some(0) | None => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
    }
}
