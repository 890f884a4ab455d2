//! The thread that answers datagrams.
//!
//! It waits on the sockets of all sandboxes, answers what the zone knows at once and hands the rest over. It takes no
//! lock, waits for nothing but datagrams, and allocates only to forward.

use std::{
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use arc_swap::ArcSwap;
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    eventfd::EventFd,
};
use rand::{RngCore as _, SeedableRng as _, rngs::SmallRng};
use tracing::{debug, error};

use crate::{
    answer::{Answer, Transport, answer},
    forward::Forwarder,
    message::OUR_UDP_SIZE,
    sandbox::Sandbox,
    stats::count,
};

/// Datagrams answered for one sandbox, at most, before the others get their turn.
const TURN: usize = 32;
/// After so many turns that left nothing unasked for, the next are longer.
const FULL_TURNS: u32 = 8;
const EVENTS: usize = 64;
const STOP: u64 = u64::MAX;

/// Sandboxes by the key of their events. A snapshot: the thread never waits for a change.
pub(crate) type Table = ArcSwap<std::collections::BTreeMap<u64, Arc<Sandbox>>>;

#[derive(Debug)]
pub(crate) struct Poller {
    epoll: Epoll,
    stop: EventFd,
    table: Table,
}

impl Poller {
    pub(crate) fn start(forwarder: Forwarder) -> io::Result<Arc<Self>> {
        let (epoll, stop) = (Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, EventFd::new()?);
        epoll.add(&stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        let poller = Arc::new(Self { epoll, stop, table: Table::default() });
        let thread = poller.clone();
        thread::Builder::new().name("dns".into()).spawn(move || thread.run(&forwarder))?;
        Ok(poller)
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        if let Err(error) = self.stop.write(1) {
            error!(%error, "cannot stop the DNS thread");
        }
    }

    /// The caller sees to it that `add` and `remove` do not overlap.
    pub(crate) fn add(&self, key: u64, sandbox: Arc<Sandbox>) -> io::Result<()> {
        let mut table = (**self.table.load()).clone();
        table.insert(key, sandbox.clone());
        self.table.store(Arc::new(table));
        let waited_on = self.epoll.add(&sandbox.udp, EpollEvent::new(EpollFlags::EPOLLIN, key));
        if waited_on.is_err() {
            self.remove(key); // nobody else knows of it, and it holds its namespace
        }
        Ok(waited_on?)
    }

    pub(crate) fn remove(&self, key: u64) {
        let mut table = (**self.table.load()).clone();
        if let Some(sandbox) = table.remove(&key) {
            if let Err(error) = self.epoll.delete(&sandbox.udp) {
                debug!(sandbox = sandbox.id, %error, "socket was not waited on");
            }
            self.table.store(Arc::new(table));
        }
    }

    /// Until it is stopped. A query on which it panics is one that gets no answer.
    fn run(&self, forwarder: &Forwarder) {
        while catch_unwind(AssertUnwindSafe(|| self.serve(forwarder))).is_err() {
            error!("the DNS thread panicked; it goes on");
        }
    }

    fn serve(&self, forwarder: &Forwarder) {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut buffers = Buffers {
            query: vec![0; usize::from(OUR_UDP_SIZE)],
            reply: Vec::with_capacity(usize::from(u16::MAX)),
            rng: SmallRng::from_os_rng(),
            turn: 1,
            full_turns: 0,
        };
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(ready) => ready,
                Err(nix::Error::EINTR) => continue,
                Err(error) => return error!(%error, "DNS thread cannot wait for queries"),
            };
            let table = self.table.load();
            for event in &events[..ready] {
                match table.get(&event.data()) {
                    Some(sandbox) => buffers.serve(sandbox, forwarder),
                    None if event.data() == STOP => return,
                    None => {} // removed meanwhile
                }
            }
        }
    }
}

struct Buffers {
    query: Vec<u8>,
    reply: Vec<u8>,
    rng: SmallRng,
    /// How many datagrams to expect of a ready socket. Follows the load: asking once more than there is costs a system
    /// call, as much as going back to wait does.
    turn: usize,
    full_turns: u32,
}

impl Buffers {
    fn serve(&mut self, sandbox: &Arc<Sandbox>, forwarder: &Forwarder) {
        for served in 0..self.turn {
            let (len, from) = match sandbox.udp.recv_from(&mut self.query) {
                Ok(received) => received,
                // Nothing more, or an error that an earlier reply met: either way the next query wakes us.
                Err(_) => {
                    (self.turn, self.full_turns) = (served.max(1), 0);
                    return;
                }
            };
            self.one(sandbox, len, from, forwarder);
        }
        self.full_turns += 1;
        if self.full_turns >= FULL_TURNS {
            (self.turn, self.full_turns) = ((self.turn * 2).min(TURN), 0);
        }
    }

    fn one(&mut self, sandbox: &Arc<Sandbox>, len: usize, from: SocketAddr, forwarder: &Forwarder) {
        let query = &self.query[..len];
        #[cfg(test)]
        assert_ne!(query, tests::PLANTED);
        let zone = sandbox.zone.load();
        match answer(&zone, query, Transport::Udp, self.rng.next_u64(), &mut self.reply) {
            Answer::Reply => {
                count(&sandbox.counters.local);
                sandbox.send(&self.reply, from);
            }
            Answer::Forward => forwarder.udp(sandbox, query, from),
            Answer::Drop => count(&sandbox.counters.dropped),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, path::Path, time::Duration};

    use malha_kit::Tasks;
    use malha_netplan::Zone;

    use super::*;
    use crate::{netns::Netns, sandbox::Ports};

    pub(super) const PLANTED: &[u8] = b"planted panic";

    #[tokio::test]
    async fn a_query_on_which_the_thread_panics_is_the_only_one_without_an_answer() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.set_nonblocking(true).unwrap();
        let (at, netns) = (udp.local_addr().unwrap(), Netns::open(Path::new("/proc/self/ns/net")).unwrap());
        let ports = Ports { udp: at.port(), tcp: 0 };
        let sandbox = Arc::new(Sandbox::new("s", netns, (udp, ports), Arc::new(Zone::default()), Tasks::new()));
        let poller = Poller::start(Forwarder::new()).unwrap();
        poller.add(0, sandbox.clone()).unwrap();
        let asker = UdpSocket::bind("127.0.0.1:0").unwrap();
        for query in [PLANTED, b"not DNS", PLANTED, b"nor this"] {
            asker.send_to(query, at).unwrap();
        }
        let served = async {
            while sandbox.counters.snapshot().dropped < 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), served).await.unwrap();
        poller.stop();
    }
}
