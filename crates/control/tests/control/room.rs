//! A pass that has room for little: what it leaves is valid, and those behind it come to the same end.

use malha_control::{Ctx, handle, reconcile, status};
use malha_model::{ControlRequest as R, *};
use malha_store::{State, Tx};
use rand::{SeedableRng, rngs::SmallRng};

use super::{invariants, world::*};

/// Objects that a pass may touch, and what may belong together with the last of them.
const ROOM: usize = 5;
const SLACK: usize = 4;

struct Narrow {
    state: State,
    rng: SmallRng,
    passes: usize,
}

impl Narrow {
    /// One write, and passes until none is due any more.
    fn write(&mut self, f: impl FnOnce(&mut Tx, &mut Ctx<'_>)) {
        let mut f = Some(f);
        loop {
            let mut tx = Tx::at(&self.state, START);
            let mut ctx = Ctx { now: START, rng: &mut self.rng, tokens: &Tokens };
            if let Some(f) = f.take() {
                f(&mut tx, &mut ctx);
            }
            let planned = tx.touched().count();
            tx.set_room(ROOM);
            let outlook = reconcile(&mut tx, &mut ctx, None);
            assert!(tx.touched().count() <= planned + ROOM + SLACK, "{} touched", tx.touched().count());
            let before = self.state.clone();
            self.state = before.apply(before.index() + 1, &tx.into_changes());
            invariants::check(&before, &self.state);
            self.passes += 1;
            assert!(self.passes < 10_000, "it does not come to rest");
            if outlook.wake() != Some(START) {
                return;
            }
        }
    }

    fn ask(&mut self, request: R) {
        self.write(|tx, ctx| drop(handle(tx, ctx, request).unwrap()));
    }

    /// Lets the agents of nodes that are there do what they are told.
    fn agents(&mut self) {
        loop {
            let due: Vec<(Task, TaskState)> = self.state.tasks().filter_map(|t| self.next_report(t)).collect();
            if due.is_empty() {
                return;
            }
            self.write(|tx, ctx| {
                for (task, state) in &due {
                    let status = TaskStatus { timestamp: START, state: *state, ..TaskStatus::default() };
                    status::report(tx, ctx, task.node.as_ref().unwrap(), [(task.id.clone(), status)]);
                }
            });
        }
    }

    fn next_report(&self, task: &Task) -> Option<(Task, TaskState)> {
        let node = self.state.node(task.node.as_ref()?)?;
        let is = task.status.state;
        if node.status.state != NodeState::Ready || is < TaskState::Assigned || is.is_terminal() {
            return None;
        }
        let next = if task.desired_state > TaskState::Running { TaskState::Shutdown } else { task.desired_state };
        (is < next).then(|| (task.clone(), next))
    }

    fn service(&self, name: &str) -> &Service {
        self.state.service_named(name).unwrap()
    }

    fn update(&mut self, name: &str, f: impl FnOnce(&mut ServiceSpec)) {
        let held = self.service(name).clone();
        let mut spec = held.spec.clone();
        f(&mut spec);
        let (id, version) = (held.id.to_string(), held.meta.version);
        self.ask(R::ServiceUpdate { id, version, spec, registry_auth: None });
    }

    /// Tasks that run as the service wants it now.
    fn running(&self, name: &str) -> usize {
        let service = self.service(name);
        let runs = |t: &&std::sync::Arc<Task>| {
            let is = t.status.state == TaskState::Running && t.desired_state == TaskState::Running;
            is && t.spec == service.spec.task_template
        };
        self.state.tasks_of_service(&service.id).filter(runs).count()
    }
}

#[test]
fn a_pass_with_little_room_leaves_what_the_next_ones_bring_to_the_same_end() {
    let mut world = World::new(3);
    world.create_network("net", |_| {});
    let mut w = Narrow { state: world.state, rng: SmallRng::seed_from_u64(3), passes: 0 };
    let web = service_spec("web", |s| {
        replicas(s, 40);
        on_network(s, "net");
        publish(s, 8080, 80, PublishMode::Ingress);
        s.update_config = Some(UpdateConfig { parallelism: 0, ..defaults::update_config() });
    });
    w.ask(R::ServiceCreate { spec: web, registry_auth: None });
    w.ask(R::ServiceCreate { spec: service_spec("all", global), registry_auth: None });
    w.agents();
    assert_eq!((w.running("web"), w.running("all")), (40, 3));
    assert!(w.passes > 20, "{} passes", w.passes);

    w.update("web", |s| replicas(s, 12));
    w.agents();
    let web = w.service("web").id.clone();
    assert_eq!((w.running("web"), w.state.tasks_of_service(&web).count()), (12, 12));

    w.update("web", |s| image(s, "hello:2"));
    w.agents();
    assert_eq!(w.running("web"), 12);

    w.write(|tx, ctx| status::node_down(tx, ctx, &"n2".into(), "heartbeat failure"));
    w.agents();
    let there = |w: &Narrow| w.state.tasks_of_node(&"n2".into()).any(|t| t.desired_state <= TaskState::Running);
    assert!(!there(&w));
    assert_eq!((w.running("web"), w.running("all")), (12, 2));

    w.write(|tx, _| status::node_up(tx, &"n2".into(), "192.168.0.2"));
    for id in ["web", "all"] {
        w.ask(R::ServiceRemove { id: id.into() });
    }
    w.agents();
    assert_eq!((w.state.task_count(), w.state.services().count()), (0, 0));
}
