//! C and Rust agree on every struct that they share.

use std::mem::offset_of;

use super::*;

const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/layout.o"));

fn u64_at(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()) as usize
}

/// The bytes of an ELF section. Offsets are those of a 64-bit little-endian ELF header.
fn section<'a>(elf: &'a [u8], wanted: &str) -> &'a [u8] {
    let (table, size, count, names) = (u64_at(elf, 40), u16_at(elf, 58), u16_at(elf, 60), u16_at(elf, 62));
    let header = |i: usize| &elf[table + i * size..][..size];
    let content = |h: &[u8]| &elf[u64_at(h, 24)..][..u64_at(h, 32)];
    let strings = content(header(names));
    let found = (0..count).map(header).find(|h| strings[u32_at(h, 0)..].starts_with(format!("{wanted}\0").as_bytes()));
    content(found.unwrap())
}

#[test]
#[allow(clippy::too_many_lines, reason = "one row for each field")]
fn c_and_rust_agree() {
    let c: Vec<usize> = section(OBJECT, "layout").chunks(4).map(|w| u32_at(w, 0)).collect();
    let rust = [
        size_of::<Settings>(),
        offset_of!(Settings, node),
        offset_of!(Settings, vxlan_ifindex),
        offset_of!(Settings, uplink_ifindex),
        offset_of!(Settings, lo_ifindex),
        offset_of!(Settings, vxlan_port),
        size_of::<PeerKey>(),
        offset_of!(PeerKey, addr),
        size_of::<EndpointKey>(),
        offset_of!(EndpointKey, addr),
        size_of::<Endpoint>(),
        offset_of!(Endpoint, remote),
        offset_of!(Endpoint, ifindex),
        offset_of!(Endpoint, mac),
        offset_of!(Endpoint, kind),
        offset_of!(Endpoint, owner),
        size_of::<Link>(),
        offset_of!(Link, mac),
        offset_of!(Link, ingress),
        offset_of!(Link, netns),
        offset_of!(Link, addrs),
        size_of::<Epoch>(),
        offset_of!(Epoch, paths_until),
        size_of::<PathRow>(),
        offset_of!(PathRow, via),
        offset_of!(PathRow, source),
        offset_of!(PathRow, mtu),
        offset_of!(PathRow, port),
        size_of::<Front>(),
        offset_of!(Front, port),
        offset_of!(Front, proto),
        offset_of!(Front, addr),
        size_of::<Service>(),
        offset_of!(Service, vni),
        size_of::<Slot>(),
        offset_of!(Slot, index),
        size_of::<Backend>(),
        offset_of!(Backend, port),
        size_of::<Scope>(),
        offset_of!(Scope, count),
        offset_of!(Scope, vnis),
        offset_of!(Scope, resolver_udp),
        offset_of!(Scope, resolver_tcp),
        size_of::<Connected>(),
        offset_of!(Connected, vip),
        offset_of!(Connected, netns),
        offset_of!(Connected, vni),
        offset_of!(Connected, port),
        offset_of!(Connected, proto),
        size_of::<DatagramKey>(),
        offset_of!(DatagramKey, addr),
        offset_of!(DatagramKey, port),
        offset_of!(DatagramKey, direction),
        size_of::<Datagram>(),
        offset_of!(Datagram, serial),
        offset_of!(Datagram, vni),
        size_of::<FlowKey>(),
        offset_of!(FlowKey, node),
        offset_of!(FlowKey, client_port),
        offset_of!(FlowKey, port),
        offset_of!(FlowKey, proto),
        offset_of!(FlowKey, shown),
        size_of::<Flow>(),
        offset_of!(Flow, origin),
        offset_of!(Flow, serial),
        offset_of!(Flow, since),
        offset_of!(Flow, closed),
        offset_of!(Flow, ifindex),
        offset_of!(Flow, target_port),
        offset_of!(Flow, origin_port),
        offset_of!(Flow, shown_port),
        offset_of!(Flow, state),
        offset_of!(Flow, side),
        size_of::<ReplyKey>(),
        offset_of!(ReplyKey, client),
        offset_of!(ReplyKey, task_port),
        offset_of!(ReplyKey, client_port),
        offset_of!(ReplyKey, proto),
        size_of::<Reply>(),
        offset_of!(Reply, vtep),
        offset_of!(Reply, closed),
        offset_of!(Reply, ifindex),
        offset_of!(Reply, port),
        offset_of!(Reply, client_port),
        offset_of!(Reply, state),
        size_of::<RemapKey>(),
        offset_of!(RemapKey, task),
        size_of::<Counter>(),
        offset_of!(Counter, bytes),
        size_of::<NetDropKey>(),
        offset_of!(NetDropKey, reason),
        DropReason::ALL.len() + 1,
        PATHS.len(),
        SCOPE_VNIS,
        LINK_ADDRS,
    ];
    assert_eq!(c, rust);
}

#[test]
fn reasons_are_numbered_without_gaps() {
    for (i, reason) in DropReason::ALL.iter().enumerate() {
        assert_eq!(*reason as usize, i + 1, "{}", reason.as_str());
    }
}

#[test]
fn addresses_come_back() {
    for text in ["10.0.1.2", "fd00::1", "::1"] {
        let ip: IpAddr = text.parse().unwrap();
        assert_eq!(Addr::from(ip).ip(), ip);
    }
}
