//! What the programs counted, and what the maps hold, for people.

use std::collections::BTreeMap;

use aya::{
    Pod,
    maps::{MapData, PerCpuArray},
};
use serde::Serialize;

use super::{
    error::EbpfResult,
    layout::{Counter, DropReason, PATHS, Port, kind},
    maps::{Maps, Shared, failed},
};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}

/// Counters since the maps were made. Nothing resets them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// By reason, see [`DropReason::as_str`].
    pub drops: BTreeMap<&'static str, Count>,
    /// Packets by network and reason. Network 0 stands for the unknown ones.
    pub network_drops: BTreeMap<u32, BTreeMap<&'static str, u64>>,
    /// Not dropped, by what was done.
    pub traffic: BTreeMap<&'static str, Count>,
}

impl Stats {
    /// Packets dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(reason.as_str()).map_or(0, |c| c.packets)
    }
}

/// One map, row by row, readable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MapDump {
    pub name: &'static str,
    pub rows: Vec<(String, String)>,
}

impl Maps {
    pub(super) fn stats(&self) -> EbpfResult<Stats> {
        let mut stats = Stats::default();
        for reason in DropReason::ALL {
            stats.drops.insert(reason.as_str(), sum(&self.drops, "drops", *reason as u32)?);
        }
        for (index, name) in (0..).zip(PATHS) {
            stats.traffic.insert(name, sum(&self.traffic, "traffic", index)?);
        }
        for (key, packets) in self.net_drops.rows()? {
            let reason = DropReason::ALL.iter().find(|r| **r as u32 == key.reason);
            let Some(reason) = reason else { continue };
            stats.network_drops.entry(key.vni).or_default().insert(reason.as_str(), packets);
        }
        Ok(stats)
    }

    pub(super) fn dump(&self) -> EbpfResult<Vec<MapDump>> {
        Ok(vec![
            dump("networks", self.networks.held().iter(), |k, v| (format!("vni {k}"), flags(*v))),
            dump("peers", self.peers.held().iter(), |k, v| (format!("vni {} {}", k.vni, k.addr), flags(*v))),
            dump("endpoints", self.endpoints.held().iter(), |k, e| {
                let place = match e.kind {
                    kind::LOCAL => format!("link {}", e.ifindex),
                    kind::REMOTE => format!("via {}", e.remote),
                    other => kind::name(other).to_owned(),
                };
                (format!("vni {} {}", k.vni, k.addr), format!("{place} mac {} serial {}", e.mac(), e.serial))
            }),
            dump("links", self.links.held().iter(), |k, l| {
                let addrs: Vec<_> = l.addrs.iter().filter(|a| !a.is_zero()).map(ToString::to_string).collect();
                let ingress = if l.ingress == 0 { "" } else { " ingress" };
                let mac = malha_netplan::Mac(l.mac);
                (format!("link {k}"), format!("vni {} {} mac {mac}{ingress}", l.vni, addrs.join(" ")))
            }),
            dump("paths", self.paths.held().iter(), |k, p| {
                let via = std::net::Ipv4Addr::from(p.via);
                (k.to_string(), format!("link {} next {via} mtu {}", p.ifindex, p.mtu))
            }),
            dump("services", self.services.held().iter(), |k, s| {
                (front(k), format!("{} backends on vni {}", s.count, s.vni))
            }),
            dump("backends", self.backends.held().iter(), |k, b| {
                (format!("{} slot {}", front(&k.front), k.index), at(b.addr, b.port))
            }),
            dump("scopes", self.scopes.held().iter(), |k, s| {
                let vnis: Vec<_> =
                    s.vnis.as_flattened().iter().take(s.count as usize).map(ToString::to_string).collect();
                (format!("namespace {k}"), format!("vni {}", vnis.join(" ")))
            }),
            dump("node_addrs", self.node_addrs.held().iter(), |k, _| (k.to_string(), String::new())),
            dump("connected", self.connected.rows()?.iter().map(|(k, v)| (k, v)), |k, c| {
                (format!("socket {k}"), format!("vni {} vip {} is {}", c.vni, at(c.vip, c.port), at(c.backend, c.port)))
            }),
            dump("datagrams", self.datagrams.rows()?.iter().map(|(k, v)| (k, v)), |k, d| {
                (format!("socket {} {}", k.cookie, at(k.addr, k.port)), format!("vni {} is {}", d.vni, d.other))
            }),
            dump(
                "flows",
                all([&self.flows, &self.opening_flows, &self.udp_flows])?.iter().map(|(k, v)| (k, v)),
                |k, f| {
                    let client = at(k.client, k.client_port);
                    let to = at(f.backend, f.target_port);
                    (
                        format!("{} {client} to {}", proto(k.proto), at(k.node, k.port)),
                        format!("{to} state {}", f.state),
                    )
                },
            ),
            dump(
                "replies",
                all([&self.replies, &self.opening_replies, &self.udp_replies])?.iter().map(|(k, v)| (k, v)),
                |k, r| {
                    let (task, client) = (at(k.task, k.task_port), at(k.client, k.client_port));
                    let entry = if r.vtep.is_zero() { "this node".to_owned() } else { r.vtep.to_string() };
                    (
                        format!("{} {task} to {client}", proto(k.proto)),
                        format!("as {} by {entry} state {}", at(r.node, r.port), r.state),
                    )
                },
            ),
            dump("remaps", all([&self.remaps, &self.udp_remaps])?.iter().map(|(k, v)| (k, v)), |k, port| {
                let flow = &k.flow;
                let (client, node) = (at(flow.client, flow.client_port), at(flow.node, flow.port));
                (format!("{} {client} to {node} at {}", proto(flow.proto), k.task), format!("port {}", port.number()))
            }),
        ])
    }
}

fn sum(map: &PerCpuArray<MapData, Counter>, name: &'static str, index: u32) -> EbpfResult<Count> {
    let per_cpu = map.get(&index, 0).map_err(failed(name))?;
    let add = |total: Count, c: &Counter| Count { packets: total.packets + c.packets, bytes: total.bytes + c.bytes };
    Ok(per_cpu.iter().fold(Count::default(), add))
}

fn all<K: Pod + PartialEq, V: Pod, const N: usize>(maps: [&Shared<K, V>; N]) -> EbpfResult<Vec<(K, V)>> {
    let mut rows = Vec::new();
    for map in maps {
        rows.extend(map.rows()?);
    }
    Ok(rows)
}

fn dump<'a, K: 'a, V: 'a>(
    name: &'static str,
    rows: impl Iterator<Item = (&'a K, &'a V)>,
    text: impl Fn(&K, &V) -> (String, String),
) -> MapDump {
    MapDump { name, rows: rows.map(|(k, v)| text(k, v)).collect() }
}

fn flags(flags: u32) -> String {
    if flags & super::layout::NET_INGRESS != 0 { "ingress".to_owned() } else { String::new() }
}

fn front(front: &super::layout::Front) -> String {
    match front.port.number() {
        0 => format!("vni {} vip {}", front.vni, front.addr),
        port => format!("port {port}/{}", proto(front.proto)),
    }
}

fn proto(number: u8) -> String {
    match number {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    }
}

fn at(addr: super::layout::Addr, port: Port) -> String {
    match port.number() {
        0 => addr.to_string(),
        port => std::net::SocketAddr::new(addr.ip(), port).to_string(),
    }
}
