//! Unused datagram sockets in a sandbox's namespace.
//!
//! Entering a namespace costs a thread, many times the price of a socket. A sandbox that forwards much therefore opens a
//! few at a time. Each still serves one attempt only, and gets its port then, so that nobody can foresee it.

use std::{io, sync::Mutex, sync::PoisonError};

use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;

/// Sockets that may lie unused, for each family.
const MOST: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Stock {
    v4: Mutex<Shelf>,
    v6: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    unused: Vec<Socket>,
    /// How many are opened at once: one that forwards once a day keeps none.
    batch: usize,
}

impl Stock {
    /// A non-blocking socket without an address.
    pub(crate) async fn take(&self, netns: &Netns, domain: Domain) -> io::Result<Socket> {
        let shelf = if domain == Domain::IPV6 { &self.v6 } else { &self.v4 };
        let batch = {
            let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(socket) = shelf.unused.pop() {
                return Ok(socket);
            }
            let batch = shelf.batch.max(1);
            shelf.batch = (batch * 2).min(MOST);
            batch
        };
        let make = move || {
            let one = || Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP));
            (0..batch).map(|_| one()).collect::<io::Result<Vec<_>>>()
        };
        let mut made = netns.inside(make).await?;
        let own = made.pop().ok_or_else(|| io::Error::other("no socket was made"))?;
        let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
        made.truncate(MOST.saturating_sub(shelf.unused.len()));
        shelf.unused.extend(made);
        Ok(own)
    }
}
