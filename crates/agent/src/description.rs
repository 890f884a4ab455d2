//! Knows what the node is, and notices when its routes are others than before.
//!
//! Beside the session, which must not wait for the node to look at itself.

use std::{sync::Arc, time::Duration};

use malha_kit::watch;
use malha_model::NodeDescription;
use tokio::time::sleep;

use crate::executor::Executor;

/// How often the node is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Keeps in `known` what the node last was. Its readers are told where the routes are others than before.
pub(crate) async fn follow(executor: Arc<dyn Executor>, known: watch::Sender<Option<NodeDescription>>) {
    loop {
        let now = executor.description().await;
        known.send_if_modified(|last| {
            let news = last.as_ref().is_none_or(|last| last.routes != now.routes);
            *last = Some(now);
            news
        });
        sleep(LOOK).await;
    }
}
