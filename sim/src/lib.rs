//! Whole clusters under faults: one seed is one story, told the same way each time.
//!
//! Three managers and five workers of the product's own code run in one process under virtual time
//! ([`malha_simcluster`]). A seed decides what users ask for and what breaks; then everything is mended. Throughout,
//! every state that any manager applies is held to [`invariants`], and after the mending every node's containers, names
//! and maps too. `docs/simulation.md` tells how to read and replay a story.

mod faults;
pub mod invariants;
mod ledger;
mod plant;
mod requests;
mod run;
mod seeds;
mod story;
mod users;
mod watch;

pub use self::{
    plant::Plant,
    run::{Outcome, RunConfig, play},
    seeds::{Summary, run_seeds},
    story::Story,
};
