//! Keeps the state settled: runs the control loops when time passes or something changed behind their back.

use std::time::Duration;

use malha_model::Timestamp;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::decide::{Decider, Settled};

/// What a forgotten wake-up can cost at most.
const SAFETY: Duration = Duration::from_secs(5);
/// Between two runs that only time asks for.
const BREATH: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_millis(200);

pub(crate) async fn run(decider: Decider) {
    let mut state = decider.consensus.state();
    let mut settled = decider.settled();
    loop {
        if let Err(error) = decider.write(|_, _| {}).await {
            warn!(%error, "the swarm could not be reconciled; trying again");
            sleep(RETRY).await;
            continue;
        }
        sleep(BREATH).await;
        let due = async {
            loop {
                let Settled { index, wake } = *settled.borrow_and_update();
                let now = decider.clock.now();
                if wake.is_some_and(|at| at <= now) {
                    return;
                }
                if state.borrow_and_update().index() > index {
                    // most likely an update that is about to say that it has settled what it wrote
                    sleep(BREATH).await;
                    if state.borrow().index() > settled.borrow().index {
                        return;
                    }
                    continue;
                }
                tokio::select! {
                    biased;
                    changed = state.changed() => if changed.is_err() { std::future::pending::<()>().await },
                    changed = settled.changed() => if changed.is_err() { std::future::pending::<()>().await },
                    () = until(wake, now) => {}
                }
            }
        };
        if timeout(SAFETY, due).await.is_err() {
            decider.forget_outlook();
        }
    }
}

async fn until(wake: Option<Timestamp>, now: Timestamp) {
    match wake {
        Some(at) => sleep(at.since(now)).await,
        None => std::future::pending().await,
    }
}
