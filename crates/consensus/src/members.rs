//! Who belongs to the group, and changing it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::future::BoxFuture;
use malha_model::NodeId;
use openraft::{
    ChangeMembers,
    async_runtime::Instant as _,
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    Consensus, Leadership, MemberError,
    config::PROMOTION_LAG,
    types::{Metrics, Peer, TypeConfig},
};

/// One manager in the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub node: NodeId,
    /// `ip:port`
    pub addr: String,
    /// False while it is still catching up.
    pub voter: bool,
    pub leader: bool,
    pub reachability: Reachability,
}

/// What this member knows about another; only the leader talks to all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    Unknown,
    Unreachable,
    Reachable,
}

/// Time for a new manager to copy the state, and for a change of members to commit.
const CHANGE_PATIENCE: Duration = Duration::from_secs(30);
/// Time for another manager to take over.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(20);

impl std::fmt::Display for Reachability {
    /// As Docker words it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Unreachable => "unreachable",
            Self::Reachable => "reachable",
        })
    }
}

impl Consensus {
    /// All members, in id order.
    pub fn members(&self) -> Vec<Member> {
        let metrics = self.metrics();
        let voters: BTreeSet<NodeId> = metrics.membership_config.voter_ids().collect();
        let leadership = self.shared.leadership.borrow().clone();
        let leader = match &leadership {
            Leadership::Leader { .. } => Some(self.node()),
            Leadership::Follower { leader } => Some(&leader.node),
            Leadership::NoLeader => None,
        };
        let describe = |(node, peer): (&NodeId, &Peer)| Member {
            node: node.clone(),
            addr: peer.addr.clone(),
            voter: voters.contains(node),
            leader: leader == Some(node),
            reachability: self.reachability(&metrics, node, leader == Some(node)),
        };
        metrics.membership_config.nodes().map(describe).collect()
    }

    fn reachability(&self, metrics: &Metrics, node: &NodeId, leads: bool) -> Reachability {
        if node == self.node() || leads {
            return Reachability::Reachable;
        }
        let Some(acks) = metrics.heartbeat.as_ref().filter(|_| metrics.state.is_leader()) else {
            return Reachability::Unknown;
        };
        match acks.get(node) {
            Some(Some(at)) if at.elapsed() <= self.shared.config.timings.patience() => Reachability::Reachable,
            _ => Reachability::Unreachable,
        }
    }

    /// Adds a manager: it copies the state first and votes once it has caught up. For one that belongs already, changes
    /// its address. Asked again, also at the same time, it goes on where it was.
    pub fn add_manager(&self, node: NodeId, addr: String) -> BoxFuture<'_, Result<(), MemberError>> {
        Box::pin(async move {
            let deadline = Instant::now() + CHANGE_PATIENCE;
            let peer = Peer { addr };
            let members = self.leading_metrics()?.membership_config;
            match members.get_node(&node) {
                Some(known) if *known == peer => {}
                Some(_) => {
                    let changed = ChangeMembers::SetNodes(BTreeMap::from([(node.clone(), peer)]));
                    self.change_in_turn(changed, deadline).await?;
                }
                None => {
                    let added = ChangeMembers::AddNodes(BTreeMap::from([(node.clone(), peer)]));
                    self.change_in_turn(added, deadline).await?;
                }
            }
            if members.voter_ids().any(|voter| voter == node) {
                return Ok(());
            }
            self.give_vote(node, deadline).await
        })
    }

    /// Gives a manager its vote that was added and is still catching up. One that is gone by now stays away, and no
    /// address changes.
    pub fn promote(&self, node: NodeId) -> BoxFuture<'_, Result<(), MemberError>> {
        Box::pin(async move {
            let deadline = Instant::now() + CHANGE_PATIENCE;
            let members = self.leading_metrics()?.membership_config;
            if members.get_node(&node).is_none() {
                return Err(MemberError::Unknown(node));
            }
            if members.voter_ids().any(|voter| voter == node) {
                return Ok(());
            }
            self.give_vote(node, deadline).await
        })
    }

    /// Of one that belongs already. It fails where it does not any more.
    async fn give_vote(&self, node: NodeId, deadline: Instant) -> Result<(), MemberError> {
        self.caught_up(&node, deadline).await?;
        self.change_in_turn(ChangeMembers::AddVoterIds(BTreeSet::from([node])), deadline).await
    }

    /// The change of members that was begun and is not finished yet: where in the log it began.
    pub fn unfinished_change(&self) -> Option<u64> {
        let membership = self.metrics().membership_config;
        let begun = membership.get_joint_config().len() > 1;
        membership.log_id().as_ref().filter(|_| begun).map(|id| id.index)
    }

    /// Finishes a change of members that nobody else will: it has two steps, and who asked for it is gone or led no longer
    /// after the first. Until the second one the old majority is needed as well as the new.
    pub fn finish_change(&self) -> BoxFuture<'_, Result<(), MemberError>> {
        // one more change, to the same end
        self.change(ChangeMembers::AddVoterIds(BTreeSet::new()), false, Instant::now() + CHANGE_PATIENCE)
    }

    /// Whether the group goes on without `node`, by those that answer now. Returns whether it has a vote.
    pub fn can_spare(&self, node: &NodeId) -> Result<bool, MemberError> {
        let members = self.members();
        let Some(gone) = members.iter().find(|m| m.node == *node) else {
            return Err(MemberError::Unknown(node.clone()));
        };
        if !gone.voter {
            return Ok(false);
        }
        let staying: Vec<_> = members.iter().filter(|m| m.voter && m.node != *node).collect();
        if staying.is_empty() {
            return Err(MemberError::LastManager);
        }
        let reachable = staying.iter().filter(|m| m.reachability == Reachability::Reachable).count();
        if reachable <= staying.len() / 2 {
            return Err(MemberError::WouldLoseQuorum);
        }
        Ok(true)
    }

    /// Removes a manager. A leader that removes itself hands over.
    pub async fn remove_manager(&self, node: &NodeId) -> Result<(), MemberError> {
        self.leading_metrics()?;
        let votes = self.can_spare(node)?;
        let deadline = Instant::now() + CHANGE_PATIENCE;
        if !votes {
            return self.change(ChangeMembers::RemoveNodes(BTreeSet::from([node.clone()])), false, deadline).await;
        }
        self.change(ChangeMembers::RemoveVoters(BTreeSet::from([node.clone()])), false, deadline).await
    }

    /// Makes the most up-to-date other manager the leader; returns which.
    pub fn transfer_leadership(&self) -> BoxFuture<'_, Result<NodeId, MemberError>> {
        Box::pin(async move {
            // no update may be under way
            let _turn = self.shared.planning.lock().await;
            let metrics = self.leading_metrics()?;
            let reachable = self
                .members()
                .into_iter()
                .filter(|m| m.voter && m.node != *self.node() && m.reachability == Reachability::Reachable);
            let progress = |node: &NodeId| metrics.replication.as_ref()?.get(node)?.as_ref().map(|id| id.index);
            let Some(successor) = reachable.map(|m| m.node).max_by_key(progress) else {
                return Err(MemberError::NoSuccessor);
            };
            let trigger = self.shared.raft.trigger();
            trigger.transfer_leader(successor.clone()).await.map_err(|_| MemberError::Stopped)?;
            let mut leadership = self.leadership();
            let handed_over = leadership.wait_for(|l| l.other().is_some());
            match timeout_at(Instant::now() + TRANSFER_PATIENCE, handed_over).await {
                Ok(Ok(now)) => Ok(now.other().map_or(successor, |leader| leader.node.clone())),
                Ok(Err(_)) => Err(MemberError::Stopped),
                Err(_) => Err(MemberError::Timeout),
            }
        })
    }

    fn leading_metrics(&self) -> Result<Metrics, MemberError> {
        let leadership = self.shared.leadership.borrow();
        if leadership.is_leader() {
            return Ok(self.metrics());
        }
        Err(MemberError::NotLeader { leader: leadership.other().cloned() })
    }

    /// Waits until `node` has nearly all of the log, for as long as it belongs.
    async fn caught_up(&self, node: &NodeId, deadline: Instant) -> Result<(), MemberError> {
        // the metrics may be behind the change that added it
        let mut seen = false;
        loop {
            let metrics = self.leading_metrics()?;
            let belongs = metrics.membership_config.get_node(node).is_some();
            if seen && !belongs {
                return Err(MemberError::Unknown(node.clone()));
            }
            seen |= belongs;
            let matched = metrics.replication.as_ref().and_then(|progress| progress.get(node).cloned().flatten());
            let last = metrics.last_log_index.unwrap_or_default();
            if matched.is_some_and(|id| id.index + PROMOTION_LAG >= last) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(MemberError::Timeout);
            }
            sleep(POLL).await;
        }
    }

    /// Waits while another change of members is under way.
    async fn change_in_turn(&self, change: ChangeMembers<NodeId, Peer>, deadline: Instant) -> Result<(), MemberError> {
        loop {
            match self.change(change.clone(), true, deadline).await {
                Err(MemberError::Busy) if Instant::now() < deadline => sleep(POLL).await,
                done => return done,
            }
        }
    }

    fn change(
        &self,
        change: ChangeMembers<NodeId, Peer>,
        retain: bool,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(), MemberError>> {
        Box::pin(async move {
            match timeout_at(deadline, self.shared.raft.change_membership(change, retain)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(RaftError::APIError(error))) => Err(self.refused(error)),
                Ok(Err(RaftError::Fatal(_))) => Err(MemberError::Stopped),
                Err(_) => Err(MemberError::Timeout),
            }
        })
    }

    fn refused(&self, error: ClientWriteError<TypeConfig>) -> MemberError {
        match error {
            ClientWriteError::ForwardToLeader(_) => {
                MemberError::NotLeader { leader: self.shared.leadership.borrow().other().cloned() }
            }
            ClientWriteError::LogEntryDiscarded(_) => MemberError::Timeout,
            ClientWriteError::ChangeMembershipError(ChangeMembershipError::LearnerNotFound(e)) => {
                MemberError::Unknown(e.node_id)
            }
            ClientWriteError::ChangeMembershipError(ChangeMembershipError::EmptyMembership(_)) => {
                MemberError::LastManager
            }
            ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => MemberError::Busy,
        }
    }
}
