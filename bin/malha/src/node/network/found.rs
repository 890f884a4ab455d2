//! What an earlier daemon left standing.

use malha_dataplane::NodeNetwork;

use super::{WireError, Wiring};

impl Wiring {
    /// Opens it outside a swarm; true where there is anything.
    pub(super) async fn reopen(&self) -> Result<bool, WireError> {
        if !NodeNetwork::any_left(&self.settings.run_dir) {
            return Ok(false);
        }
        self.ensure_open().await.map(|()| true)
    }

    /// Whether there is a sandbox of a container, made here or found.
    pub(super) fn knows(&self, id: &str) -> bool {
        let state = self.state.lock();
        state.sandboxes.contains_key(id) || state.orphans.contains(id)
    }
}
