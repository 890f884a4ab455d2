//! Who leads, as far as this member knows.

use malha_model::NodeId;

/// This member's part in the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Leadership {
    /// No leader is known, or the one that was known has been silent for too long. Also a leader that has lost its
    /// quorum, and a leader that has not yet applied everything of former terms.
    #[default]
    NoLeader,
    /// This member leads, and its state holds everything that earlier leaders committed.
    Leader { term: u64 },
    /// Another member leads.
    Follower { leader: LeaderAddr },
}

/// A leader and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderAddr {
    pub node: NodeId,
    /// `ip:port`
    pub addr: String,
}

impl Leadership {
    pub fn is_leader(&self) -> bool {
        matches!(self, Self::Leader { .. })
    }

    /// The leader, when it is another member.
    pub fn other(&self) -> Option<&LeaderAddr> {
        match self {
            Self::Follower { leader } => Some(leader),
            Self::NoLeader | Self::Leader { .. } => None,
        }
    }
}
