//! One side of a comparison: where it goes, from which network namespace, and how a given amount of work is timed there.

use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};

use crate::serve::{BLOCK, ECHO, PORTIONS};

/// Connections that are made at once: enough that the processor is the limit, not the wait for the other side.
const CONNECTORS: u64 = 4;

pub(crate) struct Side {
    netns: Option<File>,
    addr: SocketAddr,
}

/// Work that can be cut into portions. A portion has ended at the other side too when its time has.
pub(crate) trait Work {
    fn spend(&mut self, units: u64) -> Duration;

    /// What one unit counts in the figure that is printed.
    fn unit(&self) -> f64 {
        1.0
    }
}

/// Blocks one way.
struct Stream {
    connection: TcpStream,
    block: Vec<u8>,
}

/// One byte to and fro.
struct Exchanges(TcpStream);

/// The same with a connection for each.
struct Connections<'a>(&'a Side);

impl Side {
    /// `ADDR:PORT`, or `NETNS@ADDR:PORT` with the path of a network namespace to enter.
    pub(crate) fn new(text: &str) -> Self {
        let (netns, addr) = text.rsplit_once('@').map_or((None, text), |(netns, addr)| (Some(netns), addr));
        Self { netns: netns.map(|path| File::open(path).unwrap()), addr: addr.parse().unwrap() }
    }

    pub(crate) fn open<'a>(&'a self, kind: &str) -> Box<dyn Work + 'a> {
        self.enter();
        match kind {
            "stream" => Box::new(Stream { connection: self.greet(PORTIONS), block: vec![0; BLOCK] }),
            "rr" => {
                let mut connection = self.greet(ECHO);
                connection.read_exact(&mut [0]).unwrap();
                Box::new(Exchanges(connection))
            }
            "crr" => Box::new(Connections(self)),
            _ => panic!("no such load: {kind}"),
        }
    }

    /// A thread's sockets belong to the namespace in which it stood; what it starts stands there too.
    fn enter(&self) {
        if let Some(netns) = &self.netns {
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        }
    }

    fn greet(&self, mode: u8) -> TcpStream {
        let mut connection = TcpStream::connect(self.addr).unwrap();
        connection.set_nodelay(true).unwrap();
        connection.write_all(&[mode]).unwrap();
        connection
    }

    /// Ends by reset, so that no port stays occupied and the rate can be held.
    fn connect_once(&self) {
        let mut connection = TcpStream::connect(self.addr).unwrap();
        let mut byte = [ECHO];
        connection.write_all(&byte).unwrap();
        connection.read_exact(&mut byte).unwrap();
        socket2::SockRef::from(&connection).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

impl Work for Stream {
    fn spend(&mut self, units: u64) -> Duration {
        let start = Instant::now();
        self.connection.write_all(&(units * BLOCK as u64).to_be_bytes()).unwrap();
        for _ in 0..units {
            self.connection.write_all(&self.block).unwrap();
        }
        self.connection.read_exact(&mut [0]).unwrap();
        start.elapsed()
    }

    fn unit(&self) -> f64 {
        BLOCK as f64 * 8.0
    }
}

impl Work for Exchanges {
    fn spend(&mut self, units: u64) -> Duration {
        let mut byte = [ECHO];
        let start = Instant::now();
        for _ in 0..units {
            self.0.write_all(&byte).unwrap();
            self.0.read_exact(&mut byte).unwrap();
        }
        start.elapsed()
    }
}

impl Work for Connections<'_> {
    /// The threads are new each time, and made before the clock starts.
    fn spend(&mut self, units: u64) -> Duration {
        self.0.enter();
        let ready = Barrier::new(CONNECTORS as usize);
        let connect = |units: u64| {
            ready.wait();
            let start = Instant::now();
            for _ in 0..units {
                self.0.connect_once();
            }
            (start, Instant::now())
        };
        thread::scope(|scope| {
            let share = |i: u64| units / CONNECTORS + u64::from(i < units % CONNECTORS);
            let threads: Vec<_> = (0..CONNECTORS).map(|i| scope.spawn(move || connect(share(i)))).collect();
            let times: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
            let start = times.iter().map(|t| t.0).min().unwrap();
            times.iter().map(|t| t.1).max().unwrap() - start
        })
    }
}
