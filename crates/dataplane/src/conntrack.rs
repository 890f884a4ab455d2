//! Forgets what the kernel tracked of a port of the node when the port gets another container, or none.
//!
//! The rules decide about the first packet of a flow only. A datagram that came while no container had the port is tracked
//! as one to the node, and one to the container before as one to that: each sender that goes on would keep the entry alive,
//! and never reach the container that has the port now.

use std::{collections::BTreeSet, io, net::Ipv4Addr};

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
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const IP_V4_DST: u16 = 2;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;

/// Deletes entries of flows to these ports of the node, whose addresses are `own`, in the namespace of this thread. How
/// many there were.
pub(crate) fn forget(ports: &BTreeSet<(Protocol, u16)>, own: &BTreeSet<Ipv4Addr>) -> io::Result<usize> {
    let wanted: BTreeSet<(u8, u16)> =
        ports.iter().map(|(protocol, port)| (protocol_number(*protocol), *port)).collect();
    let socket = rawnl::open(NETLINK_NETFILTER)?;
    let mut found = Vec::new();
    rawnl::dump(&socket, &rawnl::message(GET, NLM_F_REQUEST | NLM_F_DUMP, &GENERAL), |body| {
        found.extend(body.get(GENERAL.len()..).and_then(|entry| is_to(entry, &wanted, own)));
    })?;
    let mut forgotten = 0;
    for Entry { tuple, id } in found {
        let mut body = GENERAL.to_vec();
        push(&mut body, TUPLE_ORIG | NESTED, &tuple);
        push(&mut body, ID, &id);
        socket.send(&rawnl::message(DELETE, NLM_F_REQUEST | NLM_F_ACK, &body), 0)?;
        match rawnl::acknowledged(&socket.recv_from_full()?.0) {
            Ok(()) => forgotten += 1,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {} // ended by itself
            Err(e) => return Err(e),
        }
    }
    Ok(forgotten)
}

struct Entry {
    tuple: Vec<u8>,
    /// With it only this very entry is deleted.
    id: Vec<u8>,
}

/// An entry that began as a flow to one of these ports of the node. Flows to such a port of somebody else's are not ours,
/// nor are those in zones.
fn is_to(entry: &[u8], wanted: &BTreeSet<(u8, u16)>, own: &BTreeSet<Ipv4Addr>) -> Option<Entry> {
    let tuple = attribute(entry, TUPLE_ORIG)?;
    let target =
        attribute(attribute(tuple, TUPLE_IP)?, IP_V4_DST)?.first_chunk().copied().map(Ipv4Addr::from_octets)?;
    let proto = attribute(tuple, TUPLE_PROTO)?;
    let protocol = *attribute(proto, PROTO_NUM)?.first()?;
    let port = u16::from_be_bytes(attribute(proto, PROTO_DST_PORT)?.get(..2)?.try_into().ok()?);
    let here = (own.contains(&target) || target.is_loopback()) && attribute(entry, ZONE).is_none();
    let id = attribute(entry, ID)?.to_vec();
    (wanted.contains(&(protocol, port)) && here).then(|| Entry { tuple: tuple.to_vec(), id })
}

fn push(body: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    body.extend((payload.len() as u16 + 4).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(payload);
    body.resize(body.len().next_multiple_of(4), 0);
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
