//! One session after another with whoever leads.
//!
//! Losing a session costs the node nothing: it only looks for the next manager. Both ends hear from each other at least
//! once per heartbeat, so a peer that vanished without a word is noticed within a few of them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use malha_kit::{Backoff, Rng, watch};
use malha_model::{AgentMessage, ApiError, Code, ManagerMessage, NodeId, Role};
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
        let description = self.executor.description().await;
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
        loop {
            let next = tokio::select! {
                biased;
                message = rx.recv() => {
                    heard = Instant::now();
                    match message {
                        Some(ManagerMessage::Redirect { leader, managers }) => {
                            self.learn(managers);
                            return Ended::Redirected(addr.to_owned(), leader);
                        }
                        Some(message) => self.take(message).await,
                        None => return Ended::Lost(addr.to_owned()),
                    }
                    continue;
                }
                () = renew.notified() => return Ended::Renewed,
                _ = beat.tick() => {
                    if heard.elapsed() > patience {
                        return Ended::Silent(addr.to_owned());
                    }
                    vec![AgentMessage::Heartbeat]
                }
                () = outbox.filled() => {
                    sleep(GATHER).await;
                    outbox.take()
                }
                Some(lines) = self.logs.recv() => vec![lines],
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
