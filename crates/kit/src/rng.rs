//! The one source of randomness of a node.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::{RngCore, SeedableRng, rngs::SmallRng};

/// A shared generator: seeded from the operating system in production, from a number in simulation.
/// Not for key material; that comes from `ring`.
#[derive(Clone, Debug)]
pub struct Rng(Arc<Mutex<SmallRng>>);

impl Rng {
    pub fn from_os() -> Self {
        Self(Arc::new(Mutex::new(SmallRng::from_os_rng())))
    }

    pub fn from_seed(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(SmallRng::seed_from_u64(seed))))
    }

    /// An independent generator whose draws follow from this one's.
    pub fn fork(&self) -> Self {
        Self::from_seed(self.lock().next_u64())
    }

    fn lock(&self) -> MutexGuard<'_, SmallRng> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RngCore for Rng {
    fn next_u32(&mut self) -> u32 {
        self.lock().next_u32()
    }
    fn next_u64(&mut self) -> u64 {
        self.lock().next_u64()
    }
    fn fill_bytes(&mut self, dst: &mut [u8]) {
        self.lock().fill_bytes(dst);
    }
}
