//! What nodes say, written down many at a time.
//!
//! While one write is under way the next one gathers, so an idle swarm waits for nothing and a busy one writes few, large
//! entries. Order is kept: a node that went down and came back is up.

use std::{collections::VecDeque, convert::Infallible, net::IpAddr, time::Duration};

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
        let (mut left, mut most) = (VecDeque::from(std::mem::take(&mut batch)), BATCH);
        while !left.is_empty() {
            let count = left.len().min(most);
            let written = write(&decider, &left.make_contiguous()[..count]).await;
            match written {
                Ok(()) => drop(left.drain(..count)),
                Err(UpdateError::Stopped) => return,
                Err(UpdateError::TooLarge { .. }) if count > 1 => most = count / 2,
                // the tasks of one node may be too much by themselves
                Err(UpdateError::TooLarge { .. }) => {
                    let parts = left.pop_front().map(parts).unwrap_or_default();
                    parts.into_iter().rev().for_each(|part| left.push_front(part));
                }
                // whatever this manager thinks of its leadership for a moment: nobody says these things twice in one
                // term, and at its end this task goes with it
                Err(error) => {
                    warn!(%error, "reports were not written; trying again");
                    sleep(RETRY).await;
                }
            }
        }
    }
}

/// Two reports that say the same, where there is anything to part. What cannot be written holds up nothing else.
fn parts(report: Report) -> Vec<Report> {
    match report {
        Report::Tasks(node, mut statuses) if statuses.len() > 1 => {
            let later = statuses.split_off(statuses.len() / 2);
            vec![Report::Tasks(node.clone(), statuses), Report::Tasks(node, later)]
        }
        Report::Tasks(node, _) | Report::Up { node, .. } | Report::Silent(node) | Report::Down(node) => {
            warn!(%node, "a report is dropped: no write can hold it");
            Vec::new()
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_parted_down_to_one_task() {
        let statuses = (0..5).map(|n| (TaskId::from(format!("t{n}")), TaskStatus::default())).collect();
        let (mut left, mut said) = (VecDeque::from([Report::Tasks("n".into(), statuses)]), Vec::new());
        while let Some(report) = left.pop_front() {
            if let Report::Tasks(_, statuses) = &report
                && let [(task, _)] = &statuses[..]
            {
                said.push(task.to_string());
            } else {
                parts(report).into_iter().rev().for_each(|part| left.push_front(part));
            }
        }
        assert_eq!(said, ["t0", "t1", "t2", "t3", "t4"]);
        assert!(parts(Report::Silent("n".into())).is_empty());
    }
}
