//! A view over a snapshot that reads its own writes.

use std::{collections::BTreeSet, ops::Deref};

use malha_model::{Kind, Meta, Object, Timestamp};

use crate::{Change, State};

/// Starts from a snapshot, is written to, and ends as the changes between the two. All of [`State`]'s read functions
/// work on it and see what was written.
#[derive(Clone, Debug)]
pub struct Tx {
    base: State,
    working: State,
    now: Timestamp,
    touched: BTreeSet<(Kind, String)>,
    writes: u64,
    /// How many objects may be touched in all.
    most: usize,
}

impl Tx {
    /// A transaction that leaves times as they are.
    pub fn new(state: &State) -> Self {
        Self::at(state, Timestamp::ZERO)
    }

    /// A transaction at `now`: what it creates and changes is stamped with that time.
    pub fn at(state: &State, now: Timestamp) -> Self {
        let (base, working) = (state.clone(), state.clone());
        Self { base, working, now, touched: BTreeSet::new(), writes: 0, most: usize::MAX }
    }

    /// The snapshot this started from.
    pub fn base(&self) -> &State {
        &self.base
    }

    /// Writes `object` whole. One that says nothing new is not written.
    pub fn put(&mut self, object: impl Into<Object>) {
        let mut object = object.into();
        if let Some(held) = self.working.object(object.kind(), object.id()) {
            *object.meta_mut() = *held.meta();
            if held == object {
                return;
            }
        } else if object.meta().created_at.is_zero() {
            object.meta_mut().created_at = self.now;
        }
        if !self.now.is_zero() {
            object.meta_mut().updated_at = self.now;
        }
        self.writes += 1;
        self.touched.insert((object.kind(), object.id().to_owned()));
        self.working.put(object);
    }

    pub fn delete(&mut self, kind: Kind, id: impl AsRef<str>) {
        let id = id.as_ref();
        if self.working.object(kind, id).is_some() {
            self.writes += 1;
            self.touched.insert((kind, id.to_owned()));
            self.working.delete(kind, id);
        }
    }

    /// How many writes said something new; grows only.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// From here on there is room for this many objects more. Nothing is refused beyond that: it is for the writer to ask.
    pub fn set_room(&mut self, objects: usize) {
        self.most = self.touched.len().saturating_add(objects);
    }

    /// How many objects more are to be touched at most.
    pub fn room(&self) -> usize {
        self.most.saturating_sub(self.touched.len())
    }

    /// What is left to do is for another transaction.
    pub fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// Every object that was written or deleted, by kind and id, those included that came back to where they started.
    pub fn touched(&self) -> impl Iterator<Item = (Kind, &str)> {
        self.touched.iter().map(|(kind, id)| (*kind, id.as_str()))
    }

    /// True while nothing was written.
    pub fn is_clean(&self) -> bool {
        self.touched.is_empty()
    }

    /// The last write of each object, by kind and id, without those that came back to where they started.
    pub fn changes(&self) -> Vec<Change> {
        let step = |(kind, id): (Kind, &str)| match (self.base.object(kind, id), self.working.object(kind, id)) {
            (None, None) => None,
            (Some(_), None) => Some(Change::Delete(kind, id.to_owned())),
            (Some(old), Some(new)) if same_but_meta(&old, &new) => None,
            (_, Some(new)) => Some(Change::Put(new)),
        };
        self.touched().filter_map(step).collect()
    }

    /// As [`Tx::changes`].
    pub fn into_changes(self) -> Vec<Change> {
        self.changes()
    }
}

fn same_but_meta(a: &Object, b: &Object) -> bool {
    let bare = |o: &Object| {
        let mut o = o.clone();
        *o.meta_mut() = Meta::default();
        o
    };
    bare(a) == bare(b)
}

impl Deref for Tx {
    type Target = State;
    fn deref(&self) -> &State {
        &self.working
    }
}
