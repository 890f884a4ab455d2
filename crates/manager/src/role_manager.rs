//! Makes the Raft group what the roles in the nodes' specs say, and keeps everybody told who the managers are.
//!
//! A node that is to be a manager asks to join by itself, once it has the certificate; where that was interrupted, it is
//! given its vote here. One that is not to be a manager any more is taken out here before it hears of it. A leader that is
//! demoted hands over first.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use malha_consensus::{Member, MemberError, Reachability};
use malha_kit::watch;
use malha_model::{ManagerStatus, NodeId, Role};
use malha_store::State;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::{decide::Decider, members::addresses};

const PERIOD: Duration = Duration::from_millis(500);

pub(crate) async fn run(decider: Decider, managers: watch::Sender<BTreeMap<NodeId, String>>) {
    let mut state = decider.consensus.state();
    let mut members = all(&decider);
    loop {
        tokio::select! {
            biased;
            changed = state.changed() => if changed.is_err() { return },
            () = sleep(PERIOD) => {}
        }
        state.mark_unchanged();
        demote(&decider).await;
        let now = addresses(&decider.consensus);
        let before = std::mem::replace(&mut members, all(&decider));
        managers.send_if_modified(|known| {
            // one that had no vote yet is not among the addresses, and waits to hear that it is out
            let changed = *known != now || before != members;
            known.clone_from(&now);
            changed
        });
        record(&decider, &now).await;
    }
}

fn all(decider: &Decider) -> BTreeSet<NodeId> {
    decider.consensus.members().into_iter().map(|m| m.node).collect()
}

/// Takes members out that are no longer to be managers.
async fn demote(decider: &Decider) {
    let state = decider.state();
    let own = decider.consensus.node();
    for member in decider.consensus.members() {
        // a node that is gone altogether was force-removed
        if is_to_manage(&state, &member.node) {
            continue;
        }
        let done = if member.node == *own {
            decider.consensus.transfer_leadership().await.map(drop)
        } else {
            decider.consensus.remove_manager(&member.node).await
        };
        match done {
            Ok(()) => info!(node = %member.node, "a manager was demoted"),
            Err(MemberError::Busy | MemberError::NotLeader { .. }) => {}
            Err(error) => warn!(node = %member.node, %error, "a manager cannot be demoted yet"),
        }
    }
}

fn is_to_manage(state: &State, node: &NodeId) -> bool {
    state.node(node).is_some_and(|n| n.spec.role == Role::Manager)
}

/// Gives those their vote who were taken in and never got so far, and finishes what was left half-way: the node stopped
/// meanwhile, or the leader changed.
pub(crate) async fn seat(decider: Decider) {
    let mut halfway = None;
    loop {
        sleep(PERIOD).await;
        // one that is still being made does not stay so for a period
        let before = std::mem::replace(&mut halfway, decider.consensus.unfinished_change());
        if halfway.is_some() && halfway == before {
            match decider.consensus.finish_change().await {
                Ok(()) => info!("a change of managers that was left half-way is finished"),
                Err(MemberError::Busy | MemberError::NotLeader { .. }) => {}
                Err(error) => warn!(%error, "a change of managers is left half-way"),
            }
        }
        let waits = |m: &Member| !m.voter && m.reachability == Reachability::Reachable;
        for member in decider.consensus.members().into_iter().filter(waits) {
            // asked anew for each: those before it may have taken their time
            if !is_to_manage(&decider.state(), &member.node) {
                continue;
            }
            match decider.consensus.promote(member.node.clone()).await {
                Ok(()) => info!(node = %member.node, "a manager has its vote"),
                // it has left meanwhile
                Err(MemberError::NotLeader { .. } | MemberError::Unknown(_)) => {}
                Err(error) => warn!(node = %member.node, %error, "a manager cannot have its vote yet"),
            }
        }
    }
}

/// Keeps in the state which nodes are members, for decisions that depend on it. The rest is shown at reading.
async fn record(decider: &Decider, managers: &BTreeMap<NodeId, String>) {
    let state = decider.state();
    let differs = |n: &malha_model::Node| n.manager.as_ref().map(|m| &m.addr) != managers.get(&n.id);
    if !state.nodes().any(|n| differs(n)) {
        return;
    }
    let write = decider.write(|tx, _| {
        let stale: Vec<_> = tx.nodes().filter(|n| differs(n)).cloned().collect();
        for node in stale {
            let mut node = (*node).clone();
            node.manager = managers.get(&node.id).map(|addr| ManagerStatus {
                leader: false,
                reachability: "reachable".to_owned(),
                addr: addr.clone(),
            });
            tx.put(node);
        }
    });
    if let Err(error) = write.await {
        warn!(%error, "the list of managers was not written");
    }
}
