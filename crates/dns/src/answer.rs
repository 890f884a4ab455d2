//! What a query gets, decided from the zone alone.
//!
//! | query | answer |
//! |---|---|
//! | A, AAAA of a known name | its addresses of that family (perhaps none), in random order |
//! | MX of a known name | none |
//! | A, AAAA of an unknown single label where an `ndots` option is set | none |
//! | PTR of a known address | its name |
//! | SRV of a known port | port and names |
//! | anything else | forwarded; SERVFAIL where the sandbox may not or cannot |

use std::net::IpAddr;

use malha_netplan::{NetZone, SrvTarget, Zone};

use crate::message::{Query, Rcode, Unusable, Writer, empty_reply, kind, reverse_address};

/// What is to be done about a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The reply is in the buffer.
    Reply,
    /// To be asked of the zone's upstreams.
    Forward,
    /// Not a query; silence is the only safe answer.
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// Answers `query` from `zone` into `out`, which is emptied first. `seed` decides the order of addresses.
pub fn answer(zone: &Zone, query: &[u8], transport: Transport, seed: u64, out: &mut Vec<u8>) -> Answer {
    let parsed = match Query::parse(query) {
        Ok(parsed) => parsed,
        Err(Unusable::NotAQuery) => return Answer::Drop,
        Err(Unusable::Refuse(rcode)) => {
            empty_reply(query, rcode, out);
            return Answer::Reply;
        }
        Err(Unusable::Foreign) => return forward(zone, query, out),
    };
    let limit = match transport {
        Transport::Udp => parsed.udp_limit(),
        Transport::Tcp => usize::from(u16::MAX),
    };
    let name = parsed.name();
    let found = match parsed.kind {
        kind::A | kind::AAAA => match lookup(zone, name, addresses_of) {
            Some(all) => Found::Addresses(all),
            None if zone.ndots_set && !name.is_empty() && !name.contains('.') => Found::Nothing,
            None => Found::Unknown,
        },
        kind::MX => lookup(zone, name, addresses_of).map_or(Found::Unknown, |_| Found::Nothing),
        kind::SRV => lookup(zone, name, services_of).map_or(Found::Unknown, Found::Services),
        kind::PTR => match reverse_address(name).and_then(|addr| name_of(zone, addr)) {
            Some(name) => Found::Pointer(name),
            None => Found::Unknown,
        },
        _ => Found::Unknown,
    };
    if matches!(found, Found::Unknown) {
        return forward(zone, query, out);
    }
    let mut reply = Writer::new(&parsed, limit, out);
    match found {
        Found::Addresses(all) => write_addresses(&mut reply, all, parsed.kind == kind::A, seed),
        Found::Services(targets) => targets.iter().for_each(|t| reply.service(t.port, &t.target)),
        Found::Pointer(name) => reply.pointer(name),
        Found::Nothing | Found::Unknown => {}
    }
    reply.finish();
    Answer::Reply
}

enum Found<'z> {
    Addresses(&'z [IpAddr]),
    Services(&'z [SrvTarget]),
    Pointer(&'z str),
    /// Known, without data of this kind.
    Nothing,
    Unknown,
}

fn forward(zone: &Zone, query: &[u8], out: &mut Vec<u8>) -> Answer {
    if zone.forward && !zone.upstreams.is_empty() {
        return Answer::Forward;
    }
    empty_reply(query, Rcode::ServFail, out);
    Answer::Reply
}

/// `a.b.c` in all networks; else `a.b` in the network `c`; else `a` in the network `b.c`. The first network that knows it
/// wins.
fn lookup<'z, T: ?Sized>(zone: &'z Zone, name: &str, of: fn(&'z NetZone, &str) -> Option<&'z T>) -> Option<&'z T> {
    if name.is_empty() {
        return None;
    }
    let everywhere = zone.networks.iter().find_map(|net| of(net, name));
    everywhere.or_else(|| {
        name.rmatch_indices('.').find_map(|(dot, _)| {
            let (name, network) = (&name[..dot], &name[dot + 1..]);
            let mut named = zone.networks.iter().filter(|net| net.network.eq_ignore_ascii_case(network));
            named.find_map(|net| of(net, name))
        })
    })
}

fn addresses_of<'z>(net: &'z NetZone, name: &str) -> Option<&'z [IpAddr]> {
    net.names.get(name).map(Vec::as_slice)
}

fn services_of<'z>(net: &'z NetZone, name: &str) -> Option<&'z [SrvTarget]> {
    net.services.get(name).map(Vec::as_slice)
}

fn name_of(zone: &Zone, addr: IpAddr) -> Option<&str> {
    zone.networks.iter().find_map(|net| net.reverse.get(&addr)).map(String::as_str)
}

/// All addresses of one family. The list is sorted, so a family is one piece of it; it is walked from a random place in
/// random strides, which visits each once, needs no room, and lets no address follow the same neighbour every time.
fn write_addresses(reply: &mut Writer<'_>, all: &[IpAddr], v4: bool, seed: u64) {
    let split = all.partition_point(IpAddr::is_ipv4);
    let family = if v4 { &all[..split] } else { &all[split..] };
    let count = family.len();
    if count == 0 {
        return;
    }
    let mut at = (seed as u32 as usize) % count;
    let mut stride = 1 + (seed >> 32) as usize % count;
    while gcd(stride, count) != 1 {
        stride += 1;
    }
    for _ in 0..count {
        reply.address(family[at]);
        at = (at + stride) % count;
    }
}

fn gcd(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
