//! Faults in any order, then rest: what was promised still holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use malha_kit::Rng;
use malha_model::{ServiceId, TaskId, TaskState};
use malha_simcluster::{SimCluster, SimConfig, service};
use rand::Rng as _;
use tokio::time::sleep;

const SEEDS: u64 = 6;

/// One more run from `MALHA_SEED`, or a few.
fn seeds() -> Vec<u64> {
    match std::env::var("MALHA_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => vec![seed],
        None => {
            let count = std::env::var("MALHA_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(SEEDS);
            (0..count).collect()
        }
    }
}

fn in_virtual_time<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(test)
}

/// What was seen of each task; states only advance.
#[derive(Default)]
struct Seen {
    index: u64,
    states: BTreeMap<TaskId, TaskState>,
}

impl Seen {
    fn look(&mut self, cluster: &SimCluster) {
        let state = cluster.state();
        if state.index() < self.index {
            // those who are left have yet to apply what the one that crashed had
            return;
        }
        self.index = state.index();
        for task in state.tasks() {
            let before = self.states.insert(task.id.clone(), task.status.state);
            assert!(
                before.is_none_or(|b| b <= task.status.state),
                "{} went from {before:?} to {}",
                task.id,
                task.status.state
            );
        }
    }
}

async fn disturb(cluster: &mut SimCluster, dice: &mut Rng, story: &mut Vec<String>) {
    let index = dice.random_range(0..cluster.nodes.len());
    let id = cluster.nodes[index].id.clone();
    match dice.random_range(0..7) {
        0 if cluster.nodes[index].is_up() => {
            story.push(format!("crash {index}"));
            cluster.crash(index).await;
        }
        0 | 1 if !cluster.nodes[index].is_up() => {
            story.push(format!("restart {index}"));
            cluster.restart(index).await.unwrap();
        }
        2 => {
            story.push(format!("isolate {index}"));
            cluster.net.isolate(&id);
        }
        3 => {
            let other = dice.random_range(0..cluster.nodes.len());
            story.push(format!("cut {index} {other}"));
            cluster.net.cut(&id, &cluster.nodes[other].id);
        }
        4 => {
            story.push("heal".to_owned());
            cluster.net.heal();
        }
        _ => {
            let running = cluster.nodes[index].machine.running();
            if let Some(task) = running.first() {
                story.push(format!("kill {} on {index}", task.id));
                cluster.nodes[index].machine.kill(&task.id, 1);
            }
        }
    }
}

async fn run(seed: u64) -> Vec<String> {
    let mut cluster = SimCluster::start(SimConfig::new(seed, 3, 3)).await.unwrap();
    let network = cluster.create_network("net").await.unwrap();
    let mut dice = cluster.rng.fork();
    let mut story = vec![format!("seed {seed}")];
    let mut promised: BTreeSet<ServiceId> = BTreeSet::new();
    let mut seen = Seen::default();
    for round in 0..25 {
        disturb(&mut cluster, &mut dice, &mut story).await;
        if round % 5 == 0 {
            let replicas = dice.random_range(1..4);
            let created = cluster.create_service(service(&format!("s{round}"), replicas, &[&network])).await;
            story.push(format!("create s{round} x{replicas}: {}", created.is_ok()));
            promised.extend(created.ok());
        }
        let pause = dice.random_range(20..2500);
        for _ in 0..pause / 20 {
            sleep(Duration::from_millis(20)).await;
            seen.look(&cluster);
        }
    }
    story.push("heal for good".to_owned());
    cluster.net.heal();
    for index in 0..cluster.nodes.len() {
        if !cluster.nodes[index].is_up() {
            cluster.restart(index).await.unwrap();
        }
    }
    let whole = |c: &SimCluster| {
        let state = c.state();
        c.leader().is_some()
            && promised.iter().all(|id| {
                let wanted = state.service(id).and_then(|s| s.spec.mode.replicated.as_ref()?.replicas);
                wanted == Some(c.running(id).len() as u64)
            })
            && c.unrest().is_none()
    };
    let rest = cluster.within(Duration::from_secs(120), "rest", whole).await;
    if rest.is_err() {
        for id in &promised {
            println!("{id}: {} run, known {}", cluster.running(id).len(), cluster.state().service(id).is_some());
        }
        panic!("{story:#?}\nleader {:?}, unrest {:?}", cluster.leader(), cluster.unrest());
    }
    seen.look(&cluster);
    for node in &cluster.nodes {
        assert!(
            node.machine.starts().values().all(|n| *n == 1),
            "{story:#?}: a task was started twice on {}",
            node.name
        );
    }
    story.push(format!("{:?}", cluster.state().tasks().map(|t| (&t.id, &t.node, t.status.state)).collect::<Vec<_>>()));
    story.push(format!("{}", cluster.state().index()));
    story
}

#[test]
fn after_any_faults_the_swarm_comes_to_rest_and_keeps_its_promises() {
    for seed in seeds() {
        println!("seed {seed}");
        in_virtual_time(run(seed));
    }
}

#[test]
fn a_seed_tells_its_story_again() {
    let first = in_virtual_time(run(7));
    let again = in_virtual_time(run(7));
    assert_eq!(first, again);
}
