//! `docker events` of the swarm: each manager tells what becomes of its own copy of the state.
//!
//! The copy goes on whether somebody looks or not. States wait in a bounded channel, and where that overflows, what was
//! missed shows in the next one. What the log says of the time before this manager started is no news.

use std::{sync::Arc, time::Duration};

use malha_api::backend::Event;
use malha_consensus::{Consensus, Member, Observer, Reachability};
use malha_kit::SharedClock;
use malha_model::Timestamp;
use malha_store::State;
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::{MissedTickBehavior, interval},
};

use super::{
    SwarmDeps,
    changes::{self, Standing, Standings},
};
use crate::node::events::EventLog;

/// States that may wait.
const CAPACITY: usize = 64;
/// How often it is asked who leads and who can be reached, which is no part of the state.
const LOOK: Duration = Duration::from_secs(1);

/// Every state of this node's manager, as it is applied.
pub(super) struct Feed(broadcast::Sender<Arc<State>>);

/// What was told of last.
pub(super) struct Follower {
    states: broadcast::Receiver<Arc<State>>,
    consensus: Consensus,
    log: Arc<EventLog>,
    clock: SharedClock,
    /// What is older is not told, until the log has been gone through.
    since: Timestamp,
    /// It has been: the states have reached that time, or a leader has been known for a while.
    present: bool,
    state: Arc<State>,
    managers: Standings,
    /// This manager led at the last look.
    led: bool,
}

impl Feed {
    pub(super) fn new() -> Self {
        Self(broadcast::channel(CAPACITY).0)
    }

    pub(super) fn observer(&self) -> Observer {
        let states = self.0.clone();
        Arc::new(move |state: &Arc<State>| {
            // Nobody following is fine.
            let _ = states.send(state.clone());
        })
    }

    /// Begins at the state that is there by now.
    pub(super) fn follow(self, consensus: &Consensus, deps: &SwarmDeps, since: Timestamp) -> Follower {
        let states = self.0.subscribe();
        let state = consensus.state().borrow().clone();
        Follower {
            states,
            consensus: consensus.clone(),
            log: deps.events.clone(),
            clock: deps.clock.clone(),
            since,
            present: since.is_zero(),
            state,
            managers: Standings::new(),
            led: false,
        }
    }
}

impl Follower {
    pub(super) async fn run(mut self) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                state = self.states.recv() => match state {
                    Ok(state) => self.move_to(state),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                _ = look.tick() => self.look_at_managers(),
            }
        }
    }

    fn move_to(&mut self, state: Arc<State>) {
        // Between the subscription and the first look.
        if state.index() <= self.state.index() {
            return;
        }
        // A manager that is new, or was away, goes through the log first: a removal in there is of old.
        let undated = if self.present { self.clock.now() } else { Timestamp::ZERO };
        self.tell(changes::between(&self.state, &state, undated));
        self.state = state;
    }

    fn look_at_managers(&mut self) {
        let leads = self.consensus.leadership().borrow().is_leader();
        // One that has just begun to lead has yet to hear from the others.
        let knows = std::mem::replace(&mut self.led, leads) && leads;
        let members: Vec<Member> = self.consensus.members().into_iter().filter(|m| m.voter).collect();
        // While nobody leads, nobody can say.
        if !members.iter().any(|m| m.leader) {
            return;
        }
        let standing = |m: Member| {
            let reachability = if knows { m.reachability } else { Reachability::Unknown };
            (m.node, Standing { leader: m.leader, reachability })
        };
        let managers: Standings = members.into_iter().map(standing).collect();
        // With a leader that was there a look ago, the log has been gone through.
        self.present |= !self.managers.is_empty();
        self.tell(changes::of_managers(&self.state, &self.managers, &managers, self.clock.now()));
        self.managers = managers;
    }

    fn tell(&mut self, events: Vec<Event>) {
        for event in events {
            // Times are the leader's, whose clock may be behind: once the log has been gone through, all of it is news.
            self.present |= event.time >= self.since;
            if self.present {
                self.log.push(event);
            }
        }
    }
}
