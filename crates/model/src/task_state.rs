//! The states of a task, in the order in which they may only advance (SwarmKit `api/types.proto`).

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// Made by an orchestrator, nothing allocated.
    #[default]
    New = 0,
    /// Addresses and ports allocated.
    Pending = 64,
    /// A node was chosen.
    Assigned = 192,
    Accepted = 256,
    /// Networks, volumes and image are being made ready.
    Preparing = 320,
    Ready = 384,
    Starting = 448,
    Running = 512,
    Complete = 576,
    Shutdown = 640,
    Failed = 704,
    Rejected = 768,
    /// Desired state only: the task is to be stopped and then deleted.
    Remove = 800,
    /// Its node has been away for too long.
    Orphaned = 832,
}

impl TaskState {
    /// True once the task will never run again.
    pub fn is_terminal(self) -> bool {
        self > Self::Running
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Accepted => "accepted",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Remove => "remove",
            Self::Orphaned => "orphaned",
        }
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
