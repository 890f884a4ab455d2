//! The last value, for many readers: tokio's `watch`, waking readers in the order in which they began to wait.
//!
//! tokio spreads the readers of one channel over eight lists at random, so that two of them wake in an order that no
//! seed of ours repeats. This one is used where a simulated cluster must repeat. Same names, same meaning.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

/// A channel that holds `value`.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

pub struct Sender<T>(Arc<Channel<T>>);

pub struct Receiver<T> {
    channel: Arc<Channel<T>>,
    seen: u64,
}

/// A look at the value. Nobody can send while it lives.
pub struct Ref<'a, T> {
    slot: RwLockReadGuard<'a, Slot<T>>,
    changed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody receives")]
pub struct SendError<T>(pub T);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody sends any more")]
pub struct RecvError(());

struct Channel<T> {
    slot: RwLock<Slot<T>>,
    changed: Notify,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    /// No receiver is left.
    abandoned: Notify,
}

struct Slot<T> {
    value: T,
    version: u64,
    closed: bool,
}

impl<T> Channel<T> {
    fn read(&self) -> RwLockReadGuard<'_, Slot<T>> {
        self.slot.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Slot<T>> {
        self.slot.write().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Sender ===

impl<T> Sender<T> {
    pub fn new(value: T) -> Self {
        Self(Arc::new(Channel {
            slot: RwLock::new(Slot { value, version: 0, closed: false }),
            changed: Notify::new(),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(0),
            abandoned: Notify::new(),
        }))
    }

    /// Sends `value`, unless nobody receives.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.receiver_count() == 0 {
            return Err(SendError(value));
        }
        self.send_replace(value);
        Ok(())
    }

    /// Sends `value` whether somebody receives or not; returns the one before.
    pub fn send_replace(&self, mut value: T) -> T {
        self.send_modify(|held| std::mem::swap(held, &mut value));
        value
    }

    pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            modify(value);
            true
        });
    }

    /// Changes the value in place; readers learn of it when `modify` says so.
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let modified = {
            let mut slot = self.0.write();
            let modified = modify(&mut slot.value);
            slot.version += u64::from(modified);
            modified
        };
        if modified {
            self.0.changed.notify_waiters();
        }
        modified
    }

    pub fn borrow(&self) -> Ref<'_, T> {
        Ref { slot: self.0.read(), changed: false }
    }

    /// A receiver that has seen the present value.
    pub fn subscribe(&self) -> Receiver<T> {
        self.0.receivers.fetch_add(1, Ordering::AcqRel);
        let seen = self.0.read().version;
        Receiver { channel: self.0.clone(), seen }
    }

    pub fn receiver_count(&self) -> usize {
        self.0.receivers.load(Ordering::Acquire)
    }

    pub fn is_closed(&self) -> bool {
        self.receiver_count() == 0
    }

    /// Waits until nobody receives.
    pub async fn closed(&self) {
        loop {
            let abandoned = self.0.abandoned.notified();
            if self.is_closed() {
                return;
            }
            abandoned.await;
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::AcqRel);
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.write().closed = true;
            self.0.changed.notify_waiters();
        }
    }
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

// === impl Receiver ===

impl<T> Receiver<T> {
    pub fn borrow(&self) -> Ref<'_, T> {
        let slot = self.channel.read();
        let changed = slot.version != self.seen;
        Ref { slot, changed }
    }

    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let slot = self.channel.read();
        let changed = slot.version != self.seen;
        self.seen = slot.version;
        Ref { slot, changed }
    }

    /// Whether there is a value that was not seen yet.
    pub fn has_changed(&self) -> Result<bool, RecvError> {
        let slot = self.channel.read();
        if slot.closed { Err(RecvError(())) } else { Ok(slot.version != self.seen) }
    }

    pub fn mark_changed(&mut self) {
        self.seen = self.channel.read().version.wrapping_sub(1);
    }

    pub fn mark_unchanged(&mut self) {
        self.seen = self.channel.read().version;
    }

    /// Waits for a value that was not seen yet, and takes it as seen.
    pub async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            // from here on nothing is missed
            let changed = self.channel.changed.notified();
            {
                let slot = self.channel.read();
                if slot.version != self.seen {
                    self.seen = slot.version;
                    return Ok(());
                }
                if slot.closed {
                    return Err(RecvError(()));
                }
            }
            changed.await;
        }
    }

    /// Waits until the value is as wanted; looks at the present one first.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Result<Ref<'_, T>, RecvError> {
        let mut closed = false;
        loop {
            let found = wanted(&self.borrow_and_update());
            if found {
                break;
            }
            if closed {
                return Err(RecvError(()));
            }
            // the last value counts even if its sender is gone
            closed = self.changed().await.is_err();
        }
        Ok(self.borrow())
    }

    pub fn same_channel(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.channel, &other.channel)
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.channel.receivers.fetch_add(1, Ordering::AcqRel);
        Self { channel: self.channel.clone(), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if self.channel.receivers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.channel.abandoned.notify_waiters();
        }
    }
}

impl<T> Ref<'_, T> {
    /// Whether the value was new to the receiver.
    pub fn has_changed(&self) -> bool {
        self.changed
    }
}

impl<T> Deref for Ref<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.slot.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Ref<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: fmt::Debug> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&*self.borrow()).finish()
    }
}

impl<T: fmt::Debug> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receiver").field(&*self.borrow()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn readers_wake_in_the_order_in_which_they_wait() {
        let (sender, receiver) = channel(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        let readers: Vec<_> = (0..40)
            .map(|n| {
                let (mut receiver, order) = (receiver.clone(), order.clone());
                tokio::spawn(async move {
                    while receiver.changed().await.is_ok() {
                        order.lock().unwrap().push(n);
                    }
                })
            })
            .collect();
        for round in 1..=20 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            sender.send(round).unwrap();
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        drop(sender);
        for reader in readers {
            reader.await.unwrap();
        }
        let expected: Vec<_> = (0..20).flat_map(|_| 0..40).collect();
        assert_eq!(*order.lock().unwrap(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_value_is_seen_and_the_end_is_told() {
        let (sender, mut receiver) = channel(1);
        assert_eq!(receiver.has_changed(), Ok(false));
        sender.send(2).unwrap();
        sender.send(3).unwrap();
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(*receiver.borrow(), 3);
        assert!(!sender.send_if_modified(|_| false));
        assert_eq!(sender.send_replace(4), 3);
        drop(sender);
        assert_eq!(receiver.wait_for(|v| *v == 4).await.map(|v| *v), Ok(4));
        assert!(receiver.wait_for(|v| *v == 5).await.is_err());
        assert!(receiver.changed().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_learns_that_nobody_receives() {
        let (sender, receiver) = channel(1);
        let other = sender.clone();
        let waiting = tokio::spawn(async move { other.closed().await });
        drop(receiver);
        waiting.await.unwrap();
        assert_eq!(sender.send(2), Err(SendError(2)));
        assert_eq!(*sender.subscribe().borrow(), 1);
    }
}
