//! Which node a task gets, and what is said when there is none.

use malha_model::*;

use super::world::*;

fn reserve(spec: &mut ServiceSpec, nano_cpus: i64, memory_bytes: i64) {
    let reservations = Some(Resources { nano_cpus, memory_bytes, ..Resources::default() });
    spec.task_template.resources = Some(ResourceRequirements { reservations, ..ResourceRequirements::default() });
}

fn refusal(w: &World, id: &ServiceId) -> String {
    let task = w.wanted(id).into_iter().find(|t| t.status.state == TaskState::Pending).unwrap();
    assert_eq!(task.status.message, "pending task scheduling");
    task.status.err
}

#[test]
fn without_nodes_there_is_no_suitable_node() {
    let mut w = World::new(0);
    let id = w.create(service_spec("web", |_| {}));
    assert_eq!(refusal(&w, &id), "no suitable node");
    w.add_node("n1", Role::Worker);
    w.settle();
    assert_eq!(w.running(&id), 1);
    assert_eq!(w.wanted(&id)[0].status.err, "");
}

#[test]
fn refusals_are_counted_and_sorted() {
    let mut w = World::new(5);
    w.edit_node("n1", |n| n.availability = Availability::Drain);
    w.edit_node("n2", |n| n.availability = Availability::Pause);
    w.node_down("n3");
    w.edit_node("n4", |n| _ = n.labels.insert("a".into(), "b".into()));
    let id = w.create(service_spec("web", |s| {
        constrain(s, "node.labels.a == B");
        reserve(s, 0, 16 << 30);
    }));
    let expected = "no suitable node (3 nodes not available for new tasks; insufficient resources on 2 nodes)";
    assert_eq!(refusal(&w, &id), expected);
    w.update(&id, |s| {
        reserve(s, 0, 1 << 30);
        constrain(s, "node.role==manager");
    });
    let expected =
        "no suitable node (3 nodes not available for new tasks; scheduling constraints not satisfied on 2 nodes)";
    assert_eq!(refusal(&w, &id), expected);
    w.update(&id, |s| {
        let p = s.task_template.placement.as_mut().unwrap();
        p.constraints.clear();
        p.platforms = vec![Platform { architecture: "arm64".into(), os: "linux".into() }];
    });
    assert!(refusal(&w, &id).contains("unsupported platform on 2 nodes"));
    w.update(&id, |s| s.task_template.placement.as_mut().unwrap().platforms[0].architecture = "amd64".into());
    w.settle();
    assert_eq!(w.running(&id), 1);
}

#[test]
fn host_ports_and_replica_limits_are_kept() {
    let mut w = World::new(2);
    let id = w.create(service_spec("web", |s| {
        replicas(s, 3);
        publish(s, 8080, 80, PublishMode::Host);
    }));
    assert_eq!(refusal(&w, &id), "no suitable node (host-mode port already in use on 2 nodes)");
    let id = w.create(service_spec("two", |s| {
        replicas(s, 3);
        s.task_template.placement.get_or_insert_default().max_replicas = 1;
    }));
    assert_eq!(refusal(&w, &id), "no suitable node (max replicas per node limit exceed)");
    assert_eq!(w.spread(&id)["n1"], 1);
}

#[test]
fn reservations_add_up() {
    let mut w = World::new(1);
    let id = w.create(service_spec("web", |s| {
        replicas(s, 5);
        reserve(s, 1_000_000_000, 0);
    }));
    assert_eq!(refusal(&w, &id), "no suitable node (insufficient resources on 1 node)");
    w.settle();
    assert_eq!(w.running(&id), 4);
}

#[test]
fn a_missing_network_plugin_is_a_reason() {
    let mut w = World::new(1);
    w.write(|tx, _| {
        let mut n = (**tx.node(&"n1".into()).unwrap()).clone();
        n.description.engine.plugins = vec![PluginDescription { kind: "Network".into(), name: "bridge".into() }];
        tx.put(n);
    });
    w.create_network("net", |_| {});
    let id = w.create(service_spec("web", |s| on_network(s, "net")));
    assert_eq!(refusal(&w, &id), "no suitable node (missing plugin on 1 node)");
    let plain = w.create(service_spec("plain", |_| {}));
    assert_eq!(w.wanted(&plain)[0].status.state, TaskState::Assigned);
}

#[test]
fn constraints_know_all_keys() {
    let mut w = World::new(2);
    w.write(|tx, _| {
        let mut n = (**tx.node(&"n2".into()).unwrap()).clone();
        n.description.engine.labels.insert("Rack".into(), "7".into());
        tx.put(n);
    });
    for (constraint, node) in [
        ("node.id==n2", "n2"),
        ("node.hostname == HOST-N2", "n2"),
        ("node.hostname!=host-n2", "n1"),
        ("node.ip==192.168.0.2", "n2"),
        ("node.ip!=192.168.0.2/32", "n1"),
        ("node.role==manager", "n1"),
        ("node.role!=manager", "n2"),
        ("engine.labels.Rack==7", "n2"),
        ("engine.labels.rack!=7", ""),
        ("node.platform.os==windows", "none"),
        ("node.platform.arch==amd64", ""),
        ("nonsense.key==1", "none"),
    ] {
        let id = w.create(service_spec("probe", |s| constrain(s, constraint)));
        let got = w.wanted(&id)[0].node.as_ref().map_or("none".to_owned(), ToString::to_string);
        assert!(if node.is_empty() { got != "none" } else { got == node }, "{constraint}: {got}");
        w.ask(ControlRequest::ServiceRemove { id: id.to_string() }).unwrap();
        w.settle();
    }
}

#[test]
fn preferences_spread_over_labels_first() {
    let mut w = World::new(4);
    for (node, zone) in [("n1", "a"), ("n2", "b"), ("n3", "b"), ("n4", "b")] {
        w.edit_node(node, |n| _ = n.labels.insert("zone".into(), zone.into()));
    }
    let id = w.create(service_spec("web", |s| {
        replicas(s, 6);
        let spread = Some(SpreadOver { spread_descriptor: "node.labels.zone".into() });
        s.task_template.placement.get_or_insert_default().preferences = vec![PlacementPreference { spread }];
    }));
    assert_eq!(w.spread(&id).into_values().collect::<Vec<_>>(), [3, 1, 1, 1]);
}

#[test]
fn a_node_on_which_the_service_keeps_failing_is_the_last_choice() {
    let mut w = World::new(2);
    let id = w.create(service_spec("web", |s| {
        replicas(s, 1);
        restart(s, |r| r.delay = Some(0));
    }));
    let mut nodes = Vec::new();
    for _ in 0..7 {
        w.settle();
        let task = w.wanted(&id).remove(0);
        nodes.push(task.node.clone().unwrap().to_string());
        w.report(&task, TaskState::Failed);
    }
    assert!(nodes.contains(&"n1".to_owned()) && !nodes.is_empty());
    // A second service makes n2 the busier one; n1 stays the favourite until it has failed five times.
    let busy = w.create(service_spec("busy", |s| {
        replicas(s, 3);
        constrain(s, "node.id==n2");
    }));
    let fails = w.create(service_spec("fails", |s| restart(s, |r| r.delay = Some(0))));
    w.settle();
    assert_eq!(w.running(&busy), 3);
    let mut got = Vec::new();
    for _ in 0..6 {
        let task = w.wanted(&fails).remove(0);
        got.push(task.node.clone().unwrap().to_string());
        w.report(&task, TaskState::Failed);
        w.settle();
    }
    assert!(got[..4].iter().all(|n| n == "n1"), "{got:?}");
}

#[test]
fn a_preassigned_task_says_why_it_waits() {
    let mut w = World::new(2);
    w.create(service_spec("first", |s| publish(s, 80, 80, PublishMode::Host)));
    let id = w.create(service_spec("all", |s| {
        global(s);
        publish(s, 80, 80, PublishMode::Host);
    }));
    assert_eq!(refusal(&w, &id), "no suitable node (host-mode port already in use on 1 node)");
    let placed = w.wanted(&id).into_iter().find(|t| t.status.state == TaskState::Assigned).unwrap();
    assert_eq!(placed.status.message, "scheduler confirmed task can run on preassigned node");
}
