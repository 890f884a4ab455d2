//! The TCP server of all loads. Blocking calls and a few threads: nothing of its own between the measurement and the
//! kernel.

use std::{
    io::{ErrorKind, Read, Result, Write},
    net::{TcpListener, TcpStream},
    thread,
};

/// What a connection's first byte says: each portion that comes, its length before it, is answered with one byte.
pub(crate) const PORTIONS: u8 = b'p';
/// Every byte is sent back, that one too.
pub(crate) const ECHO: u8 = b'e';
pub(crate) const BLOCK: usize = 128 << 10;
/// Connections served at once.
const SERVERS: usize = 16;

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

fn answer(mut stream: TcpStream, buffer: &mut [u8]) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.read_exact(&mut buffer[..1])?;
    if buffer[0] == PORTIONS {
        return portions(&mut stream, buffer);
    }
    let mut n = 1;
    while n > 0 {
        stream.write_all(&buffer[..n])?;
        n = some(&mut stream, buffer)?;
    }
    Ok(())
}

/// A portion is answered when it was read to its end: what the other side measures leaves nothing under way.
fn portions(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<()> {
    loop {
        let mut length = [0; 8];
        stream.read_exact(&mut length)?;
        let mut left = u64::from_be_bytes(length);
        while left > 0 {
            match some(stream, buffer)? {
                0 => return Ok(()),
                n => left = left.saturating_sub(n as u64),
            }
        }
        stream.write_all(&[PORTIONS])?;
    }
}

fn some(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
