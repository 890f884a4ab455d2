//! Forgets what the kernel tracked of a port of the node when the port gets another container, or none.
//!
//! The rules decide about the first packet of a flow only. A datagram that came while no container had the port is tracked
//! as one to the node, and one to the container before as one to that: each sender that goes on would keep the entry alive,
//! and never reach the container that has the port now.

use std::{collections::BTreeSet, io};

use malha_model::Protocol;
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::{
    ebpf::protocol_number,
    rawnl::{self, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST},
};

const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
/// `struct nfgenmsg` for IPv4.
const GENERAL: [u8; 4] = [libc::AF_INET as u8, 0, 0, 0];

const TUPLE_ORIG: u16 = 1;
const STATUS: u16 = 3;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;
const SOURCE_TRANSLATED: u32 = 1 << 4;
const TARGET_TRANSLATED: u32 = 1 << 5;

/// Deletes entries of flows to these ports of the node, in the namespace of this thread. How many there were.
pub(crate) fn forget(ports: &BTreeSet<(Protocol, u16)>) -> io::Result<usize> {
    let wanted: BTreeSet<(u8, u16)> =
        ports.iter().map(|(protocol, port)| (protocol_number(*protocol), *port)).collect();
    let socket = rawnl::open(NETLINK_NETFILTER)?;
    let mut found = Vec::new();
    rawnl::dump(&socket, &rawnl::message(GET, NLM_F_REQUEST | NLM_F_DUMP, &GENERAL), |body| {
        found.extend(body.get(GENERAL.len()..).and_then(|entry| is_to(entry, &wanted)));
    })?;
    let mut forgotten = 0;
    for tuple in found {
        let mut body = GENERAL.to_vec();
        body.extend((tuple.len() as u16 + 4).to_ne_bytes());
        body.extend((TUPLE_ORIG | NESTED).to_ne_bytes());
        body.extend(tuple);
        socket.send(&rawnl::message(DELETE, NLM_F_REQUEST | NLM_F_ACK, &body), 0)?;
        match rawnl::acknowledged(&socket.recv_from_full()?.0) {
            Ok(()) => forgotten += 1,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {} // ended by itself
            Err(e) => return Err(e),
        }
    }
    Ok(forgotten)
}

/// The original tuple of an entry that began as a flow to one of these ports. Flows that only leave by the node, to such a
/// port of somebody else's, are translated at their source alone.
fn is_to(entry: &[u8], wanted: &BTreeSet<(u8, u16)>) -> Option<Vec<u8>> {
    let tuple = attribute(entry, TUPLE_ORIG)?;
    let proto = attribute(tuple, TUPLE_PROTO)?;
    let protocol = *attribute(proto, PROTO_NUM)?.first()?;
    let port = u16::from_be_bytes(attribute(proto, PROTO_DST_PORT)?.get(..2)?.try_into().ok()?);
    let status = u32::from_be_bytes(attribute(entry, STATUS)?.get(..4)?.try_into().ok()?);
    let leaves = status & (SOURCE_TRANSLATED | TARGET_TRANSLATED) == SOURCE_TRANSLATED;
    (wanted.contains(&(protocol, port)) && !leaves).then(|| tuple.to_vec())
}

const NESTED: u16 = 1 << 15;

/// The payload of the first attribute of this kind.
fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & !NESTED;
        let payload = rest.get(4..length)?;
        if kind == wanted {
            return Some(payload);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}
