//! Any story of requests, node flaps and agents' reports, then peace: what was asked for is what runs.

use malha_model::{ControlRequest as R, *};
use proptest::prelude::*;

use super::world::*;

#[derive(Clone, Debug)]
enum Step {
    Create {
        name: u8,
        replicas: u64,
        network: Option<u8>,
        publish: bool,
        global: bool,
    },
    Scale {
        name: u8,
        replicas: u64,
    },
    Update {
        name: u8,
        start_first: bool,
        parallelism: u64,
    },
    Remove {
        name: u8,
    },
    Network {
        name: u8,
        remove: bool,
    },
    Down {
        node: u8,
    },
    Up {
        node: u8,
    },
    Availability {
        node: u8,
        to: u8,
    },
    Resize {
        node: u8,
        gib: i64,
    },
    RemoveNode {
        node: u8,
    },
    Attach {
        node: u8,
        network: u8,
    },
    /// The n-th report that is due.
    Report {
        pick: usize,
    },
    Fail {
        pick: usize,
        state: u8,
    },
    Agents,
    Pass {
        seconds: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0u8..4;
    let node = || 1u8..5;
    prop_oneof![
        3 => (name(), 0u64..5, proptest::option::of(0u8..2), any::<bool>(), proptest::bool::weighted(0.2))
            .prop_map(|(name, replicas, network, publish, global)| Step::Create { name, replicas, network, publish, global }),
        2 => (name(), 0u64..6).prop_map(|(name, replicas)| Step::Scale { name, replicas }),
        2 => (name(), any::<bool>(), 0u64..3)
            .prop_map(|(name, start_first, parallelism)| Step::Update { name, start_first, parallelism }),
        1 => name().prop_map(|name| Step::Remove { name }),
        2 => (0u8..2, proptest::bool::weighted(0.3)).prop_map(|(name, remove)| Step::Network { name, remove }),
        1 => node().prop_map(|node| Step::Down { node }),
        1 => node().prop_map(|node| Step::Up { node }),
        1 => (node(), 0u8..3).prop_map(|(node, to)| Step::Availability { node, to }),
        1 => (node(), 0i64..9).prop_map(|(node, gib)| Step::Resize { node, gib }),
        1 => node().prop_map(|node| Step::RemoveNode { node }),
        1 => (node(), 0u8..2).prop_map(|(node, network)| Step::Attach { node, network }),
        6 => any::<usize>().prop_map(|pick| Step::Report { pick }),
        3 => (any::<usize>(), 0u8..3).prop_map(|(pick, state)| Step::Fail { pick, state }),
        2 => Just(Step::Agents),
        2 => (0u64..70).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

fn play(w: &mut World, step: &Step) {
    let service = |w: &World, name: u8| w.state.service_named(&format!("s{name}")).map(|s| s.id.clone());
    let node = |w: &World, n: u8| w.state.node(&format!("n{n}").as_str().into()).map(|n| n.id.to_string());
    match step {
        Step::Create { name, replicas: n, network, publish: p, global: g } => {
            let spec = service_spec(&format!("s{name}"), |s| {
                if *g {
                    global(s)
                } else {
                    replicas(s, *n)
                }
                network.iter().for_each(|n| on_network(s, &format!("net{n}")));
                let asked = Resources { memory_bytes: i64::from(*name) << 29, ..Resources::default() };
                s.task_template.resources.get_or_insert_default().reservations = Some(asked);
                if *p {
                    publish(s, 0, 80, PublishMode::Ingress);
                    publish(s, 7000 + u16::from(*name), 81, PublishMode::Host);
                }
            });
            let _ = w.ask(R::ServiceCreate { spec, registry_auth: None });
        }
        Step::Scale { name, replicas: n } => {
            if let Some(id) = service(w, *name).filter(|id| !w.service(id).spec.is_global()) {
                w.update(&id, |s| replicas(s, *n));
            }
        }
        Step::Update { name, start_first, parallelism } => {
            if let Some(id) = service(w, *name) {
                let order = if *start_first { "start-first" } else { "stop-first" };
                let config =
                    UpdateConfig { parallelism: *parallelism, order: order.into(), ..defaults::update_config() };
                w.update(&id, |s| {
                    s.task_template.force_update += 1;
                    s.update_config = Some(config);
                });
            }
        }
        Step::Remove { name } => drop(w.ask(R::ServiceRemove { id: format!("s{name}") })),
        Step::Network { name, remove: false } => {
            let spec = network_spec(&format!("net{name}"), |n| n.attachable = true);
            let _ = w.ask(R::NetworkCreate { spec });
        }
        Step::Network { name, remove: true } => drop(w.ask(R::NetworkRemove { id: format!("net{name}") })),
        Step::Down { node: n } => node(w, *n).into_iter().for_each(|id| w.node_down(&id)),
        Step::Up { node: n } => node(w, *n).into_iter().for_each(|id| w.node_up(&id)),
        Step::Availability { node: n, to } => {
            let to = [Availability::Active, Availability::Pause, Availability::Drain][usize::from(*to)];
            node(w, *n).into_iter().for_each(|id| w.edit_node(&id, |n| n.availability = to));
        }
        Step::Resize { node: n, gib } => node(w, *n).into_iter().for_each(|id| w.resize(&id, 4_000_000_000, gib << 30)),
        Step::RemoveNode { node: n } if *n > 2 => drop(w.ask(R::NodeRemove { id: format!("n{n}"), force: true })),
        Step::RemoveNode { .. } => {}
        Step::Attach { node: n, network } => {
            let _ = w.ask(R::NetworkAttach {
                node: format!("n{n}").as_str().into(),
                network: format!("net{network}"),
                container_id: format!("c{n}"),
                container_name: String::new(),
                addresses: Vec::new(),
                aliases: Vec::new(),
            });
        }
        Step::Report { pick } => {
            let due: Vec<_> = w.state.tasks().filter_map(|t| w.next_report(t).map(|s| (t.clone(), s))).collect();
            if let Some((task, state)) = due.get(pick % due.len().max(1)) {
                w.report(task, *state);
            }
        }
        Step::Fail { pick, state } => {
            let alive: Vec<_> = w.state.tasks().filter(|t| t.service.is_some() && t.node.is_some()).cloned().collect();
            if let Some(task) = alive.get(pick % alive.len().max(1)) {
                w.report(task, [TaskState::Failed, TaskState::Rejected, TaskState::Complete][usize::from(*state)]);
            }
        }
        Step::Agents => drop(w.agents_step()),
        Step::Pass { seconds } => w.pass(secs(*seconds)),
    }
}

/// Everything that was wrong is right again, and time passes.
fn heal(w: &mut World) {
    for n in ["n1", "n2", "n3", "n4"] {
        if w.state.node(&n.into()).is_none() {
            w.add_node(n, Role::Worker);
        }
        w.node_up(n);
        w.resize(n, 64_000_000_000, 64 << 30);
        w.edit_node(n, |n| n.availability = Availability::Active);
    }
    w.settle();
}

fn what_was_asked_for_runs(w: &World) {
    for service in w.state.services() {
        assert!(!service.pending_delete, "{} was never deleted", service.spec.name);
        let host_ports = service.spec.ports().iter().any(|p| p.publish_mode == PublishMode::Host);
        let asked = if service.spec.is_global() { 4 } else { service.spec.replicas() };
        // A fixed port on the node leaves room for one task each.
        let expected = if host_ports { asked.min(4) } else { asked };
        let paused = service.update_status.as_ref().is_some_and(|s| s.state != UpdateState::Completed);
        let running = w.running(&service.id) as u64;
        assert!(running == expected || (paused && running <= asked), "{}: {running} of {expected}", service.spec.name);
    }
    assert!(w.state.networks().all(|n| !n.pending_delete));
    for task in w.state.tasks() {
        let over = task.desired_state > TaskState::Running;
        assert!(!over || task.status.state.is_terminal(), "{} still is {}", task.name(), task.status.state);
        assert!(task.desired_state < TaskState::Remove);
    }
    let history = w.state.services().flat_map(|s| w.state.tasks_of_service(&s.id)).fold(
        std::collections::BTreeMap::<_, usize>::new(),
        |mut slots, t| {
            *slots.entry((t.service.clone(), t.slot, (t.slot == 0).then(|| t.node.clone()))).or_default() += 1;
            slots
        },
    );
    assert!(history.values().all(|n| *n <= 6), "{history:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::default() })]

    /// The invariants are checked by [`World`] after every single step.
    #[test]
    fn every_story_ends_well(steps in proptest::collection::vec(step(), 1..80)) {
        let mut w = World::new(4);
        w.create_network("net0", |n| n.attachable = true);
        for step in &steps {
            play(&mut w, step);
        }
        heal(&mut w);
        what_was_asked_for_runs(&w);
    }
}
