//! What nodes say, written down many at a time.
//!
//! While one write is under way the next one gathers, so an idle swarm waits for nothing and a busy one writes few, large
//! entries. Order is kept: a node that went down and came back is up.

use std::{convert::Infallible, net::IpAddr, time::Duration};

use malha_consensus::UpdateError;
use malha_control::{Ctx, status};
use malha_model::{NodeDescription, NodeId, NodeState, Role, TaskId, TaskStatus};
use malha_store::{State, Tx};
use tokio::{sync::mpsc, time::sleep};
use tracing::warn;

use crate::decide::Decider;

#[derive(Clone, Debug)]
pub(crate) enum Report {
    Up {
        node: NodeId,
        role: Role,
        addr: String,
        description: NodeDescription,
        data_path_addr: IpAddr,
    },
    /// Not heard for a while: no new connections.
    Silent(NodeId),
    Down(NodeId),
    Tasks(NodeId, Vec<(TaskId, TaskStatus)>),
}

/// Reports that wait; senders wait beyond that.
pub(crate) const CAPACITY: usize = 1024;
const BATCH: usize = 1024;
const RETRY: Duration = Duration::from_millis(100);

pub(crate) async fn run(decider: Decider, mut reports: mpsc::Receiver<Report>) {
    let mut batch = Vec::new();
    while reports.recv_many(&mut batch, BATCH).await > 0 {
        let (mut left, mut most) = (&batch[..], BATCH);
        while !left.is_empty() {
            let (now, later) = left.split_at(most.min(left.len()));
            match write(&decider, now).await {
                Ok(()) => left = later,
                Err(UpdateError::Stopped) => return,
                Err(UpdateError::TooLarge { .. }) if now.len() > 1 => most = now.len() / 2,
                // whatever this manager thinks of its leadership for a moment: nobody says these things twice in one
                // term, and at its end this task goes with it
                Err(error) => {
                    warn!(%error, "reports were not written; trying again");
                    sleep(RETRY).await;
                }
            }
        }
        batch.clear();
    }
}

async fn write(decider: &Decider, batch: &[Report]) -> Result<(), UpdateError<Infallible>> {
    decider
        .write(|tx, ctx| {
            for report in batch {
                take(tx, ctx, report.clone());
            }
        })
        .await
}

fn take(tx: &mut Tx, ctx: &Ctx<'_>, report: Report) {
    match report {
        Report::Up { node, role, addr, description, data_path_addr } => {
            let others = tx.node(&node).is_none_or(|n| n.description.routes != description.routes);
            status::node_described(tx, &node, description, data_path_addr);
            if others {
                warn_of_overlaps(tx, &node);
            }
            status::node_up(tx, &node, &addr);
            if let Some(held) = tx.node(&node).filter(|n| n.observed_role != role) {
                let mut held = (**held).clone();
                held.observed_role = role;
                tx.put(held);
            }
        }
        Report::Silent(node) => silent(tx, &node),
        Report::Down(node) => status::node_down(tx, ctx, &node, "heartbeat failure"),
        Report::Tasks(node, statuses) => status::report(tx, ctx, &node, statuses),
    }
}

/// A node may join with any routes, and get them at any time: what is there already cannot be refused any more.
fn warn_of_overlaps(state: &State, id: &NodeId) {
    let Some(node) = state.node(id) else { return };
    for network in state.networks() {
        if let Some((subnet, route)) = network.overlapped(&node.description.routes) {
            let (name, network) = (node.name(), network.name());
            warn!(node = name, network, %subnet, %route, "a network overlaps a route of a node");
        }
    }
}

fn silent(tx: &mut Tx, node: &NodeId) {
    let serving = |state| matches!(state, NodeState::Ready | NodeState::Unknown);
    if let Some(held) = tx.node(node).filter(|n| serving(n.status.state)) {
        let mut held = (**held).clone();
        held.status.state = NodeState::Disconnected;
        held.status.message = "heartbeat failure".to_owned();
        tx.put(held);
    }
}
