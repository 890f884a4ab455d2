//! Load over TCP. Blocking calls and a few threads: nothing of its own between the measurement and the kernel.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::Measured;

const SWALLOW: u8 = b's';
const ECHO: u8 = b'e';
const BLOCK: usize = 128 << 10;
/// Connections served at once.
const SERVERS: usize = 16;
/// Connections that `crr` makes at once: enough that the processor is the limit, not the wait for the other side.
const CONNECTORS: usize = 4;

pub(crate) fn serve(port: u16) {
    let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
    thread::scope(|scope| {
        for _ in 0..SERVERS {
            scope.spawn(|| {
                let mut buffer = vec![0; BLOCK];
                loop {
                    // A client that breaks off is its own business.
                    let _ = listener.accept().and_then(|(stream, _)| answer(stream, &mut buffer));
                }
            });
        }
    });
}

fn answer(mut stream: TcpStream, buffer: &mut [u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.read_exact(&mut buffer[..1])?;
    let swallow = buffer[0] == SWALLOW;
    if !swallow {
        stream.write_all(&buffer[..1])?;
    }
    let mut total = 0_u64;
    loop {
        let n = match stream.read(buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        total += n as u64;
        if !swallow {
            stream.write_all(&buffer[..n])?;
        }
    }
    if swallow { stream.write_all(&total.to_be_bytes()) } else { Ok(()) }
}

/// Counted is what the other side has read.
pub(crate) fn stream(addr: &str, time: Duration) -> Measured {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(&[SWALLOW]).unwrap();
    let block = vec![0; BLOCK];
    let start = Instant::now();
    while start.elapsed() < time {
        stream.write_all(&block).unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut total = [0; 8];
    stream.read_exact(&mut total).unwrap();
    Measured { rate: u64::from_be_bytes(total) as f64 * 8.0 / start.elapsed().as_secs_f64(), ..Measured::default() }
}

pub(crate) fn request_response(addr: &str, time: Duration) -> Measured {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut byte, mut times) = ([ECHO], Vec::with_capacity(1 << 18));
    let start = Instant::now();
    while start.elapsed() < time {
        let sent = Instant::now();
        stream.write_all(&byte).unwrap();
        stream.read_exact(&mut byte).unwrap();
        times.push(sent.elapsed());
    }
    Measured::of_times(times, start, 0)
}

/// Each connection ends by reset, so that no port stays occupied and the rate can be held.
pub(crate) fn connections(addr: &str, time: Duration) -> Measured {
    let start = Instant::now();
    let times: Vec<Duration> = thread::scope(|scope| {
        let connect = || {
            let mut times = Vec::with_capacity(1 << 16);
            while start.elapsed() < time {
                let began = Instant::now();
                let mut stream = TcpStream::connect(addr).unwrap();
                let mut byte = [ECHO];
                stream.write_all(&byte).unwrap();
                stream.read_exact(&mut byte).unwrap();
                times.push(began.elapsed());
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            times
        };
        let threads: Vec<_> = (0..CONNECTORS).map(|_| scope.spawn(connect)).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    Measured::of_times(times, start, 0)
}
