//! Notices when the node's routes are others than before.
//!
//! Beside the session, which must not wait for the node to look at itself.

use std::{sync::Arc, time::Duration};

use malha_kit::watch;
use malha_model::NodeDescription;
use tokio::time::sleep;

use crate::executor::Executor;

/// How often the node is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Puts into `news` each description whose routes differ from those of the one before.
pub(crate) async fn follow(executor: Arc<dyn Executor>, news: watch::Sender<Option<NodeDescription>>) {
    let mut last = executor.description().await.routes;
    loop {
        sleep(LOOK).await;
        let now = executor.description().await;
        if now.routes != last {
            last.clone_from(&now.routes);
            news.send_replace(Some(now));
        }
    }
}
