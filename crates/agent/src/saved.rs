//! What a restarted agent starts from: its tasks as it left them, the last views, the managers it knew.

use malha_kit::watch;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use malha_model::{NetworkView, NodeId, Task, TaskStatus};
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use crate::disk::AgentDisk;

const BLOB: &str = "agent.json";
/// Changes come in bursts; one write holds them all.
const DEBOUNCE: Duration = Duration::from_millis(50);
const RETRY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// Whose it is: what an earlier membership left behind is nobody's.
    pub node: NodeId,
    pub tasks: Vec<SavedTask>,
    pub views: Vec<Arc<NetworkView>>,
    pub managers: BTreeMap<NodeId, String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SavedTask {
    pub task: Arc<Task>,
    /// As reached here, which may be ahead of what managers know.
    pub status: TaskStatus,
}

/// `None` where there is nothing (legible): then nothing may be concluded from its absence.
pub(crate) async fn load(disk: &dyn AgentDisk) -> Option<Saved> {
    let blob = match disk.load(BLOB).await {
        Ok(blob) => blob?,
        Err(error) => {
            error!(%error, "cannot read the saved assignments");
            return None;
        }
    };
    serde_json::from_slice(&blob).inspect_err(|error| error!(%error, "the saved assignments are damaged")).ok()
}

pub(crate) async fn keep_saved(disk: Arc<dyn AgentDisk>, mut state: watch::Receiver<Arc<Saved>>) {
    while state.changed().await.is_ok() {
        tokio::time::sleep(DEBOUNCE).await;
        loop {
            let newest = state.borrow_and_update().clone();
            if save(&*disk, &newest).await {
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn save(disk: &dyn AgentDisk, state: &Saved) -> bool {
    let blob = match serde_json::to_vec(state) {
        Ok(blob) => blob,
        Err(error) => {
            error!(%error, "assignments cannot be written as JSON");
            return true;
        }
    };
    // a full disk must not stop what runs
    disk.save(BLOB, blob).await.inspect_err(|error| warn!(%error, "assignments were not saved; trying again")).is_ok()
}
