//! How this node stands in its swarm. What is wrong is told to whoever asks, to the log and to the service manager; what
//! can be done about it is done.
//!
//! - A node that was removed stops being a manager and says so; its containers run until it leaves.
//! - A manager whose disk failed is started again from what the disk holds, as soon as that can be read and written.

use std::{sync::Arc, time::Duration};

use malha_agent::Link;
use malha_api::{backend::LocalState, errors};
use malha_consensus::Leadership;
use malha_kit::Backoff;
use sd_notify::NotifyState;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{
    member::Member,
    role::{Managing, Opening},
};

/// How often a manager is looked at.
const LOOK: Duration = Duration::from_millis(500);
const RESTART_FIRST: Duration = Duration::from_secs(2);
const RESTART_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Health {
    pub(super) state: LocalState,
    /// Empty while all is well.
    pub(super) error: String,
    /// On a manager: there is somebody to ask about the swarm.
    pub(super) leader_known: bool,
}

impl Health {
    fn failed(error: String) -> Self {
        Self { state: LocalState::Error, error, leader_known: false }
    }
}

impl Member {
    pub(super) fn health(&self) -> Health {
        let link = self.agent.link().borrow().clone();
        if let Link::Refused { error } = link {
            return Health::failed(error);
        }
        if let Some(why) = self.failed.load_full() {
            return Health::failed((*why).clone());
        }
        let session = match link {
            Link::Connecting { error } => error.unwrap_or_default(),
            Link::Connected { .. } | Link::Refused { .. } => String::new(),
        };
        let active = |error, leader_known| Health { state: LocalState::Active, error, leader_known };
        let Some(managing) = self.managing.load_full() else { return active(session, false) };
        let leader_known = *managing.consensus.leadership().borrow() != Leadership::NoLeader;
        let disk = managing.consensus.disk_health().borrow().as_ref().map(ToString::to_string);
        let error = match disk {
            Some(disk) => disk,
            None if !leader_known && managing.consensus.is_member() => errors::no_leader().message,
            None => session,
        };
        active(error, leader_known)
    }

    /// The swarm does not know this node any more.
    pub(super) fn is_removed(&self) -> bool {
        matches!(*self.agent.link().borrow(), Link::Refused { .. })
    }

    pub(super) async fn follow_health(self: Arc<Self>) {
        let mut link = self.agent.link();
        let mut told = Health { state: LocalState::Active, ..Health::default() };
        let mut backoff = Backoff::new(RESTART_FIRST, RESTART_MAX, self.deps.rng.fork());
        let mut not_before = Instant::now();
        loop {
            tokio::select! {
                biased;
                changed = link.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK) => {}
            }
            let now = self.health();
            tell(&told, &now);
            told = now;
            if self.is_removed() {
                self.step_down().await;
            } else if !self.is_broken() {
                backoff.reset();
            } else if Instant::now() >= not_before {
                self.restart_manager().await;
                not_before = Instant::now() + backoff.next_pause();
            }
        }
    }

    fn is_broken(&self) -> bool {
        self.failed.load().is_some() || self.managing.load().as_ref().is_some_and(|m| has_stopped(m))
    }

    /// A node that was removed has no seat among the managers either.
    async fn step_down(&self) {
        let _one = self.role_change.lock().await;
        self.failed.store(None);
        self.stop_manager().await;
    }

    async fn restart_manager(&self) {
        let _one = self.role_change.lock().await;
        if let Some(managing) = self.managing.load_full().filter(|m| has_stopped(m)) {
            let why = managing.consensus.disk_health().borrow().as_ref().map(ToString::to_string);
            self.fail(why.unwrap_or_else(|| "this node's Raft member has stopped".to_owned()));
            drop(managing);
            self.stop_manager().await;
        }
        if self.failed.load().is_none() {
            return;
        }
        match self.start_manager(Opening::AfterFailure).await {
            Ok(()) => info!("the manager runs again"),
            Err(e) => self.fail(format!("{e:#}")),
        }
    }

    /// This node is to be a manager and cannot.
    pub(super) fn fail(&self, why: String) {
        let why = format!("this node's manager has stopped: {why}");
        if self.failed.load().as_deref() != Some(&why) {
            error!(error = %why, "containers run on; the manager is tried again");
        }
        self.failed.store(Some(Arc::new(why)));
    }
}

fn has_stopped(managing: &Managing) -> bool {
    managing.consensus.status().stopped
}

/// Which manager could not be reached changes with every attempt: that is for the service manager, not for the log.
fn tell(told: &Health, now: &Health) {
    if (told.state, told.error.is_empty()) != (now.state, now.error.is_empty()) {
        if now.error.is_empty() {
            info!("the node takes part in its swarm");
        } else {
            warn!(error = now.error, state = ?now.state, "something is wrong with the node's part in its swarm");
        }
    }
    if told.error != now.error {
        let status = if now.error.is_empty() { String::new() } else { format!("Swarm: {}", now.error) };
        // Without a service manager nobody is there to be told.
        let _ = sd_notify::notify(&[NotifyState::Status(&status)]);
    }
}
