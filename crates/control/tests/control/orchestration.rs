//! How many tasks there are, where they go when something ends, and when they start again.

use std::collections::BTreeSet;

use malha_model::{ControlRequest as R, *};

use super::world::*;

fn web(w: &mut World, n: u64, f: impl FnOnce(&mut ServiceSpec)) -> ServiceId {
    let id = w.create(service_spec("web", |s| {
        replicas(s, n);
        f(s);
    }));
    w.settle();
    id
}

fn slots(w: &World, id: &ServiceId) -> Vec<u64> {
    w.wanted(id).iter().map(|t| t.slot).collect()
}

#[test]
fn replicas_are_spread_and_kept() {
    let mut w = World::new(3);
    let id = web(&mut w, 6, |_| {});
    assert_eq!(w.running(&id), 6);
    assert_eq!(w.spread(&id).into_values().collect::<Vec<_>>(), [2, 2, 2]);
    assert_eq!(slots(&w, &id), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn scaling_down_takes_from_the_fullest_and_prefers_what_does_not_run() {
    let mut w = World::new(2);
    let id = web(&mut w, 2, |s| constrain(s, "node.id==n1"));
    w.update(&id, |s| {
        s.task_template.placement.as_mut().unwrap().constraints.clear();
        replicas(s, 4);
    });
    w.settle();
    assert_eq!(w.spread(&id), [("n1".to_owned(), 2), ("n2".to_owned(), 2)].into());
    w.update(&id, |s| replicas(s, 5));
    w.update(&id, |s| replicas(s, 4));
    assert_eq!(w.running(&id), 4, "the one that did not run yet went");
    w.update(&id, |s| replicas(s, 2));
    w.settle();
    assert_eq!(w.spread(&id), [("n1".to_owned(), 1), ("n2".to_owned(), 1)].into());
    assert_eq!(w.state.tasks_of_service(&id).count(), 2, "nothing is left of the slots that went");
    w.update(&id, |s| replicas(s, 0));
    w.settle();
    assert_eq!(w.state.tasks_of_service(&id).count(), 0);
}

#[test]
fn a_failed_task_is_replaced_after_the_delay() {
    let mut w = World::new(1);
    let id = web(&mut w, 1, |_| {});
    let old = w.wanted(&id).remove(0);
    w.report(&old, TaskState::Failed);
    let new = w.wanted(&id).remove(0);
    assert_eq!((new.slot, new.desired_state), (1, TaskState::Ready));
    assert_eq!(w.state.task(&old.id).unwrap().desired_state, TaskState::Shutdown);
    assert_eq!(w.wake, Some(w.now.plus(secs(5))));
    w.agents_step();
    w.pass(secs(4));
    assert_eq!(w.state.task(&new.id).unwrap().desired_state, TaskState::Ready);
    w.pass(secs(1));
    assert_eq!(w.state.task(&new.id).unwrap().desired_state, TaskState::Running);
    w.settle();
    assert_eq!(w.running(&id), 1);
}

/// The clock was set back, or the next leader's is behind.
fn an_hour_back(w: &mut World) {
    w.now = Timestamp(w.now.0 - 3_600_000_000_000);
}

#[test]
fn a_clock_that_is_set_back_keeps_nothing_from_starting() {
    let mut w = World::new(1);
    let id = web(&mut w, 1, |_| {});
    let old = w.wanted(&id).remove(0);
    w.report(&old, TaskState::Failed);
    assert_eq!(w.wanted(&id)[0].desired_state, TaskState::Ready);
    an_hour_back(&mut w);
    w.pass(secs(0));
    assert_eq!(w.wanted(&id)[0].desired_state, TaskState::Running);
    // one that waits for its predecessor starts when that has stopped, not beside it
    w.settle();
    w.update(&id, |s| s.task_template.force_update += 1);
    an_hour_back(&mut w);
    w.pass(secs(0));
    assert_eq!(w.wanted(&id)[0].desired_state, TaskState::Ready);
    w.settle();
    assert_eq!(w.running(&id), 1);
}

#[test]
fn clocks_that_differ_a_little_cut_no_wait_short() {
    let mut w = World::new(1);
    let id = web(&mut w, 1, |s| restart(s, |r| r.delay = Some(0)));
    w.update(&id, |s| s.task_template.force_update += 1);
    w.now = Timestamp(w.now.0 - 50_000_000);
    w.pass(secs(0));
    assert_eq!(w.wanted(&id)[0].desired_state, TaskState::Ready, "its predecessor still runs");
    w.settle();
    assert_eq!(w.running(&id), 1);
}

#[test]
fn history_keeps_five_tasks_of_a_slot() {
    let mut w = World::new(1);
    let id = web(&mut w, 1, |s| restart(s, |r| r.delay = Some(0)));
    let mut ended = Vec::new();
    for _ in 0..8 {
        let task = w.wanted(&id).remove(0);
        w.report(&task, TaskState::Failed);
        ended.push(task.id);
        w.settle();
    }
    assert_eq!(w.running(&id), 1);
    let left: BTreeSet<_> =
        w.state.tasks_of_service(&id).filter(|t| t.status.state.is_terminal()).map(|t| t.id.clone()).collect();
    assert_eq!(left, ended[4..].iter().cloned().collect(), "the newest four and the one that runs");
}

#[test]
fn conditions_decide_whether_a_task_returns() {
    for (condition, state, returns) in [
        ("none", TaskState::Failed, false),
        ("on-failure", TaskState::Complete, false),
        ("on-failure", TaskState::Failed, true),
        ("on-failure", TaskState::Rejected, true),
        ("any", TaskState::Complete, true),
    ] {
        let mut w = World::new(1);
        let id = web(&mut w, 2, |s| restart(s, |r| r.condition = condition.into()));
        let task = w.wanted(&id).remove(0);
        w.report(&task, state);
        w.settle();
        assert_eq!(w.running(&id), if returns { 2 } else { 1 }, "{condition} {state}");
        let ended = if returns { 0 } else { 1 };
        w.update(&id, |s| {
            replicas(s, 3);
            s.labels.insert("k".into(), "v".into());
        });
        w.settle();
        assert_eq!(w.running(&id), 3 - ended, "what ended for good is not run again for another number or label");
        w.update(&id, |s| s.task_template.force_update += 1);
        w.settle();
        assert_eq!(w.running(&id), 3, "an update of its tasks revives what ended for good");
    }
}

#[test]
fn a_global_task_that_ended_for_good_is_not_run_again_by_a_label() {
    let mut w = World::new(2);
    let id = w.create(service_spec("all", |s| {
        global(s);
        restart(s, |r| r.condition = "none".into());
    }));
    w.settle();
    let task = w.wanted(&id).remove(0);
    w.report(&task, TaskState::Complete);
    w.settle();
    w.update(&id, |s| drop(s.labels.insert("k".into(), "v".into())));
    w.settle();
    assert_eq!(w.running(&id), 1);
    w.update(&id, |s| s.task_template.force_update += 1);
    w.settle();
    assert_eq!(w.running(&id), 2);
}

#[test]
fn attempts_that_are_used_up_stay_so_until_the_tasks_are_updated() {
    let mut w = World::new(1);
    let id = web(&mut w, 1, |s| {
        restart(s, |r| {
            r.delay = Some(0);
            r.max_attempts = Some(1);
        });
    });
    for _ in 0..2 {
        let task = w.wanted(&id).remove(0);
        w.report(&task, TaskState::Failed);
        w.settle();
    }
    w.update(&id, |s| replicas(s, 2));
    w.settle();
    assert_eq!(w.running(&id), 1, "the new one");
    w.update(&id, |s| s.task_template.force_update += 1);
    w.settle();
    assert_eq!(w.running(&id), 2);
}

#[test]
fn attempts_are_limited_and_counted_across_leaders() {
    let mut w = World::new(1);
    let id = web(&mut w, 1, |s| {
        restart(s, |r| {
            r.delay = Some(0);
            r.max_attempts = Some(7);
        });
    });
    let mut ended = 0;
    while let Some(task) = w.wanted(&id).first().cloned() {
        w.report(&task, TaskState::Failed);
        ended += 1;
        w.settle();
        assert!(ended < 20);
    }
    assert_eq!(ended, 8, "the first run and seven restarts, more than history keeps");
}

#[test]
fn a_window_forgets_old_attempts() {
    let mut w = World::new(1);
    let id = web(&mut w, 1, |s| {
        restart(s, |r| {
            r.delay = Some(0);
            r.max_attempts = Some(2);
            r.window = Some(10_000_000_000);
        });
    });
    for _ in 0..6 {
        let task = w.wanted(&id).remove(0);
        w.report(&task, TaskState::Failed);
        w.settle();
        w.pass(secs(6));
    }
    assert_eq!(w.running(&id), 1, "two in ten seconds were never exceeded");
    for _ in 0..2 {
        let task = w.wanted(&id).remove(0);
        w.report(&task, TaskState::Failed);
        w.settle();
    }
    assert_eq!(w.running(&id), 0);
}

#[test]
fn tasks_of_a_down_node_are_replaced_at_once_and_their_old_selves_remembered() {
    let mut w = World::new(3);
    let id = web(&mut w, 3, |_| {});
    w.node_down("n2");
    assert_eq!(w.spread(&id), [("n1".to_owned(), 2), ("n3".to_owned(), 1)].into());
    let old = w.state.tasks_of_node(&"n2".into()).next().unwrap().clone();
    assert_eq!((old.status.state, old.desired_state), (TaskState::Running, TaskState::Shutdown));
    w.settle();
    assert_eq!(w.running(&id), 3);
    w.node_up("n2");
    w.settle();
    assert_eq!(w.state.task(&old.id).unwrap().status.state, TaskState::Shutdown);
    assert_eq!(w.spread(&id).get("n2"), None, "nothing moves back");
}

#[test]
fn a_day_away_orphans_what_ran() {
    let mut w = World::new(2);
    let id = web(&mut w, 2, |_| {});
    w.node_down("n2");
    w.settle();
    let old = w.state.tasks_of_node(&"n2".into()).next().unwrap().id.clone();
    w.pass(secs(24 * 3600 - 1));
    assert_eq!(w.state.task(&old).unwrap().status.state, TaskState::Running);
    let wake = w.wake.unwrap();
    w.pass(wake.since(w.now));
    assert_eq!(w.state.task(&old).unwrap().status.state, TaskState::Orphaned);
    assert_eq!(w.running(&id), 2);
}

#[test]
fn drain_moves_pause_stays() {
    let mut w = World::new(3);
    let id = web(&mut w, 3, |_| {});
    let all = w.create(service_spec("all", global));
    w.settle();
    w.edit_node("n3", |n| n.availability = Availability::Pause);
    w.edit_node("n2", |n| n.availability = Availability::Drain);
    let moved = w.wanted(&id).into_iter().find(|t| t.desired_state == TaskState::Ready).unwrap();
    assert_eq!(moved.node.as_ref().unwrap().as_str(), "n1", "neither the drained nor the paused node");
    w.settle();
    assert_eq!(w.spread(&id), [("n1".to_owned(), 2), ("n3".to_owned(), 1)].into());
    assert_eq!(w.spread(&all), [("n1".to_owned(), 1), ("n3".to_owned(), 1)].into());
    w.edit_node("n2", |n| n.availability = Availability::Active);
    w.settle();
    assert_eq!(w.spread(&all).len(), 3);
    assert_eq!(w.spread(&id).get("n2"), None);
}

#[test]
fn a_removed_node_leaves_its_tasks_orphaned() {
    let mut w = World::new(2);
    let id = web(&mut w, 2, |_| {});
    let all = w.create(service_spec("all", global));
    w.settle();
    w.ask(R::NodeRemove { id: "n2".into(), force: true }).unwrap();
    let left: Vec<_> = w.state.tasks_of_node(&"n2".into()).map(|t| (t.service.clone(), t.status.state)).collect();
    assert_eq!(left, [(Some(id.clone()), TaskState::Orphaned)], "what a global service had there is gone");
    w.settle();
    assert_eq!((w.running(&id), w.running(&all)), (2, 1));
    assert_eq!(w.spread(&id), [("n1".to_owned(), 2)].into());
}

#[test]
fn global_services_follow_nodes_and_labels() {
    let mut w = World::new(3);
    let id = w.create(service_spec("all", |s| {
        global(s);
        constrain(s, "node.labels.zone!=b");
    }));
    w.settle();
    assert_eq!(w.running(&id), 3);
    let names: Vec<String> = w.wanted(&id).iter().map(Task::name).collect();
    assert!(names[0].starts_with("all.n"), "{names:?}");
    w.edit_node("n2", |n| _ = n.labels.insert("zone".into(), "B".into()));
    w.settle();
    assert_eq!(w.spread(&id).keys().cloned().collect::<Vec<_>>(), ["n1", "n3"]);
    w.add_node("n4", Role::Worker);
    w.settle();
    assert_eq!(w.running(&id), 3);
    let task = w.wanted(&id).remove(0);
    w.report(&task, TaskState::Failed);
    w.settle();
    assert_eq!(w.running(&id), 3);
    w.node_down("n4");
    w.settle();
    assert_eq!(w.wanted(&id).len(), 2);
    w.node_up("n4");
    w.settle();
    assert_eq!(w.running(&id), 3);
}

#[test]
fn constraints_are_enforced_on_running_tasks() {
    let mut w = World::new(2);
    w.edit_node("n1", |n| _ = n.labels.insert("disk".into(), "ssd".into()));
    w.edit_node("n2", |n| _ = n.labels.insert("disk".into(), "ssd".into()));
    let id = web(&mut w, 2, |s| constrain(s, "node.labels.disk==ssd"));
    let old = w.state.tasks_of_node(&"n1".into()).next().unwrap().clone();
    w.edit_node("n1", |n| n.labels.clear());
    let held = w.state.task(&old.id).unwrap();
    assert_eq!(held.status.err, "assigned node no longer meets constraints");
    w.settle();
    assert_eq!(w.spread(&id), [("n2".to_owned(), 2)].into());
}

#[test]
fn reservations_are_enforced_where_a_node_becomes_smaller() {
    const GIB: i64 = 1 << 30;
    let reserve = |s: &mut ServiceSpec| {
        let asked = Resources { nano_cpus: 1_000_000_000, memory_bytes: 2 * GIB, ..Resources::default() };
        s.task_template.resources.get_or_insert_default().reservations = Some(asked);
    };
    let mut w = World::new(2);
    let id = web(&mut w, 4, reserve);
    assert_eq!(w.spread(&id), [("n1".to_owned(), 2), ("n2".to_owned(), 2)].into());
    let free = w.create(service_spec("free", |s| replicas(s, 2)));
    w.settle();
    let mut old: Vec<Task> = w.wanted(&id).into_iter().filter(|t| t.node == Some("n1".into())).collect();
    old.sort_by_key(|t| (t.meta.created_at, t.id.clone()));

    w.resize("n1", 4_000_000_000, 3 * GIB);
    let held = w.state.task(&old[1].id).unwrap();
    assert_eq!(
        (held.desired_state, held.status.err.as_str()),
        (TaskState::Shutdown, "assigned node no longer has the reserved resources")
    );
    assert_eq!(w.state.task(&old[0].id).unwrap().desired_state, TaskState::Running, "the oldest stays");
    w.settle();
    assert_eq!(w.spread(&id), [("n1".to_owned(), 1), ("n2".to_owned(), 3)].into());
    assert_eq!(w.spread(&free), [("n1".to_owned(), 1), ("n2".to_owned(), 1)].into(), "nothing reserved, nothing lost");

    // where there is room nowhere it waits, and starts once there is
    w.resize("n2", 2_000_000_000, 8 * GIB);
    w.settle();
    assert_eq!(w.running(&id), 3);
    let waits = w.wanted(&id).into_iter().find(|t| t.node.is_none()).unwrap();
    assert_eq!(waits.status.err, "no suitable node (insufficient resources on 2 nodes)");
    w.resize("n1", 4_000_000_000, 8 * GIB);
    w.settle();
    assert_eq!(w.running(&id), 4);

    // a global service keeps to its node: it waits there
    let everywhere = w.create(service_spec("everywhere", |s| {
        global(s);
        reserve(s);
    }));
    w.settle();
    assert_eq!(w.running(&everywhere), 1);
    w.resize("n1", 500_000_000, 8 * GIB);
    w.settle();
    assert_eq!(w.running(&everywhere), 0);
    w.resize("n1", 8_000_000_000, 16 * GIB);
    w.settle();
    assert!(w.running(&everywhere) >= 1);
}

#[test]
fn a_removed_service_is_gone_at_once_and_deleted_when_its_tasks_are() {
    let mut w = World::new(2);
    let id = web(&mut w, 2, |_| {});
    w.node_down("n2");
    w.settle();
    w.ask(R::ServiceRemove { id: "web".into() }).unwrap();
    assert!(w.state.tasks_of_service(&id).all(|t| t.desired_state == TaskState::Remove));
    w.settle();
    assert_eq!(w.state.tasks_of_service(&id).count(), 1, "what may still run on the silent node is remembered");
    w.node_up("n2");
    w.settle();
    assert!(w.state.service(&id).is_none());
    assert_eq!(w.state.task_count(), 0);
}

#[test]
fn statuses_never_go_back() {
    let mut w = World::new(2);
    let id = web(&mut w, 1, |_| {});
    let task = w.wanted(&id).remove(0);
    w.report(&task, TaskState::Preparing);
    assert_eq!(w.state.task(&task.id).unwrap().status.state, TaskState::Running);
    let other = if task.node == Some("n1".into()) { "n2" } else { "n1" };
    w.report(&Task { node: Some(other.into()), ..task.clone() }, TaskState::Failed);
    assert_eq!(w.state.task(&task.id).unwrap().status.state, TaskState::Running, "not that node's task");
    w.report(&task, TaskState::Orphaned);
    w.report(&Task { id: "unknown".into(), ..task.clone() }, TaskState::Failed);
    assert_eq!(w.state.task(&task.id).unwrap().status.state, TaskState::Running);
}

#[test]
fn a_leadership_change_disturbs_nothing() {
    let mut w = World::new(2);
    let id = web(&mut w, 4, |_| {});
    let before: Vec<_> = w.wanted(&id);
    w.write(|tx, _| malha_control::status::nodes_unknown(tx));
    assert!(w.state.nodes().all(|n| n.status.state == NodeState::Unknown));
    assert_eq!(w.wanted(&id), before);
}
