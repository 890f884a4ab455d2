//! `docker rm`: what runs, or is about to again, is removed by force alone.

use malha_api::backend::RemoveContainer;
use malha_model::ApiResult;
use malha_runtime::RuntimeError;

use super::LocalEngine;

impl LocalEngine {
    pub(super) async fn remove(&self, reference: &str, options: RemoveContainer) -> ApiResult<()> {
        let info = self.runtime.inspect(reference)?;
        let alive = match info.state.status {
            status if status.is_running() => Some(status.as_str()),
            _ if self.is_restarting(&info) => Some("restarting"),
            _ => None,
        };
        if let Some(state) = alive.filter(|_| !options.force) {
            return Err(RuntimeError::StillRunning { name: reference.to_owned(), state }.into());
        }
        self.user_stops(&info).await?;
        let removed = self.runtime.remove(&info.id, options.force, options.volumes).await;
        self.unless_refused(&info, removed).await.map_err(|e| as_typed(e, reference))?;
        self.restarts.forget(&info.id);
        self.release_removed(&info).await;
        Ok(())
    }
}

/// One that was started meanwhile is called what its user calls it, too.
fn as_typed(error: RuntimeError, reference: &str) -> RuntimeError {
    match error {
        RuntimeError::StillRunning { state, .. } => RuntimeError::StillRunning { name: reference.to_owned(), state },
        error => error,
    }
}
