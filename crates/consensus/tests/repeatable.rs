//! One seed, one story: every message of two runs is the same, at the same time.

#![allow(clippy::unwrap_used, reason = "helpers may panic as tests do")]

mod common;

use std::time::Duration;

use common::{Group, add};
use tokio::time::sleep;

async fn story(seed: u64) -> Vec<String> {
    let mut group = Group::of(seed, &["a", "b", "c"]).await;
    for round in 0..4 {
        let (name, leader) = group.leader().await;
        for n in 0..5 {
            add(&leader, &format!("r{round}n{n}")).await.unwrap();
        }
        group.hub.note(format!("{name} led in term {}", leader.status().term));
        group.crash(&name).await;
        sleep(Duration::from_secs(2)).await;
        group.start(&name).await;
    }
    let state = group.settle().await;
    group.hub.note(format!("in the end {} objects at {}", state.nodes().count(), state.index()));
    std::mem::take(&mut *group.hub.trace.lock())
}

fn run(seed: u64) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(story(seed))
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let (one, again, other) = (run(7), run(7), run(8));
    assert!(one.iter().any(|line| line.contains("led in term")));
    for (n, (left, right)) in one.iter().zip(&again).enumerate() {
        assert_eq!(left, right, "line {n} of {}", one.len());
    }
    assert_eq!(one.len(), again.len());
    assert_ne!(one, other);
}
