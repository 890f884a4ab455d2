//! A lone manager: the same code as a group, without anybody to wait for.

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{Group, add, has, object};
use malha_consensus::{Leadership, StorageError, UpdateError};
use malha_kit::Rng;
use malha_store::Change;
use rand::Rng as _;
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_is_there_after_a_crash() {
    let mut group = Group::of(1, &["a"]).await;
    let a = group.get("a");
    for n in 0..50 {
        add(&a, &format!("n{n}")).await.unwrap();
    }
    let before = a.state().borrow().clone();
    group.crash("a").await;

    let start = Instant::now();
    let a = group.start("a").await;
    a.leadership().wait_for(Leadership::is_leader).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(200), "a lone member waits for nobody: {:?}", start.elapsed());
    assert_eq!(*a.state().borrow().clone(), *before);
    // asking again is harmless and changes nothing
    let index = a.bootstrap(vec![Change::Put(object("again"))]).await.unwrap();
    assert_eq!(index, before.index());
    assert!(!has(&a.state().borrow(), "again"));
}

#[tokio::test(start_paused = true)]
async fn a_plan_sees_the_newest_state_and_a_refused_or_empty_one_writes_nothing() {
    let group = Group::of(2, &["a"]).await;
    let a = group.get("a");
    let index = add(&a, "x").await.unwrap();
    assert_eq!(a.state().borrow().index(), index);
    let last = a.status().last_log;

    let seen = a.update(|tx| Ok::<_, String>(tx.nodes().count())).await.unwrap();
    assert_eq!(seen, (2, index));
    let refused = a
        .update(|tx| {
            tx.put(object("never"));
            Err::<(), _>("no".to_owned())
        })
        .await;
    assert_eq!(refused, Err(UpdateError::Rejected("no".to_owned())));
    assert_eq!(a.status().last_log, last);
    assert!(!has(&a.state().borrow(), "never"));
}

#[tokio::test(start_paused = true)]
async fn concurrent_updates_each_see_the_one_before() {
    let group = Group::of(3, &["a"]).await;
    let a = group.get("a");
    let mut running = Vec::new();
    for n in 0..100 {
        let a = a.clone();
        running.push(tokio::spawn(async move {
            let plan = move |tx: &mut malha_store::Tx| {
                let seen = tx.nodes().count();
                tx.put(object(&format!("n{n}")));
                Ok::<_, String>(seen)
            };
            a.update(plan).await.unwrap()
        }));
    }
    let mut by_index = BTreeMap::new();
    for task in running {
        let (seen, index) = task.await.unwrap();
        assert_eq!(by_index.insert(index, seen), None);
    }
    assert!(by_index.values().copied().eq(1..=100));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_leaves_no_gap_for_a_stale_plan() {
    let group = Group::of(4, &["a"]).await;
    let a = group.get("a");
    let counting = |name: &'static str| {
        move |tx: &mut malha_store::Tx| {
            let seen = tx.nodes().count();
            tx.put(object(name));
            Ok::<_, String>(seen)
        }
    };
    let given_up = tokio::time::timeout(Duration::from_micros(10), a.update(counting("one"))).await;
    assert!(given_up.is_err());
    let (seen, _) = a.update(counting("two")).await.unwrap();
    assert_eq!(seen, 2, "the first update counts although nobody waited for it");
    assert_eq!(a.state().borrow().nodes().count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_said_and_recovered_from() {
    let group = Group::of(5, &["a"]).await;
    let a = group.get("a");
    let disk = group.machines["a"].disk.clone();
    add(&a, "before").await.unwrap();
    disk.set_full(true);
    let first = add(&a, "during").await;
    assert!(matches!(first, Err(UpdateError::Storage { error: StorageError::DiskFull { .. }, proposed: true })));
    let second = add(&a, "refused").await;
    assert!(matches!(second, Err(UpdateError::Storage { error: StorageError::DiskFull { .. }, proposed: false })));
    assert!(!has(&a.state().borrow(), "during"), "what is not on disk is not in the state");
    assert!(a.status().disk.is_some());

    disk.set_full(false);
    sleep(Duration::from_secs(2)).await;
    assert!(a.status().disk.is_none());
    add(&a, "after").await.unwrap();
    let state = a.state().borrow().clone();
    assert!(has(&state, "before") && has(&state, "during") && has(&state, "after") && !has(&state, "refused"));
}

#[tokio::test(start_paused = true)]
async fn the_log_is_cut_behind_snapshots_and_a_restart_uses_them() {
    let mut group = Group::new(6);
    group.snapshot_every = 50;
    let a = group.start("a").await;
    a.bootstrap(vec![Change::Put(object("first"))]).await.unwrap();
    for n in 0..200 {
        add(&a, &format!("n{n}")).await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    let status = a.status();
    assert!(status.snapshot >= 150 && status.purged >= 100, "{status:?}");
    add(&a, "last").await.unwrap();
    assert!(group.machines["a"].disk.durable().log.len() <= 110);
    let before = a.state().borrow().clone();
    a.shutdown().await;
    assert_eq!(add(&a, "late").await, Err(UpdateError::Stopped));

    let a = group.start("a").await;
    a.leadership().wait_for(Leadership::is_leader).await.unwrap();
    assert_eq!(*a.state().borrow().clone(), *before);
}

#[tokio::test(start_paused = true)]
async fn a_plan_of_another_term_or_on_another_state_changes_nothing() {
    let group = Group::of(1, &["a"]).await;
    let a = group.get("a");
    let before = a.state().borrow().clone();
    let term = a.status().term;
    let put = |name: &str| vec![Change::Put(object(name))];
    for (term, base) in [(term - 1, before.index()), (term + 1, before.index()), (term, before.index() - 1)] {
        assert!(!a.propose_as_planned(term, base, put("stale")).await.unwrap());
    }
    assert_eq!(**a.state().borrow(), *before);
    // what was refused does not make the next plan stale
    assert!(a.propose_as_planned(term, before.index(), put("good")).await.unwrap());
    assert!(has(&a.state().borrow(), "good") && !has(&a.state().borrow(), "stale"));
    // and the twin of an applied entry is stale
    assert!(!a.propose_as_planned(term, before.index(), put("twin")).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn garbage_from_another_member_does_no_harm() {
    let group = Group::of(1, &["a"]).await;
    let a = group.get("a");
    let mut rng = Rng::from_seed(1);
    for length in 0..300 {
        let garbage: Vec<u8> = (0..length).map(|_| rng.random_range(0..=u8::MAX)).collect();
        let answer = a.handle(&garbage).await;
        assert!(String::from_utf8_lossy(&answer).contains("Failed"), "{answer:?}");
    }
    add(&a, "after").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_change_that_no_message_could_hold_is_refused_and_holds_nothing_up() {
    let group = Group::of(9, &["a"]).await;
    let a = group.get("a");
    let huge = add(&a, &"x".repeat(33 << 20)).await;
    assert!(matches!(huge, Err(UpdateError::TooLarge { .. })), "{:?}", huge.map_err(|e| e.to_string()));
    add(&a, &"y".repeat(4 << 20)).await.unwrap();
}
