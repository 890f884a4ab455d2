//! One session after another with whoever leads.
//!
//! Losing a session costs the node nothing: it only looks for the next manager. Both ends hear from each other at least
//! once per heartbeat, so a peer that vanished without a word is noticed within a few of them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use malha_kit::{Backoff, Rng, watch};
use malha_model::{AgentMessage, ApiError, Code, ManagerMessage, NodeDescription, NodeId, Role};
use malha_wire::{ConnectError, Connector, Duplex};
use rand::Rng as _;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};
use tracing::{debug, info, warn};

use crate::{agent::Link, core::Event, executor::Executor, reporter::Outbox};

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Between attempts of a node that was removed from the swarm.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);
/// For a manager to take the connection and say its first word.
const GREETING: Duration = Duration::from_secs(2);
/// Redirects that are followed at once; more of them are managers that do not agree yet.
const HOPS: u32 = 3;
/// Unanswered heartbeats after which a manager counts as gone.
const MISSED: u32 = 4;
/// Statuses that follow each other this closely travel together.
const GATHER: Duration = Duration::from_millis(2);

pub(crate) struct Session {
    pub data_path_addr: IpAddr,
    pub executor: Arc<dyn Executor>,
    /// What the node says of itself, once it has been looked at.
    pub description: watch::Receiver<Option<NodeDescription>>,
    pub connector: Arc<dyn Connector>,
    pub outbox: Arc<Outbox>,
    pub events: mpsc::Sender<Event>,
    pub logs: mpsc::Receiver<AgentMessage>,
    pub managers: watch::Sender<BTreeMap<NodeId, String>>,
    /// Addresses to try besides the managers that were heard of.
    pub seeds: watch::Receiver<Vec<String>>,
    pub role: watch::Sender<Option<Role>>,
    pub link: watch::Sender<Link>,
    /// Notified when the session is to be made anew.
    pub renew: Arc<Notify>,
    pub rng: Rng,
}

#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Refused(#[from] ApiError),
    #[error("{0} does not lead")]
    Redirected(String, Option<String>),
    #[error("no answer from {0}")]
    Silent(String),
    #[error("the session with {0} ended")]
    Lost(String),
    #[error("made anew")]
    Renewed,
    #[error("{0} began with something else than a welcome")]
    Protocol(String),
}

/// What a session does next.
enum Turn {
    Beat,
    Hear(Option<ManagerMessage>),
    Speak,
    Lines(AgentMessage),
    Described,
}

impl Ended {
    /// Managers refuse a session only where the node is not of their swarm (any more).
    fn is_removal(&self) -> bool {
        matches!(self, Self::Refused(e) if matches!(e.code, Code::PermissionDenied | Code::NotFound))
    }
}

impl Session {
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX, self.rng.clone());
        let mut cursor: usize = self.rng.random_range(0..1024);
        let mut hint = None;
        let mut hops = 0;
        loop {
            let Some(addr) = hint.take().or_else(|| self.candidate(&mut cursor)) else {
                tokio::select! {
                    biased;
                    changed = self.seeds.changed() => if changed.is_err() { std::future::pending::<()>().await },
                    () = sleep(RETRY_MAX) => {}
                }
                continue;
            };
            let ended = self.attempt(&addr).await;
            if let Link::Connected { .. } = &*self.link.borrow() {
                info!(manager = addr, %ended, "session over");
                backoff.reset();
                hops = 0;
            } else {
                debug!(manager = addr, %ended, "no session");
            }
            if matches!(ended, Ended::Connect(ConnectError::Untrusted { .. })) {
                warn!(error = %ended, "refusing a manager");
            }
            if ended.is_removal() {
                self.refused(&ended);
                sleep(REFUSED_PAUSE).await;
                continue;
            }
            let error = (!matches!(ended, Ended::Renewed)).then(|| ended.to_string());
            self.link.send_replace(Link::Connecting { error });
            if let Ended::Redirected(_, Some(leader)) = ended
                && hops < HOPS
            {
                hops += 1;
                hint = Some(leader);
                continue;
            }
            hops = 0;
            sleep(backoff.next_pause()).await;
        }
    }

    fn refused(&self, ended: &Ended) {
        let now = Link::Refused { error: ended.to_string() };
        if self.link.send_replace(now.clone()) != now {
            warn!(error = %ended, "the managers do not know this node any more");
        }
    }

    /// Known managers and seeds in turn.
    fn candidate(&self, cursor: &mut usize) -> Option<String> {
        let mut all: Vec<String> = self.managers.borrow().values().cloned().collect();
        all.extend(self.seeds.borrow().iter().cloned());
        all.sort_unstable();
        all.dedup();
        *cursor = cursor.wrapping_add(1);
        (!all.is_empty()).then(|| all.swap_remove(*cursor % all.len()))
    }

    async fn attempt(&mut self, addr: &str) -> Ended {
        let (duplex, heartbeat) = match timeout(GREETING, self.greet(addr)).await {
            Ok(Ok(greeted)) => greeted,
            Ok(Err(ended)) => return ended,
            Err(_) => return Ended::Silent(addr.to_owned()),
        };
        info!(manager = addr, ?heartbeat, "session open");
        self.link.send_replace(Link::Connected { manager: addr.to_owned() });
        while self.logs.try_recv().is_ok() {} // lines for the session before
        // closed only where the agent itself ends
        self.events.send(Event::SessionStarted).await.ok();
        let ended = self.pump(addr, duplex, heartbeat).await;
        self.events.send(Event::SessionEnded).await.ok();
        ended
    }

    async fn greet(&mut self, addr: &str) -> Result<(Duplex<AgentMessage, ManagerMessage>, Duration), Ended> {
        let client = self.connector.connect(addr).await?;
        let mut duplex = client.session().await?;
        let known = self.description.borrow_and_update().clone();
        // a node that is busy may take longer to look at itself than a manager waits
        let description = match known {
            Some(known) => known,
            None => self.executor.description().await,
        };
        let hello = AgentMessage::Hello { description, data_path_addr: self.data_path_addr };
        duplex.tx.send(hello).await.map_err(|_| Ended::Lost(addr.to_owned()))?;
        match duplex.rx.recv().await {
            Some(ManagerMessage::Welcome { heartbeat, managers }) => {
                self.learn(managers);
                Ok((duplex, heartbeat.max(Duration::from_millis(10))))
            }
            Some(ManagerMessage::Redirect { leader, managers }) => {
                self.learn(managers);
                Err(Ended::Redirected(addr.to_owned(), leader))
            }
            Some(_) => Err(Ended::Protocol(addr.to_owned())),
            None => Err(Ended::Lost(addr.to_owned())),
        }
    }

    fn learn(&self, managers: BTreeMap<NodeId, String>) {
        if managers.is_empty() {
            return;
        }
        self.managers.send_if_modified(|known| {
            let fresh = *known != managers;
            *known = managers;
            fresh
        });
    }

    async fn pump(&mut self, addr: &str, duplex: Duplex<AgentMessage, ManagerMessage>, heartbeat: Duration) -> Ended {
        let Duplex { tx, mut rx } = duplex;
        let patience = heartbeat * MISSED;
        let mut beat = interval_at(Instant::now() + heartbeat, heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let (outbox, renew) = (self.outbox.clone(), self.renew.clone());
        let mut description = self.description.clone();
        // whatever comes in, the beat goes out; what is to be said and what comes in take turns
        let mut spoke = false;
        loop {
            let turn = tokio::select! {
                biased;
                () = renew.notified() => return Ended::Renewed,
                _ = beat.tick() => Turn::Beat,
                () = outbox.filled(), if !spoke => Turn::Speak,
                message = rx.recv() => Turn::Hear(message),
                () = outbox.filled() => Turn::Speak,
                Some(lines) = self.logs.recv() => Turn::Lines(lines),
                // closed only where the agent itself ends
                Ok(()) = description.changed() => Turn::Described,
            };
            spoke = matches!(turn, Turn::Speak);
            let next = match turn {
                Turn::Hear(None) => return Ended::Lost(addr.to_owned()),
                Turn::Hear(Some(ManagerMessage::Redirect { leader, managers })) => {
                    self.learn(managers);
                    return Ended::Redirected(addr.to_owned(), leader);
                }
                Turn::Hear(Some(message)) => {
                    heard = Instant::now();
                    self.take(message).await;
                    continue;
                }
                // what waits to be read was said in time
                Turn::Beat if heard.elapsed() > patience && rx.is_empty() => return Ended::Silent(addr.to_owned()),
                Turn::Beat => vec![AgentMessage::Heartbeat],
                Turn::Speak => {
                    sleep(GATHER).await;
                    outbox.take()
                }
                Turn::Lines(lines) => vec![lines],
                Turn::Described => {
                    let news = description.borrow_and_update().clone();
                    let data_path_addr = self.data_path_addr;
                    news.map(|description| AgentMessage::Hello { description, data_path_addr }).into_iter().collect()
                }
            };
            // a peer that takes nothing is as gone as one that says nothing
            for message in next {
                match timeout(patience, tx.send(message)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Ended::Lost(addr.to_owned()),
                    Err(_) => return Ended::Silent(addr.to_owned()),
                }
            }
        }
    }

    async fn take(&self, message: ManagerMessage) {
        match message {
            ManagerMessage::Managers(managers) => self.learn(managers),
            ManagerMessage::Role(role) => {
                self.role.send_replace(Some(role));
            }
            ManagerMessage::Alive | ManagerMessage::Welcome { .. } | ManagerMessage::Redirect { .. } => {}
            message => {
                self.events.send(Event::Message(message)).await.ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use malha_kit::Tasks;
    use malha_model::{NodeDescription, TaskState, TaskStatus};
    use malha_simnet::{Latency, SimNet};
    use malha_wire::Peer;

    use super::*;
    use crate::testing::ScriptedExecutor;

    fn session(events: mpsc::Sender<Event>, outbox: Arc<Outbox>) -> Session {
        let peer = Peer { node: "n".into(), role: Role::Worker, cluster: "c".into() };
        let net = SimNet::new(Latency::default(), Rng::from_seed(1));
        Session {
            data_path_addr: IpAddr::from([10, 9, 0, 1]),
            description: watch::channel(None).1,
            executor: Arc::new(ScriptedExecutor::new("n".into(), NodeDescription::default())),
            connector: Arc::new(net.connector(peer)),
            outbox,
            events,
            logs: mpsc::channel(1).1,
            managers: watch::channel(BTreeMap::new()).0,
            seeds: watch::channel(Vec::new()).1,
            role: watch::channel(None).0,
            link: watch::channel(Link::Connecting { error: None }).0,
            renew: Arc::default(),
            rng: Rng::from_seed(1),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_from_the_manager_holds_neither_heartbeats_nor_statuses_up() {
        let (events, mut taken) = mpsc::channel(1);
        let outbox = Arc::new(Outbox::default());
        let mut session = session(events, outbox.clone());
        let (to_agent, rx) = mpsc::channel(10_000);
        let (tx, mut said) = mpsc::channel(100);
        for _ in 0..10_000 {
            to_agent.try_send(ManagerMessage::LogMore { subscription: 1 }).unwrap();
        }
        let tasks = Tasks::new();
        // what is heard takes a millisecond each
        tasks.spawn("core", async move {
            while taken.recv().await.is_some() {
                sleep(Duration::from_millis(1)).await;
            }
        });
        tasks.spawn("pump", async move {
            session.pump("m", Duplex { tx, rx }, Duration::from_millis(500)).await;
        });
        sleep(Duration::from_millis(100)).await;
        outbox.status("t".into(), TaskStatus { state: TaskState::Failed, ..TaskStatus::default() });
        sleep(Duration::from_millis(20)).await;
        assert!(matches!(said.try_recv(), Ok(AgentMessage::TaskStatus(_))));
        sleep(Duration::from_millis(2000)).await;
        let beats = std::iter::from_fn(|| said.try_recv().ok()).filter(|m| *m == AgentMessage::Heartbeat).count();
        assert_eq!(beats, 4);
        tasks.shutdown().await;
        drop(to_agent);
    }
}
