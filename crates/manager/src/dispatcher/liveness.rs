//! Who was heard when, and what follows from silence.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use malha_model::{NodeId, NodeState};
use malha_store::State;
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{Pace, reports::Report};

#[derive(Debug, Default)]
pub(crate) struct Liveness {
    nodes: Mutex<BTreeMap<NodeId, Pulse>>,
}

#[derive(Clone, Copy, Debug)]
struct Pulse {
    /// The session that it is heard through; 0 for none in this term yet.
    session: u64,
    /// When each verdict falls unless the node is heard before.
    silent_at: Instant,
    down_at: Instant,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Serving,
    Silent,
    Down,
}

impl Liveness {
    /// At the start of a term: every node that was there is expected back.
    pub(crate) fn expect(&self, state: &State, pace: Pace) {
        let now = Instant::now();
        let (silent_at, down_at) = (now + pace.silent() + pace.grace(), now + pace.down() + pace.grace());
        let mut nodes = self.nodes.lock();
        for node in state.nodes() {
            let verdict = match node.status.state {
                NodeState::Down => continue,
                NodeState::Disconnected => Verdict::Silent,
                NodeState::Ready | NodeState::Unknown => Verdict::Serving,
            };
            nodes.insert(node.id.clone(), Pulse { session: 0, silent_at, down_at, verdict });
        }
    }

    /// A session opened, in place of any before.
    pub(crate) fn opened(&self, node: &NodeId, session: u64, pace: Pace) {
        let now = Instant::now();
        let pulse =
            Pulse { session, silent_at: now + pace.silent(), down_at: now + pace.down(), verdict: Verdict::Serving };
        self.nodes.lock().insert(node.clone(), pulse);
    }

    /// Anything was heard. True where the node had been given up meanwhile and is to be reported up again.
    pub(crate) fn heard(&self, node: &NodeId, session: u64, pace: Pace) -> bool {
        let mut nodes = self.nodes.lock();
        let Some(pulse) = nodes.get_mut(node).filter(|p| p.session == session) else { return false };
        let now = Instant::now();
        pulse.silent_at = now + pace.silent();
        pulse.down_at = now + pace.down();
        std::mem::replace(&mut pulse.verdict, Verdict::Serving) != Verdict::Serving
    }

    /// The session ended. Unless the node is back soon, it counts as silent earlier than one that said nothing.
    pub(crate) fn closed(&self, node: &NodeId, session: u64, pace: Pace) {
        if let Some(pulse) = self.nodes.lock().get_mut(node).filter(|p| p.session == session) {
            pulse.silent_at = pulse.silent_at.min(Instant::now() + pace.broken());
        }
    }

    /// This manager itself was away for `pause`: what nodes said meanwhile is yet to be read.
    fn excuse(&self, pause: Duration) {
        for pulse in self.nodes.lock().values_mut() {
            pulse.silent_at += pause;
            pulse.down_at += pause;
        }
    }

    fn verdicts(&self) -> Vec<Report> {
        let now = Instant::now();
        let mut fallen = Vec::new();
        for (node, pulse) in self.nodes.lock().iter_mut() {
            let verdict = if pulse.down_at <= now {
                Verdict::Down
            } else if pulse.silent_at <= now {
                Verdict::Silent
            } else {
                continue;
            };
            if verdict <= pulse.verdict {
                continue;
            }
            pulse.verdict = verdict;
            if verdict == Verdict::Down {
                warn!(%node, "node is down: heartbeat failure");
                fallen.push(Report::Down(node.clone()));
            } else {
                info!(%node, "node is silent");
                fallen.push(Report::Silent(node.clone()));
            }
        }
        fallen
    }
}

const TICK: Duration = Duration::from_millis(50);
/// A machine that schedules this manager so late says nothing about the nodes.
const LATE: Duration = Duration::from_millis(250);

pub(crate) async fn run(liveness: Arc<Liveness>, reports: mpsc::Sender<Report>) {
    let mut last = Instant::now();
    loop {
        sleep(TICK).await;
        let late = last.elapsed().saturating_sub(TICK);
        last = Instant::now();
        if late > LATE {
            warn!(?late, "this manager was held up; nodes are given that time");
            liveness.excuse(late);
        }
        for report in liveness.verdicts() {
            // closed only at the end of the term
            reports.send(report).await.ok();
        }
    }
}
