//! A persistent one-to-many index: `(key, id)` pairs in order.

use std::ops::Bound;

use rpds::RedBlackTreeSetSync;

#[derive(Clone, Debug)]
pub(crate) struct Index<K: Ord, I: Ord>(RedBlackTreeSetSync<(K, I)>);

impl<K: Ord, I: Ord> Default for Index<K, I> {
    fn default() -> Self {
        Self(RedBlackTreeSetSync::new_sync())
    }
}

impl<K: Ord + Clone, I: Ord + Clone + Default> Index<K, I> {
    pub(crate) fn insert(&mut self, key: K, id: I) {
        self.0.insert_mut((key, id));
    }

    pub(crate) fn remove(&mut self, key: K, id: I) {
        self.0.remove_mut(&(key, id));
    }

    /// Ids under `key`, ascending.
    pub(crate) fn of<'a>(&'a self, key: &K) -> impl Iterator<Item = &'a I> + use<'a, K, I> {
        let key = key.clone();
        // The default id is the empty one, which sorts before every other.
        let start = (key.clone(), I::default());
        self.0
            .range((Bound::Included(start), Bound::<(K, I)>::Unbounded))
            .take_while(move |(k, _)| *k == key)
            .map(|(_, id)| id)
    }
}
