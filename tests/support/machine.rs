//! The machine that all tests share: who has it to itself, and how long it stood still.

use std::{
    cell::Cell,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Clusters that stand, and whether one of them must not be disturbed.
#[derive(Default)]
struct Standing {
    shared: usize,
    alone: bool,
}

static STANDING: Mutex<Standing> = Mutex::new(Standing { shared: 0, alone: false });
static CHANGED: Condvar = Condvar::new();

thread_local! {
    /// Holds of this test: one with two clusters does not wait for itself.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// A part of the machine, for as long as it lives.
pub(crate) struct Share {
    alone: bool,
}

/// Among other tests; waits while one has the machine to itself.
pub(crate) fn share() -> Share {
    take(false)
}

/// To itself: what is held to a limit in seconds must not be measured against another test's load.
pub(crate) fn alone() -> Share {
    take(true)
}

fn take(alone: bool) -> Share {
    if HELD.get() == 0 {
        let busy = |s: &mut Standing| s.alone || (alone && s.shared > 0);
        let standing = STANDING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut standing = CHANGED.wait_while(standing, busy).unwrap_or_else(PoisonError::into_inner);
        standing.alone = alone;
        standing.shared += usize::from(!alone);
    }
    HELD.set(HELD.get() + 1);
    Share { alone }
}

impl Drop for Share {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
        if HELD.get() == 0 {
            let mut standing = STANDING.lock().unwrap_or_else(PoisonError::into_inner);
            standing.alone = false;
            standing.shared -= usize::from(!self.alone);
            CHANGED.notify_all();
        }
    }
}

/// Time in which not even a thread that only sleeps was run: a virtual machine that its host stopped, for one. What is
/// held to a limit gets that time on top.
pub(crate) struct Stalls {
    lost: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

const TICK: Duration = Duration::from_millis(10);

impl Stalls {
    pub(crate) fn watch() -> Self {
        let (lost, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (sum, end) = (lost.clone(), over.clone());
        let watcher = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let began = Instant::now();
                std::thread::sleep(TICK);
                let late = began.elapsed().saturating_sub(TICK * 5);
                sum.fetch_add(u64::try_from(late.as_micros()).unwrap(), Ordering::Relaxed);
            }
        });
        Self { lost, over, watcher: Some(watcher) }
    }

    pub(crate) fn lost(&self) -> Duration {
        Duration::from_micros(self.lost.load(Ordering::Relaxed))
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}
