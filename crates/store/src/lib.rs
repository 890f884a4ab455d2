//! The replicated objects as immutable, indexed snapshots. Pure.
//!
//! [`State`] is one snapshot: cloning it is cheap, and a clone never changes. [`Tx`] is a view over a snapshot that
//! reads its own writes and boils down to [`Change`]s; [`State::apply`] turns changes into the next snapshot. The same
//! changes in the same order make the same state on every manager.

mod change;
mod index;
mod recent;
mod resolve;
mod snapshot;
mod state;
mod tx;

pub use self::{
    change::Change,
    resolve::{Resolvable, ambiguous, not_found},
    snapshot::SnapshotError,
    state::State,
    tx::Tx,
};
