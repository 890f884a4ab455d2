//! What happened lately, on this machine and in its swarm, and what happens.

use std::collections::VecDeque;

use futures::{StreamExt, stream};
use malha_api::backend::{Event, EventStream};
use malha_model::Timestamp;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

/// Events that are remembered, as many as Docker does.
const REMEMBERED: usize = 256;
/// Events that a reader may fall behind; what is older it misses, and nobody waits for it.
const CAPACITY: usize = 1024;

pub(crate) struct EventLog {
    past: Mutex<VecDeque<Event>>,
    live: broadcast::Sender<Event>,
}

impl EventLog {
    pub(crate) fn new() -> Self {
        Self { past: Mutex::default(), live: broadcast::channel(CAPACITY).0 }
    }

    pub(crate) fn push(&self, event: Event) {
        let mut past = self.past.lock();
        if past.len() == REMEMBERED {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Nobody listening is fine.
        let _ = self.live.send(event);
    }

    /// What is remembered since then, by its time: not everything is heard of in the order in which it happened. Then what
    /// happens.
    pub(crate) fn stream(&self, since: Option<Timestamp>) -> EventStream {
        let past = self.past.lock();
        let live = BroadcastStream::new(self.live.subscribe()).filter_map(|e| async { e.ok() });
        let mut remembered: Vec<Event> = match since {
            Some(since) => past.iter().filter(|e| e.time >= since).cloned().collect(),
            None => Vec::new(),
        };
        drop(past);
        remembered.sort_by_key(|e| e.time);
        stream::iter(remembered).chain(live).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: i64) -> Event {
        Event { time: Timestamp(n), ..Event::default() }
    }

    #[tokio::test]
    async fn the_past_is_told_by_its_time_and_then_the_present() {
        let log = EventLog::new();
        for n in [1, 5, 3] {
            log.push(at(n));
        }
        let (replayed, live) = (log.stream(Some(Timestamp(2))), log.stream(None));
        log.push(at(4));
        let times = |stream: EventStream, n| stream.take(n).map(|e| e.time.0).collect::<Vec<_>>();
        assert_eq!(times(replayed, 3).await, [3, 5, 4]);
        assert_eq!(times(live, 1).await, [4]);
    }

    #[tokio::test]
    async fn a_reader_that_is_slow_misses_events_and_holds_nothing_up() {
        let log = EventLog::new();
        let slow = log.stream(None);
        let last = i64::try_from(2 * CAPACITY).unwrap();
        for n in 1..=last {
            log.push(at(n));
        }
        let seen: Vec<i64> = slow.take(CAPACITY).map(|e| e.time.0).collect().await;
        assert_eq!(seen.last(), Some(&last));
        let remembered: Vec<Event> = log.stream(Some(Timestamp::ZERO)).take(REMEMBERED).collect().await;
        assert_eq!((remembered.len(), remembered[REMEMBERED - 1].time.0), (REMEMBERED, last));
    }
}
