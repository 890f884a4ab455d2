//! `docker wait`.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    info::{ExitStatus, WaitCondition},
    table::{Container, Live},
};
use crate::{Result, Runtime};

/// A wait that counts from the moment it was made.
#[derive(Debug)]
pub struct WaitHandle {
    live: watch::Receiver<Live>,
    condition: WaitCondition,
    exits_before: u64,
}

impl WaitHandle {
    pub(crate) fn new(container: &Arc<Container>, condition: WaitCondition) -> Self {
        let live = container.live.subscribe();
        let exits_before = live.borrow().exits;
        Self { live, condition, exits_before }
    }

    /// The exit; but for `Ended` once what it wrote is in the log. A container that is removed ends every wait.
    pub async fn wait(mut self) -> Result<ExitStatus> {
        let (condition, before) = (self.condition, self.exits_before);
        let met = |live: &Live| {
            live.removed
                || match condition {
                    WaitCondition::NotRunning => !live.state.status.is_running() && !live.draining,
                    WaitCondition::Ended => !live.state.status.is_running(),
                    WaitCondition::NextExit => live.exits > before && !live.draining,
                    WaitCondition::Removed => false,
                }
        };
        // Where the daemon lets go of everything: the last that was known.
        let _ = self.live.wait_for(met).await;
        Ok(self.live.borrow().last_exit.clone())
    }
}

impl Runtime {
    /// The wait counts from this call on, before the first await of the handle.
    pub fn wait(&self, container: &str, condition: WaitCondition) -> Result<WaitHandle> {
        Ok(WaitHandle::new(&self.inner.containers.find(container)?, condition))
    }
}
