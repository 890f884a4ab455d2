//! What must always hold, one promise per file.
//!
//! Those of states are checked on every state that any manager applies; those of machines all along; those of rest once
//! everything is mended.

pub mod acknowledged;
pub mod addresses;
pub mod agreement;
pub mod containers;
pub mod exclusive;
pub mod maps;
pub mod names;
pub mod ports;
pub mod replicas;
pub mod task_states;
pub mod vnis;

use std::fmt;

use malha_simcluster::SimCluster;
use malha_store::State;

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Name of the file that says what was promised.
    pub invariant: &'static str,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

pub type Verdict = Result<(), Violation>;

pub(crate) fn violated(invariant: &'static str, what: impl fmt::Display) -> Violation {
    Violation { invariant, what: what.to_string() }
}

/// All that `after` breaks, as the successor of `before`.
pub(crate) fn of_states(before: Option<&State>, after: &State) -> Vec<Violation> {
    let step = before.map_or(Ok(()), |before| task_states::check(before, after));
    [step, addresses::check(after), ports::check(after), vnis::check(after)]
        .into_iter()
        .filter_map(Result::err)
        .collect()
}

/// What two machines must not do at any time.
pub(crate) fn of_machines(cluster: &SimCluster) -> Verdict {
    exclusive::check(cluster)
}

/// What holds once the cluster rests.
pub(crate) fn of_rest(cluster: &SimCluster) -> Verdict {
    let state = cluster.state();
    replicas::check(&state)?;
    for node in &cluster.nodes {
        containers::check(node, &state)?;
        names::check(node, &state)?;
        maps::check(node, &state)?;
    }
    agreement::at_rest(cluster)
}
