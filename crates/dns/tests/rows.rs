//! Every row of the table of answers, read back by a codec that is not ours; and what no query may do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    str::FromStr as _,
    sync::Arc,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use malha_dns::{Answer, Transport, answer};
use malha_netplan::{NetZone, SrvTarget, Upstream, Zone};
use proptest::prelude::*;

fn net(network: &str, names: &[(&str, &[&str])]) -> Arc<NetZone> {
    let addrs = |list: &[&str]| {
        let mut all: Vec<IpAddr> = list.iter().map(|a| a.parse().unwrap()).collect();
        all.sort();
        all
    };
    let names: BTreeMap<_, _> = names.iter().map(|(n, a)| ((*n).to_owned(), addrs(a))).collect();
    Arc::new(NetZone { network: network.into(), names, ..NetZone::default() })
}

fn zone(networks: Vec<Arc<NetZone>>) -> Zone {
    let upstreams = vec![Upstream { addr: "127.0.0.1:1".parse().unwrap(), from_node: true }];
    Zone { networks, upstreams, forward: true, ndots_set: false }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut name = Name::from_str(name).unwrap();
    name.set_fqdn(true);
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    message
}

fn ask_over(zone: &Zone, query: &Message, transport: Transport, seed: u64) -> Option<Message> {
    let mut out = Vec::new();
    match answer(zone, &query.to_vec().unwrap(), transport, seed, &mut out) {
        Answer::Reply => {
            let reply = Message::from_vec(&out).expect("a reply that others can read");
            assert_eq!(reply.metadata.id, query.metadata.id);
            assert_eq!(reply.metadata.message_type, MessageType::Response);
            assert!(reply.metadata.recursion_available && !reply.metadata.authoritative);
            assert_eq!(reply.queries, query.queries);
            Some(reply)
        }
        Answer::Forward => None,
        Answer::Drop => panic!("dropped"),
    }
}

/// The data of all answers; `None` where the query is to be forwarded.
fn ask(zone: &Zone, name: &str, kind: RecordType) -> Option<Vec<String>> {
    let reply = ask_over(zone, &query(name, kind), Transport::Udp, 7)?;
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    let mut all: Vec<String> = reply
        .answers
        .iter()
        .map(|r| {
            assert_eq!((r.ttl, r.name.to_ascii()), (600, reply.queries[0].name().to_ascii()));
            r.data.to_string()
        })
        .collect();
    all.sort();
    Some(all)
}

fn some(list: &[&str]) -> Option<Vec<String>> {
    Some(list.iter().map(|s| (*s).to_owned()).collect())
}

#[test]
fn known_names_have_their_addresses() {
    let zone = zone(vec![net("mynet", &[("web", &["10.0.1.2"]), ("tasks.web", &["10.0.1.3", "10.0.1.4", "fd00::4"])])]);
    assert_eq!(ask(&zone, "web", RecordType::A), some(&["10.0.1.2"]));
    assert_eq!(ask(&zone, "WeB", RecordType::A), some(&["10.0.1.2"]), "case does not matter");
    assert_eq!(ask(&zone, "tasks.web", RecordType::A), some(&["10.0.1.3", "10.0.1.4"]));
    assert_eq!(ask(&zone, "tasks.web", RecordType::AAAA), some(&["fd00::4"]));
    assert_eq!(ask(&zone, "web", RecordType::AAAA), some(&[]), "no such family: empty, not forwarded");
    assert_eq!(ask(&zone, "web", RecordType::MX), some(&[]));
    assert_eq!(ask(&zone, "web", RecordType::TXT), None, "other types are forwarded");
    assert_eq!(ask(&zone, "other", RecordType::A), None, "unknown single labels are forwarded");
    assert_eq!(ask(&zone, "other", RecordType::MX), None);
    assert_eq!(ask(&zone, "example.com", RecordType::AAAA), None);
    assert_eq!(ask(&zone, ".", RecordType::A), None);
}

#[test]
fn unknown_single_labels_stay_here_where_ndots_is_set() {
    let zone = Zone { ndots_set: true, ..zone(vec![net("n", &[])]) };
    assert_eq!(ask(&zone, "other", RecordType::A), some(&[]));
    assert_eq!(ask(&zone, "other", RecordType::AAAA), some(&[]));
    assert_eq!(ask(&zone, "other.example", RecordType::A), None);
    assert_eq!(ask(&zone, "other", RecordType::TXT), None);
}

#[test]
fn a_name_may_end_in_its_network() {
    let one = net("one", &[("web", &["10.1.0.1"]), ("web.two", &["10.1.0.9"]), ("a.b", &["10.1.0.2"])]);
    let two = net("Two", &[("web", &["10.2.0.1"]), ("only", &["10.2.0.2"])]);
    let dotted = net("x.y", &[("web", &["10.3.0.1"])]);
    let zone = zone(vec![one, two, dotted]);
    let a = |name| ask(&zone, name, RecordType::A);
    assert_eq!(a("web"), some(&["10.1.0.1"]), "the first network wins, nothing is merged");
    assert_eq!(a("only"), some(&["10.2.0.2"]));
    assert_eq!(a("web.one"), some(&["10.1.0.1"]));
    assert_eq!(a("web.two"), some(&["10.1.0.9"]), "the whole name comes first");
    assert_eq!(a("only.TWO"), some(&["10.2.0.2"]));
    assert_eq!(a("a.b"), some(&["10.1.0.2"]));
    assert_eq!(a("a.b.one"), some(&["10.1.0.2"]));
    assert_eq!(a("web.x.y"), some(&["10.3.0.1"]));
    assert_eq!(a("only.one"), None);
    assert_eq!(a("web.three"), None);
    assert_eq!(a("one"), None);
}

#[test]
fn addresses_have_names_and_ports_have_targets() {
    let mut one = NetZone { network: "mynet".into(), ..NetZone::default() };
    one.reverse.insert("10.0.1.2".parse().unwrap(), "web.mynet".into());
    one.reverse.insert("fd00::12".parse().unwrap(), "web.1.abc.mynet".into());
    one.services.insert("_http._tcp.web".into(), vec![SrvTarget { port: 8080, target: "web.mynet".into() }]);
    let zone = zone(vec![Arc::new(one)]);
    assert_eq!(ask(&zone, "2.1.0.10.in-addr.arpa", RecordType::PTR), some(&["web.mynet."]));
    let v6 = "2.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    assert_eq!(ask(&zone, v6, RecordType::PTR), some(&["web.1.abc.mynet."]));
    assert_eq!(ask(&zone, "3.1.0.10.in-addr.arpa", RecordType::PTR), None);
    assert_eq!(ask(&zone, "1.0.10.in-addr.arpa", RecordType::PTR), None);
    assert_eq!(ask(&zone, "999.1.0.10.in-addr.arpa", RecordType::PTR), None);
    assert_eq!(ask(&zone, "_http._tcp.web", RecordType::SRV), some(&["0 0 8080 web.mynet."]));
    assert_eq!(ask(&zone, "_http._tcp.web.mynet", RecordType::SRV), some(&["0 0 8080 web.mynet."]));
    assert_eq!(ask(&zone, "_ftp._tcp.web", RecordType::SRV), None);
}

#[test]
fn what_may_not_be_forwarded_fails_at_once() {
    for zone in [
        Zone { forward: false, ..zone(vec![net("n", &[("web", &["10.0.0.1"])])]) },
        Zone { upstreams: vec![], ..zone(vec![net("n", &[("web", &["10.0.0.1"])])]) },
    ] {
        let reply = ask_over(&zone, &query("example.com", RecordType::A), Transport::Udp, 1).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(ask(&zone, "web", RecordType::A), some(&["10.0.0.1"]));
    }
}

#[test]
fn long_answers_are_cut_to_what_the_asker_can_take() {
    let many: Vec<String> = (0..300).map(|n| format!("10.0.{}.{}", n / 250, n % 250 + 1)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let zone = zone(vec![net("n", &[("tasks.web", &many)])]);
    let plain = query("tasks.web", RecordType::A);
    let with_edns = |size, dnssec| {
        let mut q = plain.clone();
        let mut edns = Edns::new();
        edns.set_max_payload(size).set_version(0);
        edns.set_dnssec_ok(dnssec);
        q.edns = Some(edns);
        q
    };
    for (query, transport, limit, complete) in [
        (plain.clone(), Transport::Udp, 512, false),
        (with_edns(100, false), Transport::Udp, 512, false),
        (with_edns(1232, true), Transport::Udp, 1232, false),
        (with_edns(4096, false), Transport::Udp, 4096, false),
        (with_edns(8192, false), Transport::Udp, 8192, true),
        (plain.clone(), Transport::Tcp, 65535, true),
    ] {
        let mut out = Vec::new();
        answer(&zone, &query.to_vec().unwrap(), transport, 3, &mut out);
        assert!(out.len() <= limit);
        let reply = Message::from_vec(&out).unwrap();
        assert_eq!(reply.metadata.truncation, !complete);
        assert_eq!(reply.edns.is_some(), query.edns.is_some(), "EDNS is answered with EDNS");
        if let (Some(asked), Some(told)) = (&query.edns, &reply.edns) {
            assert_eq!((told.version(), told.flags().dnssec_ok), (0, asked.flags().dnssec_ok));
        }
        if complete {
            assert_eq!(reply.answers.len(), 300);
        } else {
            assert!(out.len() + 16 > limit, "as many as fit");
        }
    }
}

#[test]
fn every_address_comes_first_now_and_then() {
    for count in 1..=12 {
        let all: Vec<String> = (1..=count).map(|n| format!("10.0.0.{n}")).collect();
        let list: Vec<&str> = all.iter().map(String::as_str).collect();
        let zone = zone(vec![net("n", &[("web", &list)])]);
        let mut firsts: BTreeMap<String, usize> = BTreeMap::new();
        let mut rng = proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
        for _ in 0..count * 200 {
            let reply = ask_over(&zone, &query("web", RecordType::A), Transport::Udp, rng.next_u64()).unwrap();
            let order: Vec<String> = reply.answers.iter().map(|r| r.data.to_string()).collect();
            assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), count, "each once");
            *firsts.entry(order[0].clone()).or_default() += 1;
        }
        assert!(firsts.len() == count && firsts.values().all(|n| (120..=280).contains(n)), "{firsts:?}");
    }
}

#[test]
fn what_is_not_a_plain_query_is_refused_by_its_kind() {
    let zone = zone(vec![net("n", &[("web", &["10.0.0.1"])])]);
    let good = query("web", RecordType::A).to_vec().unwrap();
    let ask = |bytes: &[u8]| {
        let mut out = Vec::new();
        let what = answer(&zone, bytes, Transport::Udp, 0, &mut out);
        (what, out.get(3).map_or(99, |b| b & 15))
    };
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        bytes
    };
    assert_eq!(ask(&good).0, Answer::Reply);
    assert_eq!(ask(&[]).0, Answer::Drop);
    assert_eq!(ask(&good[..11]).0, Answer::Drop);
    assert_eq!(ask(&changed(2, 0x81)).0, Answer::Drop, "an answer is not answered");
    assert_eq!(ask(&good[..12]), (Answer::Reply, 1));
    assert_eq!(ask(&good[..good.len() - 1]), (Answer::Reply, 1));
    assert_eq!(ask(&changed(5, 0)), (Answer::Reply, 1), "no question");
    assert_eq!(ask(&changed(5, 2)), (Answer::Reply, 1), "two questions");
    assert_eq!(ask(&changed(12, 0xc0)), (Answer::Reply, 1), "a pointer where the name is to be");
    assert_eq!(ask(&changed(2, 0x29)), (Answer::Reply, 4), "update");
    assert_eq!(ask(&changed(11, 1)), (Answer::Reply, 1), "a record that is not there");
    assert_eq!(ask(&changed(good.len() - 1, 3)).0, Answer::Forward, "another class");
    assert_eq!(ask(&changed(14, b'.')).0, Answer::Forward, "a dot inside a label is not a dot");
    assert_eq!(ask(&changed(14, 0xff)).0, Answer::Forward, "not text");

    let mut newer = query("web", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.edns = Some(edns);
    let mut out = Vec::new();
    answer(&zone, &newer.to_vec().unwrap(), Transport::Udp, 0, &mut out);
    let reply = Message::from_vec(&out).unwrap();
    assert_eq!(u16::from(reply.metadata.response_code), 16, "BADVERS");
    assert!(reply.answers.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_it_fall_over(bytes in prop::collection::vec(any::<u8>(), 0..600), tcp: bool, seed: u64) {
        let zone = zone(vec![net("n", &[("web", &["10.0.0.1"])])]);
        let mut out = Vec::new();
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        if answer(&zone, &bytes, transport, seed, &mut out) == Answer::Reply {
            prop_assert!(out.len() >= 12 && out[..2] == bytes[..2] && out[2] & 0x80 != 0);
        }
    }

    #[test]
    fn damaged_queries_do_no_harm(at in 0usize..60, to: u8, cut in 0usize..60, edns: bool) {
        let zone = zone(vec![net("n", &[("web", &["10.0.0.1"])])]);
        let mut message = query("a.long.er.name.web", RecordType::A);
        message.edns = edns.then(Edns::new);
        let mut bytes = message.to_vec().unwrap();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = to;
        }
        bytes.truncate(bytes.len().saturating_sub(cut));
        let mut out = Vec::new();
        if answer(&zone, &bytes, Transport::Udp, 0, &mut out) == Answer::Reply {
            prop_assert!(Message::from_vec(&out).is_ok());
        }
    }

    /// Whatever names a zone holds, a query written by another codec finds exactly them, in an answer that it can read.
    #[test]
    fn agrees_with_another_codec(
        names in prop::collection::btree_map("[a-z0-9_][a-z0-9_]{0,20}(\\.[a-z0-9]{1,20}){0,3}", prop::collection::btree_set(any::<IpAddr>(), 1..20), 1..8),
        pick: prop::sample::Index, v4: bool, upper: bool, seed: u64,
    ) {
        let names: BTreeMap<String, Vec<IpAddr>> =
            names.into_iter().map(|(n, a)| (n, a.into_iter().collect())).collect();
        let (name, addrs) = names.iter().nth(pick.index(names.len())).unwrap();
        let zone = zone(vec![Arc::new(NetZone { network: "n".into(), names: names.clone(), ..NetZone::default() })]);
        let name = if upper { name.to_uppercase() } else { name.clone() };
        let kind = if v4 { RecordType::A } else { RecordType::AAAA };
        let reply = ask_over(&zone, &query(&name, kind), Transport::Tcp, seed).unwrap();
        let got: BTreeSet<IpAddr> = reply.answers.iter().filter_map(|r| match r.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(a) => Some(IpAddr::V6(a.0)),
            _ => None,
        }).collect();
        let expected: BTreeSet<IpAddr> = addrs.iter().copied().filter(|a| a.is_ipv4() == v4).collect();
        prop_assert_eq!(got, expected);
    }
}
