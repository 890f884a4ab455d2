//! The effort of a pass follows what changed, not how much there is.

use malha_control::{Ctx, Outlook, handle, reconcile, status};
use std::time::{Duration, Instant};

use malha_model::*;
use malha_store::{State, Tx};
use rand::{SeedableRng, rngs::SmallRng};

use super::world::*;

const SERVICES: usize = 100;
const REPLICAS: u64 = 20;

struct Large {
    state: State,
    outlook: Outlook,
    rng: SmallRng,
}

impl Large {
    fn new() -> Self {
        let mut large =
            Self { state: World::new(20).state, outlook: Outlook::default(), rng: SmallRng::seed_from_u64(7) };
        large.step(None, |tx, ctx| {
            for n in 0..SERVICES {
                let spec = service_spec(&format!("s{n}"), |s| replicas(s, REPLICAS));
                handle(tx, ctx, ControlRequest::ServiceCreate { spec, registry_auth: None }).unwrap();
            }
        });
        let all: Vec<Task> = large.state.tasks().map(|t| (**t).clone()).collect();
        large.step(None, |tx, ctx| all.iter().for_each(|t| report(tx, ctx, t, TaskState::Running)));
        assert_eq!(large.state.tasks().filter(|t| t.status.state == TaskState::Running).count(), 2000);
        large
    }

    fn step(&mut self, known: Option<&Outlook>, f: impl FnOnce(&mut Tx, &mut Ctx<'_>)) -> Duration {
        let mut tx = Tx::at(&self.state, START);
        let mut ctx = Ctx { now: START, rng: &mut self.rng, tokens: &Tokens };
        f(&mut tx, &mut ctx);
        let start = Instant::now();
        let outlook = reconcile(&mut tx, &mut ctx, known);
        let took = start.elapsed();
        self.state = self.state.apply(self.state.index() + 1, &tx.into_changes());
        self.outlook = outlook;
        took
    }
}

fn report(tx: &mut Tx, ctx: &Ctx<'_>, task: &Task, state: TaskState) {
    let status = TaskStatus { timestamp: ctx.now, state, ..TaskStatus::default() };
    let node = task.node.clone().unwrap();
    status::report(tx, ctx, &node, [(task.id.clone(), status)]);
}

/// The best of several: what else the machine does is not measured.
fn best(mut f: impl FnMut() -> Duration) -> Duration {
    (0..15).map(|_| f()).min().unwrap()
}

#[test]
fn a_report_among_two_thousand_tasks_costs_what_its_service_does() {
    let mut large = Large::new();
    let mut ids = large.state.tasks().map(|t| t.id.clone()).collect::<Vec<_>>().into_iter();
    let mut one = |large: &mut Large, narrow: bool| {
        let task = (**large.state.task(&ids.next().unwrap()).unwrap()).clone();
        let known = narrow.then(|| large.outlook.clone());
        // it fails: the slot gets another task, which is placed when its delay is over
        large.step(known.as_ref(), |tx, ctx| report(tx, ctx, &task, TaskState::Failed))
    };
    let whole = best(|| one(&mut large, false));
    let narrow = best(|| one(&mut large, true));
    println!("one failure among 2,000 tasks: {narrow:?}, looking at everything {whole:?}");
    let quiet = |large: &mut Large, known: Option<Outlook>| large.step(known.as_ref(), |_, _| {});
    let idle_whole = best(|| quiet(&mut large, None));
    let idle = best(|| {
        let known = large.outlook.clone();
        quiet(&mut large, Some(known))
    });
    println!("nothing: {idle:?}, looking at everything {idle_whole:?}");
    assert!(narrow * 2 < whole, "{narrow:?} against {whole:?}");
    assert!(idle * 20 < idle_whole, "{idle:?} against {idle_whole:?}");
}
