//! Three managers: what one of them acknowledged, the others have.

mod common;

use std::time::Duration;

use common::{Group, add, follower_of, has, id};
use malha_consensus::{Leadership, MemberError, Reachability, UpdateError};
use tokio::time::{Instant, sleep};

const ABC: [&str; 3] = ["a", "b", "c"];

fn others(name: &str) -> Vec<&'static str> {
    ABC.into_iter().filter(|n| *n != name).collect()
}

#[tokio::test(start_paused = true)]
async fn a_lost_leader_is_replaced_in_time_and_catches_up_on_return() {
    for seed in 0..5 {
        let mut group = Group::of(100 + seed, &ABC).await;
        let (old, leader) = group.leader().await;
        for n in 0..20 {
            add(&leader, &format!("n{n}")).await.unwrap();
        }
        let old_term = leader.status().term;
        group.crash(&old).await;
        let start = Instant::now();
        let (_, leader) = group.leader_of(&others(&old)).await;
        assert!(start.elapsed() < Duration::from_millis(1900), "seed {seed}: {:?}", start.elapsed());
        assert!(leader.status().term > old_term);
        assert!((0..20).all(|n| has(&leader.state().borrow(), &format!("n{n}"))));
        add(&leader, "after").await.unwrap();
        group.start(&old).await;
        let state = group.settle().await;
        assert!(has(&state, "after"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_off_leader_acknowledges_nothing_and_says_so() {
    for seed in 0..5 {
        let group = Group::of(200 + seed, &ABC).await;
        let (old, cut_off) = group.leader().await;
        add(&cut_off, "before").await.unwrap();
        group.isolate(&[&old]);
        // still believes that it leads: the outcome is unknown
        let doomed = add(&cut_off, "doomed").await;
        assert_eq!(doomed, Err(UpdateError::Timeout), "seed {seed}");
        assert_eq!(*cut_off.leadership().borrow(), Leadership::NoLeader);
        assert_eq!(add(&cut_off, "refused").await, Err(UpdateError::NoQuorum));

        let (_, new) = group.leader_of(&others(&old)).await;
        add(&new, "during").await.unwrap();
        group.heal();
        let state = group.settle().await;
        assert!(has(&state, "before") && has(&state, "during"));
        assert!(!has(&state, "doomed") && !has(&state, "refused"));
        assert!(!has(&cut_off.state().borrow(), "doomed"));
    }
}

#[tokio::test(start_paused = true)]
async fn members_know_the_leader_and_forget_one_that_is_silent() {
    let group = Group::of(300, &ABC).await;
    let (name, leader) = group.leader().await;
    group.settle().await;
    sleep(Duration::from_millis(300)).await;
    for other in others(&name) {
        let follower = group.get(other);
        assert_eq!(follower_of(&follower.leadership().borrow()), Some(name.clone()));
        let refused = add(&follower, "x").await;
        assert!(matches!(refused, Err(UpdateError::NotLeader { leader: Some(l) }) if l.node.as_str() == name));
    }
    let members = leader.members();
    assert_eq!(members.len(), 3);
    assert!(members.iter().all(|m| m.voter && m.reachability == Reachability::Reachable));
    assert_eq!(members.iter().filter(|m| m.leader).count(), 1);

    // one follower alone: it forgets the leader, and the leader sees that it is gone
    let lonely = others(&name)[0];
    group.isolate(&[lonely]);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(*group.get(lonely).leadership().borrow(), Leadership::NoLeader);
    let seen = leader.members().into_iter().find(|m| m.node == id(lonely)).unwrap();
    assert_eq!(seen.reachability, Reachability::Unreachable);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_was_cut_off_does_not_disturb_the_leader_on_return() {
    for seed in 0..5 {
        let group = Group::of(400 + seed, &ABC).await;
        let (name, leader) = group.leader().await;
        let term = leader.status().term;
        let lonely = others(&name)[1];
        group.isolate(&[lonely]);
        sleep(Duration::from_secs(30)).await;
        add(&leader, "meanwhile").await.unwrap();
        assert_eq!(group.get(lonely).status().term, term, "asking first keeps the term");
        group.heal();
        let mut watch = leader.leadership();
        watch.mark_unchanged();
        let state = group.settle().await;
        assert!(has(&state, "meanwhile"));
        sleep(Duration::from_secs(5)).await;
        assert!(!watch.has_changed().unwrap(), "seed {seed}: the leader was disturbed");
        assert_eq!(leader.status().term, term);
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_manager_gets_a_snapshot() {
    let mut group = Group::new(500);
    group.snapshot_every = 40;
    let a = group.start("a").await;
    a.bootstrap(vec![malha_store::Change::Put(common::object("first"))]).await.unwrap();
    for n in 0..300 {
        add(&a, &format!("n{n}")).await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    assert!(a.status().purged > 200, "{:?}", a.status());
    let b = group.start("b").await;
    a.add_manager(id("b"), "b".to_owned()).await.unwrap();
    group.settle().await;
    assert_eq!(b.state().borrow().nodes().count(), 301);
    assert!(b.status().snapshot > 200, "{:?}", b.status());
    // and keeps it
    group.crash("b").await;
    let b = group.start("b").await;
    assert!(b.state().borrow().nodes().count() > 200);
    group.settle().await;
}

#[tokio::test(start_paused = true)]
async fn crashes_that_lose_unsynced_writes_lose_nothing_acknowledged() {
    for seed in 0..12 {
        let mut group = Group::of(600 + seed, &ABC).await;
        let mut acknowledged = Vec::new();
        for round in 0..6 {
            let (name, leader) = group.leader().await;
            let mut writers = Vec::new();
            for n in 0..8 {
                let leader = leader.clone();
                let object = format!("r{round}n{n}");
                writers.push(tokio::spawn(async move { add(&leader, &object).await.is_ok().then_some(object) }));
            }
            // in the midst of it: the leader loses power, or all do
            sleep(Duration::from_millis(30 + seed)).await;
            let victims: Vec<String> = if round % 2 == 0 { vec![name] } else { group.running() };
            for victim in &victims {
                group.crash(victim).await;
            }
            for writer in writers {
                acknowledged.extend(writer.await.unwrap());
            }
            for victim in &victims {
                group.start(victim).await;
            }
            group.settle().await;
        }
        let state = group.settle().await;
        for name in &acknowledged {
            assert!(has(&state, name), "seed {seed}: {name} was acknowledged and lost");
        }
        assert!(acknowledged.len() > 4, "seed {seed}: too little was written to prove anything");
    }
}

#[tokio::test(start_paused = true)]
async fn managers_come_and_go() {
    let mut group = Group::of(700, &ABC).await;
    let (name, leader) = group.leader().await;
    let gone = others(&name)[0];
    leader.remove_manager(&id(gone)).await.unwrap();
    assert_eq!(leader.members().len(), 2);
    assert_eq!(leader.remove_manager(&id(gone)).await, Err(MemberError::Unknown(id(gone))));
    add(&leader, "two").await.unwrap();
    group.crash(gone).await;

    // of two, none can go while the other is away
    let other = others(&name)[1];
    group.isolate(&[other]);
    sleep(Duration::from_millis(900)).await;
    assert!(leader.remove_manager(&id(&name)).await.is_err());
    group.heal();
    let (name, leader) = group.leader_of(&[&name, other]).await;
    sleep(Duration::from_secs(1)).await;

    // a leader removes itself; the one that stays goes on alone
    let stays = if name == other { others(gone).into_iter().find(|n| *n != other).unwrap() } else { other };
    leader.remove_manager(&id(&name)).await.unwrap();
    let (_, last) = group.leader_of(&[stays]).await;
    group.crash(&name).await;
    add(&last, "one").await.unwrap();
    assert_eq!(last.remove_manager(&id(stays)).await, Err(MemberError::LastManager));
    assert!(has(&last.state().borrow(), "two"));
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over_without_an_election_timeout() {
    let group = Group::of(800, &ABC).await;
    let (old, leader) = group.leader().await;
    add(&leader, "before").await.unwrap();
    sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    let successor = leader.transfer_leadership().await.unwrap();
    assert_ne!(successor.as_str(), old);
    assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
    let (name, new) = group.leader().await;
    assert_eq!(name, successor.to_string());
    assert!(has(&new.state().borrow(), "before"));
    add(&new, "after").await.unwrap();
    assert!(matches!(add(&leader, "late").await, Err(UpdateError::NotLeader { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_manager_may_move_to_another_address() {
    let mut group = Group::of(900, &ABC).await;
    let (name, leader) = group.leader().await;
    let moving = others(&name)[0];
    group.crash(moving).await;
    group.move_to(moving, "elsewhere");
    group.start(moving).await;
    leader.add_manager(id(moving), "elsewhere".to_owned()).await.unwrap();
    add(&leader, "news").await.unwrap();
    let state = group.settle().await;
    assert!(has(&state, "news"));
    assert!(leader.members().iter().any(|m| m.addr == "elsewhere" && m.voter));
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_was_removed_may_return_with_an_empty_disk() {
    let mut group = Group::of(1000, &ABC).await;
    let (name, leader) = group.leader().await;
    let gone = others(&name)[0];
    for round in 0..3 {
        leader.remove_manager(&id(gone)).await.unwrap();
        add(&leader, &format!("without {round}")).await.unwrap();
        group.crash(gone).await;
        group.machines.remove(gone);
        group.start(gone).await;
        leader.add_manager(id(gone), gone.to_owned()).await.unwrap();
        let state = group.settle().await;
        assert!(has(&state, &format!("without {round}")));
    }
    assert_eq!(group.get(gone).state().borrow().nodes().count(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_lost_its_disk_does_no_harm() {
    let mut group = Group::of(1100, &ABC).await;
    let (name, leader) = group.leader().await;
    let amnesiac = others(&name)[0];
    for n in 0..10 {
        add(&leader, &format!("n{n}")).await.unwrap();
    }
    group.crash(amnesiac).await;
    group.machines.remove(amnesiac);
    group.start(amnesiac).await;
    sleep(Duration::from_secs(5)).await;
    assert!(leader.leadership().borrow().is_leader());
    add(&leader, "goes on").await.unwrap();
    // the way out: remove it, and let it join again
    leader.remove_manager(&id(amnesiac)).await.unwrap();
    group.crash(amnesiac).await;
    group.machines.remove(amnesiac);
    group.start(amnesiac).await;
    leader.add_manager(id(amnesiac), amnesiac.to_owned()).await.unwrap();
    let state = group.settle().await;
    assert!(has(&state, "goes on"));
}

#[tokio::test(start_paused = true)]
async fn an_empty_disk_lifts_no_candidate_that_lacks_what_it_held() {
    let mut group = Group::of(1200, &ABC).await;
    let (name, leader) = group.leader().await;
    let (behind, amnesiac) = (others(&name)[0], others(&name)[1]);
    group.isolate(&[behind]);
    add(&leader, "acknowledged").await.unwrap();
    for down in [&name, amnesiac] {
        group.crash(down).await;
    }
    group.heal();
    group.machines.remove(amnesiac);
    group.start(amnesiac).await;
    sleep(Duration::from_secs(10)).await;
    assert!(!group.get(behind).leadership().borrow().is_leader());
    group.start(&name).await;
    let state = group.settle().await;
    assert!(has(&state, "acknowledged"));
}
