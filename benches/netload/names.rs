//! DNS and plain UDP: load, the servers to compare with, and waiting for a name to change.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::Measured;

const LANES: usize = 8;
const ANSWER_LIMIT: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(2);
const HEADER: usize = 12;

pub(crate) fn echo(addr: &str) {
    let socket = UdpSocket::bind(addr).unwrap();
    let mut buffer = [0; 4096];
    loop {
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..len], from);
        }
    }
}

pub(crate) fn missing(addr: &str) {
    let socket = UdpSocket::bind(addr).unwrap();
    let mut buffer = [0; 4096];
    loop {
        let Ok((len @ HEADER.., from)) = socket.recv_from(&mut buffer) else { continue };
        buffer[2] |= 0x80; // an answer
        buffer[3] = 0x83; // recursion available; no such name
        let _ = socket.send_to(&buffer[..len], from);
    }
}

/// One socket and one query under way per lane, all in one thread: what is measured is the server.
pub(crate) fn load(server: &str, name: &str, time: Duration) -> Measured {
    let query = query(name);
    let sockets: Vec<UdpSocket> = (0..LANES).map(|_| socket(server)).collect();
    let (mut times, mut lost, mut buffer) = (Vec::with_capacity(1 << 18), 0, [0; 4096]);
    let start = Instant::now();
    let mut sent: Vec<Instant> = sockets
        .iter()
        .map(|socket| {
            socket.send(&query).unwrap();
            Instant::now()
        })
        .collect();
    while start.elapsed() < time {
        for (socket, sent) in sockets.iter().zip(&mut sent) {
            match socket.recv(&mut buffer) {
                Ok(_) => times.push(sent.elapsed()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => lost += 1,
                Err(e) => panic!("{server} does not answer: {e}"),
            }
            *sent = Instant::now();
            socket.send(&query).unwrap();
        }
    }
    Measured::of_times(times, start, lost)
}

/// Asks until the addresses are as wanted; returns the wall clock then, in nanoseconds.
pub(crate) fn wait(server: &str, name: &str, done: impl Fn(&[Ipv4Addr]) -> bool) -> u128 {
    let (socket, query) = (socket(server), query(name));
    let mut buffer = [0; 4096];
    loop {
        socket.send(&query).unwrap();
        if let Ok(len) = socket.recv(&mut buffer)
            && done(&addresses(&buffer[..len], query.len()))
        {
            return SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        }
        thread::sleep(POLL);
    }
}

fn socket(server: &str) -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(ANSWER_LIMIT)).unwrap();
    socket
}

fn query(name: &str) -> Vec<u8> {
    let mut query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    for label in name.trim_end_matches('.').split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(b"\x00\x00\x01\x00\x01");
    query
}

/// The addresses of an answer whose records name the question by a pointer.
fn addresses(answer: &[u8], question_end: usize) -> Vec<Ipv4Addr> {
    const RECORD: usize = 16; // pointer, type, class, time to live, length, address
    let count = usize::from(u16::from_be_bytes([answer[6], answer[7]]));
    let records = answer.get(question_end..).unwrap_or_default();
    let last = |r: &[u8]| Ipv4Addr::new(r[RECORD - 4], r[RECORD - 3], r[RECORD - 2], r[RECORD - 1]);
    records.chunks_exact(RECORD).take(count).filter(|r| r[0] & 0xc0 == 0xc0 && r[3] == 1).map(last).collect()
}
