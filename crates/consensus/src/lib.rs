//! One Raft group of managers, on openraft: every member holds the same [`State`](malha_store::State).
//!
//! - **Acknowledged means durable.** [`Consensus::update`] returns once a majority has the change on disk and it is
//!   applied here. What a member acknowledged it still has after a crash.
//! - **A plan applies only to what it was planned on.** Each entry names the term and the state that its changes were
//!   computed from; applying it to any other is refused. A deposed leader's plan changes nothing.
//! - **A leader knows everything.** [`Leadership::Leader`] is shown only once all of former terms is applied. While a
//!   majority has been silent for an election timeout, updates and [`Consensus::confirm`] wait; soon after, it leads no more.
//! - **Repeatable.** Waiting is tokio's, randomness is [`malha_kit::Rng`]'s, disk and network are behind [`Storage`] and
//!   [`RaftTransport`]. No `select!` here or in openraft draws from tokio's own generator; parts that use unbiased ones
//!   need tokio's `rng_seed` (`--cfg tokio_unstable`) to repeat.

mod config;
mod consensus;
mod error;
mod leadership;
mod machine;
mod members;
mod message;
mod network;
mod peers;
mod receiver;
mod runtime;
mod storage;
mod transport;
mod types;
mod update;

pub use self::{
    config::{Config, Observer, Timings},
    consensus::{Consensus, Status},
    error::{MemberError, StartError, UpdateError},
    leadership::{LeaderAddr, Leadership},
    members::{Member, Reachability},
    storage::{RedbStorage, SimDisk, SimStorage, Storage, StorageError, Stored, Write},
    transport::{RaftTransport, TransportError},
    update::Measured,
};
