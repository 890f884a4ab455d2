//! The views this node was sent, and the task that keeps names and maps like them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use malha_kit::{Backoff, Rng, watch};
use malha_model::{NetworkDelta, NetworkId, NetworkView};
use tracing::warn;

use crate::{
    executor::{Executor, NodeNetworks},
    reporter::Outbox,
};

/// Views by network. Those of an earlier session stay in force until the new session's picture is complete.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    views: BTreeMap<NetworkId, Arc<NetworkView>>,
    /// Sent in this session: only these take deltas.
    fresh: BTreeSet<NetworkId>,
    /// Asked for again after a gap; deltas are ignored until the whole view comes.
    awaited: BTreeSet<NetworkId>,
}

/// A delta did not start where the view stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gap(pub NetworkId);

impl Networks {
    pub(crate) fn restored(views: impl IntoIterator<Item = Arc<NetworkView>>) -> Self {
        let views = views.into_iter().map(|v| (v.network.id.clone(), v)).collect();
        Self { views, ..Self::default() }
    }

    pub(crate) fn views(&self) -> &BTreeMap<NetworkId, Arc<NetworkView>> {
        &self.views
    }

    pub(crate) fn session_started(&mut self) {
        self.fresh.clear();
        self.awaited.clear();
    }

    pub(crate) fn snapshot(&mut self, view: NetworkView) {
        let id = view.network.id.clone();
        self.awaited.remove(&id);
        self.fresh.insert(id.clone());
        self.views.insert(id, Arc::new(view));
    }

    pub(crate) fn delta(&mut self, delta: &NetworkDelta) -> Result<(), Gap> {
        let id = &delta.network;
        if self.awaited.contains(id) {
            return Ok(());
        }
        let fits =
            self.fresh.contains(id) && self.views.get_mut(id).is_some_and(|view| Arc::make_mut(view).apply(delta));
        if fits {
            return Ok(());
        }
        self.awaited.insert(id.clone());
        Err(Gap(id.clone()))
    }

    pub(crate) fn gone(&mut self, network: &NetworkId) {
        self.views.remove(network);
        self.fresh.remove(network);
        self.awaited.remove(network);
    }

    /// The session's picture is complete: what it did not contain is gone.
    pub(crate) fn complete(&mut self) {
        self.views.retain(|id, _| self.fresh.contains(id));
    }

    /// Nothing is left, for a node that leaves the swarm.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Applies `wanted` again and again, always the newest; `applied` shows what is in force.
pub(crate) async fn keep_applied(
    executor: Arc<dyn Executor>,
    mut wanted: watch::Receiver<Option<Arc<NodeNetworks>>>,
    applied: watch::Sender<Arc<NodeNetworks>>,
    outbox: Arc<Outbox>,
    rng: Rng,
) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX, rng);
    loop {
        let next = wanted.borrow_and_update().clone();
        let Some(next) = next else {
            if wanted.changed().await.is_err() {
                return;
            }
            continue;
        };
        match executor.apply_networks(next.clone()).await {
            Ok(()) => {
                backoff.reset();
                let before = applied.send_replace(next.clone());
                let known = |id, view| before.views.get(id).is_some_and(|v| Arc::ptr_eq(v, view));
                let fresh = next.views.iter().filter(|(id, view)| !known(*id, *view));
                outbox.applied(fresh.map(|(id, view)| (id.clone(), view.seq)));
                if wanted.changed().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                warn!(%error, "names and maps could not be brought up to date; trying again");
                tokio::select! {
                    biased;
                    changed = wanted.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(backoff.next_pause()) => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use malha_model::Network;

    use super::*;

    fn view(seq: u64) -> NetworkView {
        NetworkView { network: Network { id: "n".into(), ..Network::default() }, seq, ..NetworkView::default() }
    }

    fn delta(from_seq: u64, to_seq: u64) -> NetworkDelta {
        NetworkDelta { network: "n".into(), from_seq, to_seq, ..NetworkDelta::default() }
    }

    #[test]
    fn a_gap_is_asked_about_once_and_healed_by_the_whole_view() {
        let mut networks = Networks::default();
        networks.snapshot(view(1));
        assert_eq!(networks.delta(&delta(1, 2)), Ok(()));
        assert_eq!(networks.delta(&delta(3, 4)), Err(Gap("n".into())));
        assert_eq!(networks.delta(&delta(4, 5)), Ok(()), "already asked");
        networks.snapshot(view(5));
        assert_eq!(networks.delta(&delta(5, 6)), Ok(()));
        assert_eq!(networks.views()["n"].seq, 6);
    }

    #[test]
    fn views_of_an_earlier_session_stand_until_the_new_picture_is_complete() {
        let mut networks = Networks::restored([Arc::new(view(7))]);
        networks.session_started();
        assert_eq!(networks.views().len(), 1);
        assert!(networks.delta(&delta(7, 8)).is_err(), "sequence numbers of another session mean nothing");
        networks.complete();
        assert!(networks.views().is_empty());
    }
}
