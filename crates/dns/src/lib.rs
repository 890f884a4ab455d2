//! The DNS server that every sandbox finds at `127.0.0.11:53`.
//!
//! [`answer`] is a pure function from a zone snapshot and a query to what is to be done; [`Server`] holds the sockets,
//! opened inside each sandbox's network namespace and served from here. A change of names is a new snapshot that is
//! swapped in; no query ever waits for one. What the zone does not know is passed on as it came.

mod answer;
mod error;
mod forward;
mod message;
mod netns;
mod sandbox;
mod server;
mod stats;
mod stock;
mod tcp;
mod udp;

pub use self::{
    answer::{Answer, Transport, answer},
    error::Error,
    sandbox::{Listen, Ports},
    server::Server,
    stats::Stats,
};
