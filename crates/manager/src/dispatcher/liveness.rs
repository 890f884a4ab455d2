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
    /// At the start of a term: every node that was there is expected back. The one that led `before` and
    /// does not answer its successor was missed for as long as the election took.
    pub(crate) fn expect(&self, state: &State, pace: Pace, before: Option<&NodeId>) {
        let now = Instant::now();
        let mut nodes = self.nodes.lock();
        for node in state.nodes() {
            let verdict = match node.status.state {
                NodeState::Down => continue,
                NodeState::Disconnected => Verdict::Silent,
                NodeState::Ready | NodeState::Unknown => Verdict::Serving,
            };
            let (silent, down) = match before {
                Some(before) if *before == node.id => (pace.deposed(), pace.down()),
                _ => (pace.silent() + pace.grace(), pace.down() + pace.grace()),
            };
            let pulse = Pulse { session: 0, silent_at: now + silent, down_at: now + down, verdict };
            nodes.insert(node.id.clone(), pulse);
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

    /// Does `then` unless the session is over or the node has been given up: no verdict falls meanwhile.
    pub(crate) fn if_serving(&self, node: &NodeId, session: u64, then: impl FnOnce()) {
        let nodes = self.nodes.lock();
        if nodes.get(node).is_some_and(|p| p.session == session && p.verdict == Verdict::Serving) {
            then();
        }
    }

    fn is_due(&self) -> bool {
        let now = Instant::now();
        self.nodes.lock().values().any(|pulse| pulse.due(now) > pulse.verdict)
    }

    /// Lets the next verdict fall, where one is due. It is reported before the node can be heard again: who returns is
    /// reported behind it.
    fn judge(&self, report: mpsc::Permit<'_, Report>) {
        let now = Instant::now();
        let mut nodes = self.nodes.lock();
        let Some((node, pulse)) = nodes.iter_mut().find(|(_, pulse)| pulse.due(now) > pulse.verdict) else { return };
        pulse.verdict = pulse.due(now);
        if pulse.verdict == Verdict::Down {
            warn!(%node, "node is down: heartbeat failure");
            report.send(Report::Down(node.clone()));
        } else {
            info!(%node, "node is silent");
            report.send(Report::Silent(node.clone()));
        }
    }
}

impl Pulse {
    fn due(&self, now: Instant) -> Verdict {
        if self.down_at <= now {
            Verdict::Down
        } else if self.silent_at <= now {
            Verdict::Silent
        } else {
            Verdict::Serving
        }
    }
}

const TICK: Duration = Duration::from_millis(50);
/// A machine that schedules this manager so late says nothing about the nodes.
const LATE: Duration = Duration::from_millis(250);

pub(crate) async fn run(liveness: Arc<Liveness>, reports: mpsc::Sender<Report>) {
    loop {
        let before = Instant::now();
        sleep(TICK).await;
        let late = before.elapsed().saturating_sub(TICK);
        if late > LATE {
            warn!(?late, "this manager was held up; nodes are given that time");
            liveness.excuse(late);
        }
        while liveness.is_due() {
            // closed only at the end of the term
            let Ok(report) = reports.reserve().await else { return };
            liveness.judge(report);
        }
    }
}

#[cfg(test)]
mod tests {
    use malha_model::defaults;

    use super::*;

    fn said(reports: &mut mpsc::Receiver<Report>) -> Vec<String> {
        let name = |r: Report| format!("{r:?}").chars().take_while(|c| c.is_alphabetic()).collect();
        std::iter::from_fn(|| reports.try_recv().ok()).map(name).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_returns_while_the_verdict_waits_for_room_is_not_given_up() {
        let liveness = Arc::new(Liveness::default());
        let pace = Pace::of(&defaults::cluster_spec());
        let (sender, mut reports) = mpsc::channel(1);
        sender.send(Report::Silent("other".into())).await.unwrap();
        liveness.opened(&"n".into(), 1, pace);
        let judging = tokio::spawn(run(liveness.clone(), sender.clone()));
        sleep(pace.down() * 2).await;
        // no verdict has fallen: there was no room to say so
        assert!(!liveness.heard(&"n".into(), 1, pace));
        assert_eq!(said(&mut reports), ["Silent"]);
        sleep(Duration::from_millis(200)).await;
        assert_eq!(said(&mut reports), Vec::<String>::new());

        sleep(pace.silent() + TICK).await;
        assert_eq!(said(&mut reports), ["Silent"]);
        let mut up = false;
        liveness.if_serving(&"n".into(), 1, || up = true);
        assert!(!up, "a late word of its return does not raise it");
        assert!(liveness.heard(&"n".into(), 1, pace));
        liveness.if_serving(&"n".into(), 2, || up = true);
        assert!(!up, "another session");
        liveness.if_serving(&"n".into(), 1, || up = true);
        assert!(up);
        judging.abort();
    }
}
