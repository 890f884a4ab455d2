//! DNS messages of the one shape that is answered here: one question, perhaps EDNS.
//!
//! Reading borrows from the query, writing appends to a buffer that the caller reuses: no allocation on the way. Anything
//! that a resolver may ask but that is not answered here is passed on as raw bytes, so this codec needs to know little.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const HEADER: usize = 12;
const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;
/// What we say we can receive over UDP.
pub(crate) const OUR_UDP_SIZE: u16 = 4096;
/// What everybody can receive over UDP.
const PLAIN_UDP_SIZE: usize = 512;
/// Lifetime of every answer, as Docker has it.
const TTL: u32 = 600;
/// A pointer to the question's name, which always follows the header.
const QUESTION_NAME: [u8; 2] = [0xc0, HEADER as u8];

pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const MX: u16 = 15;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
}

const IN: u16 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NotImp = 4,
    Refused = 5,
    BadVers = 16,
}

/// A query that can be answered.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    message: &'a [u8],
    /// End of the question section.
    end: usize,
    name: Name,
    pub(crate) kind: u16,
    edns: Option<Edns>,
}

#[derive(Clone, Copy, Debug)]
struct Edns {
    udp_size: u16,
    dnssec_ok: bool,
}

/// Why a message is not such a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// Too short for a header, or itself an answer: replying could start a ping-pong.
    NotAQuery,
    /// To be refused with this code.
    Refuse(Rcode),
    /// Well formed, but nothing that the zone could know: another class, or bytes that no name of ours has.
    Foreign,
}

/// A name in lower case without the final dot.
#[derive(Debug)]
struct Name {
    text: [u8; MAX_NAME],
    len: usize,
    /// Also usable as text: no dot inside a label, all UTF-8.
    plain: bool,
}

impl<'a> Query<'a> {
    pub(crate) fn parse(message: &'a [u8]) -> Result<Self, Unusable> {
        if message.len() < HEADER || message[2] & 0x80 != 0 {
            return Err(Unusable::NotAQuery);
        }
        let form_err = Unusable::Refuse(Rcode::FormErr);
        if message[2] & 0x78 != 0 {
            return Err(Unusable::Refuse(Rcode::NotImp));
        }
        if u16_at(message, 4) != Some(1) {
            return Err(form_err);
        }
        let (name, at) = read_name(message).ok_or(form_err)?;
        let (kind, class) = (u16_at(message, at).ok_or(form_err)?, u16_at(message, at + 2).ok_or(form_err)?);
        let end = at + 4;
        let edns = if message.len() == end && message[6..HEADER] == [0; 6] { None } else { find_edns(message, end)? };
        if class != IN || !name.plain {
            return Err(Unusable::Foreign);
        }
        Ok(Self { message, end, name, kind, edns })
    }

    /// Lower case, without the final dot; empty for the root.
    pub(crate) fn name(&self) -> &str {
        std::str::from_utf8(&self.name.text[..self.name.len]).unwrap_or_default()
    }

    /// Largest reply over UDP.
    pub(crate) fn udp_limit(&self) -> usize {
        self.edns.map_or(PLAIN_UDP_SIZE, |e| usize::from(e.udp_size).max(PLAIN_UDP_SIZE))
    }
}

/// Largest reply over UDP to any query, usable or not.
pub(crate) fn udp_limit(message: &[u8]) -> usize {
    Query::parse(message).map_or(PLAIN_UDP_SIZE, |q| q.udp_limit())
}

/// Bytes of header and question, where there is a readable one; compared and copied when relaying.
pub(crate) fn question(message: &[u8]) -> Option<&[u8]> {
    let (_, at) = read_name(message)?;
    message.get(HEADER..at + 4)
}

fn read_name(message: &[u8]) -> Option<(Name, usize)> {
    let mut name = Name { text: [0; MAX_NAME], len: 0, plain: true };
    let mut at = HEADER;
    loop {
        let len = usize::from(*message.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        let label = message.get(at..at + len).filter(|_| len <= MAX_LABEL)?;
        at += len;
        // With the length bytes and the root, 255 bytes on the wire are 253 here.
        let start = if name.len == 0 { 0 } else { name.len + 1 };
        if start + len > MAX_NAME - 2 {
            return None;
        }
        if start > 0 {
            name.text[name.len] = b'.';
        }
        for (to, from) in name.text[start..start + len].iter_mut().zip(label) {
            *to = from.to_ascii_lowercase();
        }
        name.plain &= !label.contains(&b'.');
        name.len = start + len;
    }
    name.plain &= std::str::from_utf8(&name.text[..name.len]).is_ok();
    Some((name, at))
}

/// Walks what follows the question in search of the OPT record.
fn find_edns(message: &[u8], end: usize) -> Result<Option<Edns>, Unusable> {
    let form_err = Unusable::Refuse(Rcode::FormErr);
    let counts = [6, 8, 10].map(|at| u16_at(message, at).unwrap_or_default());
    let (mut at, mut found) = (end, None);
    for (section, count) in counts.into_iter().enumerate() {
        for _ in 0..count {
            let root = message.get(at) == Some(&0);
            at = skip_name(message, at).ok_or(form_err)?;
            let record = message.get(at..at + 10).ok_or(form_err)?;
            let length = usize::from(u16::from_be_bytes([record[8], record[9]]));
            if u16::from_be_bytes([record[0], record[1]]) == kind::OPT {
                if section != 2 || !root || found.is_some() {
                    return Err(form_err);
                }
                if record[5] != 0 {
                    return Err(Unusable::Refuse(Rcode::BadVers));
                }
                let udp_size = u16::from_be_bytes([record[2], record[3]]);
                found = Some(Edns { udp_size, dnssec_ok: record[6] & 0x80 != 0 });
            }
            at += 10 + length;
            if at > message.len() {
                return Err(form_err);
            }
        }
    }
    Ok(found)
}

fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let len = *message.get(at)?;
        match len {
            0 => return Some(at + 1),
            1..=0x3f => at += 1 + usize::from(len),
            0xc0..=0xff => return Some(at + 2),
            _ => return None,
        }
    }
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

// === replies ===

/// A reply being written. Records that do not fit any more set the TC bit instead.
pub(crate) struct Writer<'b> {
    out: &'b mut Vec<u8>,
    /// What records may fill, room for EDNS kept aside.
    room: usize,
    edns: Option<Edns>,
    answers: u16,
    truncated: bool,
}

const EDNS_LEN: usize = 11;

impl<'b> Writer<'b> {
    /// Starts a reply to `query` of at most `limit` bytes in `out`, which is emptied.
    pub(crate) fn new(query: &Query<'_>, limit: usize, out: &'b mut Vec<u8>) -> Self {
        out.clear();
        out.extend_from_slice(&query.message[..query.end]);
        let edns_len = if query.edns.is_some() { EDNS_LEN } else { 0 };
        header(out, Rcode::NoError, 1);
        Self { out, room: limit - edns_len, edns: query.edns, answers: 0, truncated: false }
    }

    pub(crate) fn address(&mut self, addr: IpAddr) {
        match addr {
            IpAddr::V4(a) => self.record(kind::A, &a.octets()),
            IpAddr::V6(a) => self.record(kind::AAAA, &a.octets()),
        }
    }

    pub(crate) fn pointer(&mut self, target: &str) {
        if let Some((buffer, len)) = wire_name(target) {
            self.record(kind::PTR, &buffer[..len]);
        }
    }

    /// Same priority and weight for all.
    pub(crate) fn service(&mut self, port: u16, target: &str) {
        if let Some((buffer, len)) = wire_name(target) {
            let mut data = [0; MAX_NAME + 6];
            data[4..6].copy_from_slice(&port.to_be_bytes());
            data[6..6 + len].copy_from_slice(&buffer[..len]);
            self.record(kind::SRV, &data[..6 + len]);
        }
    }

    fn record(&mut self, kind: u16, data: &[u8]) {
        if self.truncated || self.out.len() + 12 + data.len() > self.room {
            self.truncated = true;
            return;
        }
        let [[kind0, kind1], [class0, class1], [len0, len1]] = [kind, IN, data.len() as u16].map(u16::to_be_bytes);
        let [ttl0, ttl1, ttl2, ttl3] = TTL.to_be_bytes();
        let [name0, name1] = QUESTION_NAME;
        let head = [name0, name1, kind0, kind1, class0, class1, ttl0, ttl1, ttl2, ttl3, len0, len1];
        self.out.extend_from_slice(&head);
        self.out.extend_from_slice(data);
        self.answers += 1;
    }

    pub(crate) fn finish(self) {
        self.out[6..8].copy_from_slice(&self.answers.to_be_bytes());
        if self.truncated {
            self.out[2] |= 0x02;
        }
        if let Some(edns) = self.edns {
            self.out[11] = 1;
            write_edns(self.out, edns.dnssec_ok, 0);
        }
    }
}

/// Turns a copied query header into a reply header with no records.
fn header(out: &mut [u8], rcode: Rcode, questions: u8) {
    out[2] = 0x80 | (out[2] & 0x79); // answer; opcode and RD as asked
    out[3] = 0x80 | (out[3] & 0x10) | (rcode as u8 & 0x0f); // RA; CD as asked
    out[4..HEADER].copy_from_slice(&[0, questions, 0, 0, 0, 0, 0, 0]);
}

fn write_edns(out: &mut Vec<u8>, dnssec_ok: bool, extended_rcode: u8) {
    let [size_high, size_low] = OUR_UDP_SIZE.to_be_bytes();
    let flags = if dnssec_ok { 0x80 } else { 0 };
    out.extend_from_slice(&[0, 0, kind::OPT as u8, size_high, size_low, extended_rcode, 0, flags, 0, 0, 0]);
}

/// A reply without records: an error, or “no such data”. `message` must have a header.
pub(crate) fn empty_reply(message: &[u8], rcode: Rcode, out: &mut Vec<u8>) {
    out.clear();
    if message.len() < HEADER {
        return;
    }
    let question = question(message).filter(|_| u16_at(message, 4) == Some(1));
    out.extend_from_slice(&message[..HEADER]);
    out.extend_from_slice(question.unwrap_or_default());
    header(out, rcode, u8::from(question.is_some()));
    let edns = match (rcode, question) {
        (Rcode::BadVers, _) => Some(false),
        (_, Some(q)) => find_edns(message, HEADER + q.len()).ok().flatten().map(|e| e.dnssec_ok),
        (_, None) => None,
    };
    if let Some(dnssec_ok) = edns {
        out[11] = 1;
        write_edns(out, dnssec_ok, rcode as u8 >> 4);
    }
}

/// Cuts a reply that is too long for the asker down to its question, with the TC bit.
pub(crate) fn truncate(reply: &mut Vec<u8>) {
    if reply.len() < HEADER {
        return;
    }
    let question = question(reply).map(<[u8]>::len).filter(|_| u16_at(reply, 4) == Some(1));
    reply.truncate(HEADER + question.unwrap_or_default());
    reply[2] |= 0x02;
    reply[4..HEADER].copy_from_slice(&[0, u8::from(question.is_some()), 0, 0, 0, 0, 0, 0]);
}

fn wire_name(name: &str) -> Option<([u8; MAX_NAME], usize)> {
    let (mut out, mut at) = ([0; MAX_NAME], 0);
    for label in name.trim_end_matches('.').split('.') {
        let len = label.len();
        if len == 0 || len > MAX_LABEL || at + len + 2 > MAX_NAME {
            return None;
        }
        out[at] = len as u8;
        out[at + 1..=at + len].copy_from_slice(label.as_bytes());
        at += 1 + len;
    }
    Some((out, at + 1))
}

/// The address that a name under `in-addr.arpa` or `ip6.arpa` stands for.
pub(crate) fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(v4) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut labels = v4.split('.');
        for octet in octets.iter_mut().rev() {
            *octet = labels.next()?.parse().ok()?;
        }
        return labels.next().is_none().then(|| Ipv4Addr::from(octets).into());
    }
    let v6 = name.strip_suffix(".ip6.arpa")?;
    let mut value: u128 = 0;
    let mut labels = v6.split('.');
    for shift in 0..32 {
        let nibble = labels.next().filter(|l| l.len() == 1)?;
        value |= u128::from_str_radix(nibble, 16).ok()? << (4 * shift);
    }
    labels.next().is_none().then(|| Ipv6Addr::from(value).into())
}
