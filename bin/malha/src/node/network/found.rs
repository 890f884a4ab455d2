//! What an earlier daemon left standing.

use std::sync::Arc;

use malha_agent::NodeNetworks;
use malha_dataplane::NodeNetwork;
use malha_model::TaskId;
use tokio::time::timeout;

use super::{VIEW_LIMIT, WireError, WireRequest, Wiring};

impl Wiring {
    /// Opens it outside a swarm; true where there is anything.
    pub(super) async fn reopen(self: &Arc<Self>) -> Result<bool, WireError> {
        // One that is being closed is waited for: what is left until then is not to be opened again.
        let open = self.kernel.read().await.is_some();
        if !NodeNetwork::any_left(&self.settings.run_dir) {
            return Ok(false);
        }
        if open { Ok(true) } else { self.ensure_open().await.map(|()| true) }
    }

    /// Whether there is a sandbox of a container, made here or found.
    pub(super) fn knows(&self, id: &str) -> bool {
        let state = self.state.lock();
        state.sandboxes.contains_key(id) || state.orphans.contains(id)
    }

    /// Whether a container runs on without the sandbox that it had.
    pub(super) fn has_lost(&self, id: &str) -> bool {
        self.state.lock().lost.contains(id)
    }

    /// Waits until attachments that an earlier daemon was given have arrived with the views of their networks. Not for
    /// ever: false where they have not.
    pub(super) async fn attachments_arrive(&self, attachments: &[TaskId]) -> bool {
        let arrived = |n: &NodeNetworks, id: &TaskId| {
            let task = n.tasks.iter().find(|t| t.id == *id);
            task.is_some_and(|t| t.networks.iter().all(|a| n.views.contains_key(&a.network)))
        };
        let mut watch = self.networks.subscribe();
        let all = watch.wait_for(|n| attachments.iter().all(|id| arrived(n, id)));
        matches!(timeout(VIEW_LIMIT, all).await, Ok(Ok(_)))
    }

    /// Takes over the sandbox of a stand-alone container, on the networks that have arrived: others it has lost.
    pub(super) async fn adopt(
        self: &Arc<Self>,
        mut request: WireRequest,
        attachments: &[TaskId],
    ) -> Result<(), WireError> {
        self.reopen().await?;
        let stands = self.kernel.read().await.as_ref().is_some_and(|k| k.net.sandboxes().stands(&request.id));
        if !stands {
            // Another namespace would not be the one that it runs in.
            self.state.lock().lost.insert(request.id);
            return Err(WireError::Lost);
        }
        let networks = self.current();
        let own = networks.tasks.iter().filter(|t| attachments.contains(&t.id));
        request.attachments = own.flat_map(|t| t.networks.iter().cloned()).collect();
        // It was waited for them.
        if let Some(a) = request.attachments.iter().find(|a| !networks.views.contains_key(&a.network)) {
            return Err(WireError::NoView(a.network.clone()));
        }
        self.wire(request).await.map(drop)
    }
}
