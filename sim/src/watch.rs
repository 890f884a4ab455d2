//! Looks at every state that any manager applies, at the moment it does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use malha_consensus::{SimStorage, Storage};
use malha_kit::Rng;
use malha_model::NodeId;
use malha_simcluster::Hooks;
use malha_simnet::SimConnector;
use malha_store::State;
use malha_wire::Connector;
use parking_lot::Mutex;

use crate::{
    Plant, Story,
    invariants::{self, Violation},
    ledger::Ledger,
    plant,
};

#[derive(Debug)]
pub(crate) struct Watch {
    pub story: Story,
    plant: Option<Plant>,
    rng: Rng,
    /// A planted disk is a good one until the cluster stands.
    armed: Arc<AtomicBool>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Every state that was ever applied, by its log index.
    states: BTreeMap<u64, Arc<State>>,
    ledger: Ledger,
    violations: Vec<Violation>,
    /// Each kind of violation is told once: the first one is what matters.
    told: BTreeSet<&'static str>,
}

impl Watch {
    pub(crate) fn new(story: Story, plant: Option<Plant>, rng: Rng) -> Self {
        Self { story, plant, rng, armed: Arc::default(), seen: Mutex::default() }
    }

    /// The cluster stands: from now on the planted bug shows.
    pub(crate) fn arm(&self) {
        self.armed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn plant(&self) -> Option<Plant> {
        self.plant
    }

    /// Index of the newest state that anybody applied.
    pub(crate) fn newest(&self) -> u64 {
        self.seen.lock().states.last_key_value().map_or(0, |(index, _)| *index)
    }

    /// The state of `writes` writes ago.
    pub(crate) fn earlier(&self, writes: usize) -> Option<Arc<State>> {
        self.seen.lock().states.values().rev().nth(writes).cloned()
    }

    /// What was promised to users.
    pub(crate) fn ledger<R>(&self, note: impl FnOnce(&mut Ledger) -> R) -> R {
        note(&mut self.seen.lock().ledger)
    }

    pub(crate) fn violations(&self) -> Vec<Violation> {
        self.seen.lock().violations.clone()
    }

    pub(crate) fn is_violated(&self) -> bool {
        !self.seen.lock().violations.is_empty()
    }

    pub(crate) fn violated(&self, violation: Violation) {
        note(&mut self.seen.lock(), &self.story, violation);
    }
}

fn note(seen: &mut Seen, story: &Story, violation: Violation) {
    if seen.told.insert(violation.invariant) {
        story.tell(format_args!("VIOLATED {violation}"));
        seen.violations.push(violation);
    }
}

impl Hooks for Watch {
    fn applied(&self, node: &NodeId, state: &Arc<State>) {
        let mut seen = self.seen.lock();
        let seen = &mut *seen;
        let mut found = Vec::new();
        found.extend(invariants::acknowledged::check(&seen.ledger, state).err());
        if let Some(known) = seen.states.get(&state.index()) {
            found.extend(invariants::agreement::check(node, known, state).err());
        } else {
            let before = seen.states.range(..state.index()).next_back().map(|(_, s)| s.clone());
            found.extend(invariants::of_states(before.as_deref(), state));
            seen.states.insert(state.index(), state.clone());
        }
        for violation in found {
            note(seen, &self.story, violation);
        }
    }

    fn disk(&self, disk: SimStorage) -> Arc<dyn Storage> {
        match self.plant {
            Some(Plant::EarlyAck) => Arc::new(plant::EarlyAck::new(disk, self.armed.clone())),
            _ => Arc::new(disk),
        }
    }

    fn connector(&self, connector: SimConnector) -> Arc<dyn Connector> {
        match self.plant {
            Some(Plant::LostDelta) => Arc::new(plant::LostDelta::new(connector, self.rng.fork())),
            _ => Arc::new(connector),
        }
    }
}
