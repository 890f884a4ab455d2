//! What happens to containers, told as it happens.

use std::{collections::BTreeMap, sync::Arc};

use malha_model::Timestamp;

/// One thing that happened to one container.
#[derive(Clone, Debug)]
pub struct ContainerEvent {
    pub id: String,
    pub name: String,
    /// Image reference as the container's creator wrote it.
    pub image: String,
    pub labels: Arc<BTreeMap<String, String>>,
    pub kind: EventKind,
    pub time: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    Create,
    Start,
    Die {
        exit_code: i32,
    },
    /// A signal was sent.
    Kill {
        signal: i32,
    },
    /// `docker stop` ended it.
    Stop,
    Restart,
    Oom,
    Rename {
        old_name: String,
    },
    ExecCreate {
        exec_id: String,
        command: String,
    },
    ExecStart {
        exec_id: String,
        command: String,
    },
    ExecDie {
        exec_id: String,
        exit_code: i32,
    },
    Attach,
    Resize,
    Destroy,
}
