//! Rolling updates, step by step.

use malha_model::*;

use super::world::*;

fn world(n: u64, f: impl FnOnce(&mut UpdateConfig)) -> (World, ServiceId) {
    let mut w = World::new(3);
    let mut config = defaults::update_config();
    f(&mut config);
    let id = w.create(service_spec("web", |s| {
        replicas(s, n);
        s.update_config = Some(config);
    }));
    w.settle();
    (w, id)
}

fn images(w: &World, id: &ServiceId) -> Vec<String> {
    w.wanted(id).into_iter().map(|t| t.spec.container_spec.unwrap().image).collect()
}

fn new_ones(w: &World, id: &ServiceId) -> usize {
    images(w, id).iter().filter(|i| *i == "hello:2").count()
}

fn status(w: &World, id: &ServiceId) -> (UpdateState, String) {
    let s = w.service(id).update_status.clone().unwrap();
    (s.state, s.message)
}

/// Lets agents work until nothing more happens at this time.
fn quiet(w: &mut World) {
    while w.agents_step() {}
}

#[test]
fn an_update_goes_on_though_the_clock_is_set_back() {
    let (mut w, id) = world(2, |c| c.delay = 10_000_000_000);
    w.update(&id, |s| image(s, "hello:2"));
    quiet(&mut w);
    assert_eq!(new_ones(&w, &id), 1, "it waits for the delay");
    w.now = Timestamp(w.now.0 - 3_600_000_000_000);
    w.pass(secs(0));
    quiet(&mut w);
    assert_eq!(new_ones(&w, &id), 2);
    w.now = Timestamp(w.now.0 - 3_600_000_000_000);
    w.pass(secs(0));
    assert_eq!(status(&w, &id).0, UpdateState::Completed);
}

#[test]
fn one_after_the_other_by_default_stopping_first() {
    let (mut w, id) = world(3, |_| {});
    assert_eq!(w.service(&id).update_status, None, "a new service has none");
    let old: Vec<_> = w.wanted(&id);
    w.update(&id, |s| image(s, "hello:2"));
    assert_eq!(status(&w, &id), (UpdateState::Updating, "update in progress".into()));
    assert_eq!(new_ones(&w, &id), 1);
    let new = w.wanted(&id).into_iter().find(|t| t.by_update).unwrap();
    assert_eq!((new.slot, new.desired_state), (1, TaskState::Ready));
    assert_eq!(w.state.task(&old[0].id).unwrap().desired_state, TaskState::Shutdown);
    w.report(&new, TaskState::Ready);
    assert_eq!(w.state.task(&new.id).unwrap().desired_state, TaskState::Ready, "the old one still runs");
    w.report(&old[0], TaskState::Shutdown);
    assert_eq!(w.state.task(&new.id).unwrap().desired_state, TaskState::Running);
    assert_eq!(new_ones(&w, &id), 1);
    w.report(&new, TaskState::Running);
    assert_eq!(new_ones(&w, &id), 2);
    quiet(&mut w);
    assert_eq!(new_ones(&w, &id), 3);
    assert_eq!(status(&w, &id).0, UpdateState::Updating, "it is watched for the monitor time");
    assert_eq!(w.wake, Some(w.now.plus(secs(5))));
    w.pass(secs(5));
    assert_eq!(status(&w, &id), (UpdateState::Completed, "update completed".into()));
    let done = w.service(&id).update_status.clone().unwrap();
    assert_eq!((done.started_at, done.completed_at), (Some(START), Some(START.plus(secs(5)))));
    assert_eq!(w.running(&id), 3);
}

#[test]
fn an_old_task_that_does_not_stop_is_waited_for_a_minute() {
    let (mut w, id) = world(1, |_| {});
    w.update(&id, |s| image(s, "hello:2"));
    let new = w.wanted(&id).remove(0);
    w.pass(secs(59));
    assert_eq!(w.state.task(&new.id).unwrap().desired_state, TaskState::Ready);
    w.pass(secs(1));
    assert_eq!(w.state.task(&new.id).unwrap().desired_state, TaskState::Running);
}

#[test]
fn start_first_keeps_the_old_until_the_new_runs() {
    let (mut w, id) = world(2, |c| c.order = "start-first".into());
    w.update(&id, |s| image(s, "hello:2"));
    let mut images_now = images(&w, &id);
    images_now.sort();
    assert_eq!(images_now, ["hello:1", "hello:1", "hello:2"]);
    let new = w.wanted(&id).into_iter().find(|t| t.by_update).unwrap();
    assert_eq!(new.desired_state, TaskState::Running);
    w.report(&new, TaskState::Running);
    let slot: Vec<_> = w.wanted(&id).into_iter().filter(|t| t.slot == new.slot).map(|t| t.id).collect();
    assert_eq!(slot, [new.id]);
    w.settle();
    assert_eq!((w.running(&id), new_ones(&w, &id)), (2, 2));
    assert_eq!(status(&w, &id).0, UpdateState::Completed);
}

#[test]
fn start_first_stops_first_where_both_want_the_same_port_of_a_node() {
    let mut w = World::new(1);
    let start_first = |s: &mut ServiceSpec| {
        s.update_config = Some(UpdateConfig { order: "start-first".into(), ..defaults::update_config() });
    };
    let one = w.create(service_spec("one", |s| {
        start_first(s);
        publish(s, 8080, 80, PublishMode::Host);
        publish(s, 0, 81, PublishMode::Host);
    }));
    let all = w.create(service_spec("all", |s| {
        global(s);
        start_first(s);
        publish(s, 9090, 90, PublishMode::Host);
    }));
    w.settle();
    for id in [&one, &all] {
        let old = w.wanted(id).remove(0);
        w.update(id, |s| image(s, "hello:2"));
        assert_eq!(w.state.task(&old.id).unwrap().desired_state, TaskState::Shutdown);
        w.settle();
        assert_eq!((w.running(id), images(&w, id)), (1, vec!["hello:2".to_owned()]));
        assert_eq!(status(&w, id).0, UpdateState::Completed);
    }
    // Another port is free, and one that the kernel chooses always is.
    let old = w.wanted(&one).remove(0);
    w.update(&one, |s| s.endpoint_spec.as_mut().unwrap().ports[0].published_port = 8081);
    assert_eq!(w.state.task(&old.id).unwrap().desired_state, TaskState::Running);
    w.settle();
    assert_eq!((w.running(&one), status(&w, &one).0), (1, UpdateState::Completed));
}

#[test]
fn start_first_keeps_the_old_when_the_new_fails() {
    let (mut w, id) = world(1, |c| c.order = "start-first".into());
    w.update(&id, |s| image(s, "hello:2"));
    let new = w.wanted(&id).into_iter().find(|t| t.by_update).unwrap();
    w.report(&new, TaskState::Rejected);
    assert_eq!(status(&w, &id).0, UpdateState::Paused);
    assert!(images(&w, &id).contains(&"hello:1".to_owned()));
    assert_eq!(w.running(&id), 1);
    w.settle();
    assert_eq!(images(&w, &id), ["hello:2"], "its replacement came up after all");
}

#[test]
fn failed_start_first_updates_one_after_the_other_leave_one_task_per_slot() {
    let (mut w, id) = world(2, |c| c.order = "start-first".into());
    for image_name in ["hello:2", "hello:3"] {
        w.update(&id, |s| image(s, image_name));
        let new = w.wanted(&id).into_iter().find(|t| t.by_update && t.started_at.is_none()).unwrap();
        w.report(&new, TaskState::Failed);
        assert_eq!(status(&w, &id).0, UpdateState::Paused);
    }
    w.settle();
    assert_eq!(w.wanted(&id).len(), 2);
    w.update(&id, |s| image(s, "hello:1"));
    w.settle();
    assert_eq!((w.running(&id), images(&w, &id)), (2, vec!["hello:1".to_owned(); 2]));
}

#[test]
fn taking_a_start_first_update_back_keeps_what_runs() {
    let (mut w, id) = world(1, |c| c.order = "start-first".into());
    let old = w.wanted(&id).remove(0);
    w.update(&id, |s| image(s, "hello:2"));
    w.update(&id, |s| image(s, "hello:1"));
    w.settle();
    assert_eq!(w.wanted(&id).into_iter().map(|t| t.id).collect::<Vec<_>>(), [old.id]);
}

#[test]
fn parallelism_and_delay_pace_the_update() {
    let (mut w, id) = world(6, |c| {
        c.parallelism = 2;
        c.delay = 10_000_000_000;
    });
    w.update(&id, |s| image(s, "hello:2"));
    assert_eq!(new_ones(&w, &id), 2);
    quiet(&mut w);
    assert_eq!(new_ones(&w, &id), 2, "both workers rest");
    assert_eq!(w.wake, Some(w.now.plus(secs(10))));
    w.pass(secs(9));
    assert_eq!(new_ones(&w, &id), 2);
    w.pass(secs(1));
    assert_eq!(new_ones(&w, &id), 4);
    w.settle();
    assert_eq!((w.running(&id), new_ones(&w, &id)), (6, 6));
    assert_eq!(w.now, START.plus(secs(25)));
}

#[test]
fn parallelism_zero_is_all_at_once() {
    let (mut w, id) = world(4, |c| c.parallelism = 0);
    w.update(&id, |s| image(s, "hello:2"));
    assert_eq!(new_ones(&w, &id), 4);
}

#[test]
fn a_failure_pauses_and_the_next_update_goes_on() {
    let (mut w, id) = world(3, |_| {});
    w.update(&id, |s| image(s, "hello:2"));
    let new = w.wanted(&id).into_iter().find(|t| t.by_update).unwrap();
    w.report(&new, TaskState::Failed);
    let text = format!("update paused due to failure or early termination of task {}", new.id);
    assert_eq!(status(&w, &id), (UpdateState::Paused, text));
    w.settle();
    assert_eq!(images(&w, &id), ["hello:2", "hello:1", "hello:1"]);
    w.update(&id, |_| {});
    w.settle();
    assert_eq!(new_ones(&w, &id), 3);
    assert_eq!(status(&w, &id).0, UpdateState::Completed);
}

#[test]
fn an_end_within_the_monitor_time_counts_and_later_does_not() {
    for (after, paused) in [(5, true), (6, false)] {
        let (mut w, id) = world(2, |c| c.delay = 20_000_000_000);
        w.update(&id, |s| image(s, "hello:2"));
        quiet(&mut w);
        let new = w.wanted(&id).into_iter().find(|t| t.by_update).unwrap();
        w.pass(secs(after));
        w.report(&new, TaskState::Complete);
        assert_eq!(status(&w, &id).0 == UpdateState::Paused, paused, "{after} s");
    }
}

#[test]
fn failures_up_to_the_ratio_are_borne() {
    let (mut w, id) = world(4, |c| {
        c.parallelism = 2;
        c.max_failure_ratio = 0.25;
    });
    w.update(&id, |s| image(s, "hello:2"));
    let new: Vec<_> = w.wanted(&id).into_iter().filter(|t| t.by_update).collect();
    w.report(&new[0], TaskState::Failed);
    assert_eq!(status(&w, &id).0, UpdateState::Updating);
    w.report(&new[1], TaskState::Failed);
    assert_eq!(status(&w, &id).0, UpdateState::Paused);
}

#[test]
fn continue_goes_on_whatever_fails() {
    let (mut w, id) = world(3, |c| c.failure_action = "continue".into());
    w.update(&id, |s| image(s, "hello:2"));
    for _ in 0..3 {
        let new = w.wanted(&id).into_iter().find(|t| t.by_update && t.started_at.is_none()).unwrap();
        w.report(&new, TaskState::Failed);
    }
    assert_eq!(new_ones(&w, &id), 3);
    w.settle();
    assert_eq!(status(&w, &id).0, UpdateState::Completed);
}

#[test]
fn what_does_not_touch_tasks_replaces_none() {
    let (mut w, id) = world(3, |_| {});
    let ids = |w: &World| w.wanted(&id).into_iter().map(|t| t.id).collect::<Vec<_>>();
    let before = ids(&w);
    w.update(&id, |s| _ = s.labels.insert("a".into(), "b".into()));
    w.update(&id, |s| constrain(s, "node.platform.os==linux"));
    w.update(&id, |s| s.update_config = None);
    w.update(&id, |s| replicas(s, 4));
    w.settle();
    assert_eq!(ids(&w)[..3], before);
    assert_eq!(w.service(&id).update_status, None);
    w.update(&id, |s| s.task_template.force_update += 1);
    w.settle();
    assert!(before.iter().all(|old| !ids(&w).contains(old)));
}

#[test]
fn ports_change_under_running_tasks() {
    let (mut w, id) = world(2, |_| {});
    w.update(&id, |s| publish(s, 80, 80, PublishMode::Ingress));
    w.settle();
    assert_eq!(status(&w, &id).0, UpdateState::Completed, "an address on ingress needs new tasks");
    let before = w.wanted(&id);
    w.update(&id, |s| publish(s, 81, 81, PublishMode::Ingress));
    w.settle();
    assert_eq!(w.wanted(&id), before, "another port does not");
    let ingress = w.state.ingress().unwrap().id.clone();
    let view = malha_control::network_view(&w.state, &ingress).unwrap();
    let ports: Vec<u16> = view.services[&id].ports.iter().map(|p| p.published_port).collect();
    assert_eq!(ports, [80, 81]);
    w.update(&id, |s| publish(s, 82, 82, PublishMode::Host));
    assert_eq!(status(&w, &id).0, UpdateState::Updating, "a host-mode port is part of the task");
}

#[test]
fn new_constraints_roll_like_any_update() {
    let (mut w, id) = world(3, |_| {});
    w.update(&id, |s| constrain(s, "node.id!=n3"));
    let moving = w.wanted(&id).iter().filter(|t| t.by_update).count();
    assert_eq!(moving, 1);
    w.settle();
    assert_eq!(w.spread(&id).keys().cloned().collect::<Vec<_>>(), ["n1", "n2"]);
    assert_eq!(w.running(&id), 3);
}

#[test]
fn global_services_roll_too() {
    let mut w = World::new(3);
    let id = w.create(service_spec("all", global));
    w.settle();
    w.edit_node("n2", |n| n.availability = Availability::Pause);
    w.update(&id, |s| image(s, "hello:2"));
    assert_eq!(new_ones(&w, &id), 1);
    w.settle();
    assert_eq!(new_ones(&w, &id), 2, "the paused node keeps what it has");
    w.edit_node("n2", |n| n.availability = Availability::Active);
    w.settle();
    assert_eq!((new_ones(&w, &id), w.running(&id)), (3, 3));
}

#[test]
fn updating_a_service_that_cannot_start_moves_on() {
    let (mut w, id) = world(2, |_| {});
    w.update(&id, |s| constrain(s, "node.id==nowhere"));
    w.settle();
    w.update(&id, |s| s.task_template.placement.as_mut().unwrap().constraints.clear());
    w.settle();
    assert_eq!(w.running(&id), 2);
}
