//! Managers agree: the state at one index of the log is the same wherever and however often it is applied.

use malha_model::NodeId;
use malha_simcluster::SimCluster;
use malha_store::State;

use super::{Verdict, violated};

pub fn check(node: &NodeId, known: &State, applied: &State) -> Verdict {
    if known == applied {
        return Ok(());
    }
    Err(violated("agreement", format_args!("{node} applied another state at index {} than before", applied.index())))
}

/// After the mending nobody lags behind.
pub fn at_rest(cluster: &SimCluster) -> Verdict {
    let newest = cluster.state();
    for node in cluster.nodes.iter().filter(|n| n.manager().is_some()) {
        let index = node.state().index();
        if index != newest.index() {
            return Err(violated("agreement", format_args!("{} is at index {index} of {}", node.name, newest.index())));
        }
    }
    Ok(())
}
