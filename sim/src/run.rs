//! One seed, from the start of a cluster to its rest.

use std::{sync::Arc, time::Duration};

use malha_kit::Rng;
use malha_simcluster::{SimCluster, SimConfig};
use rand::Rng as _;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Plant, Story,
    faults::Faults,
    invariants::{self, Violation, violated},
    users::Users,
    watch::Watch,
};

#[derive(Clone, Copy, Debug)]
pub struct RunConfig {
    pub seed: u64,
    /// A bug on purpose.
    pub plant: Option<Plant>,
}

/// How a seed ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub seed: u64,
    pub plant: Option<Plant>,
    pub violations: Vec<Violation>,
    pub story: Vec<String>,
    /// Of the story and of the state it ended in.
    pub hash: String,
}

impl Outcome {
    pub fn is_kept(&self) -> bool {
        self.violations.is_empty()
    }

    /// What tells this story again.
    pub fn command(&self) -> String {
        let plant = self.plant.map(|p| format!(" --plant {p}")).unwrap_or_default();
        format!("cargo run -p malha-sim -- --seed {}{plant} --story", self.seed)
    }
}

const TICK: Duration = Duration::from_millis(50);
/// How long a mended cluster may take to come to rest.
const REST: Duration = Duration::from_secs(60);
/// Nothing takes longer in virtual time: a run that does is stuck.
const END: Duration = Duration::from_secs(1800);

/// Plays one seed in a runtime of its own.
pub fn play(config: RunConfig) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(run(config))),
        Err(error) => {
            let violations = vec![violated("runtime", error)];
            Outcome { seed: config.seed, plant: config.plant, violations, story: Vec::new(), hash: String::new() }
        }
    }
}

async fn run(config: RunConfig) -> Outcome {
    let RunConfig { seed, plant } = config;
    let dice = Rng::from_seed(seed ^ 0x6d61_6c68_6100);
    let story = Story::begin();
    story.tell(format_args!("seed {seed}: three managers n1–n3, five workers n4–n8"));
    let watch = Arc::new(Watch::new(story.clone(), plant, dice.fork()));
    match timeout(END, Box::pin(tell(config, &watch, dice))).await {
        Ok(Ok(())) => story.tell("the end"),
        Ok(Err(violation)) => watch.violated(violation),
        Err(_) => watch.violated(violated("rest", "the run never ended")),
    }
    Outcome { seed, plant, violations: watch.violations(), story: story.lines(), hash: story.hash() }
}

async fn tell(config: RunConfig, watch: &Arc<Watch>, mut dice: Rng) -> Result<(), Violation> {
    let mut made_of = SimConfig::new(config.seed, 3, 5);
    made_of.hooks = watch.clone();
    made_of.snapshot_every = [40, 150, 1000][dice.random_range(0..3)];
    let mut cluster = Box::pin(SimCluster::start(made_of)).await.map_err(|e| violated("start", e))?;
    watch.arm();
    let mut faults = Faults { dice: dice.fork(), story: watch.story.clone() };
    let mut users = Users::new(watch.clone(), dice.fork(), &cluster);
    let mut leaders = Vec::new();
    users.begin(&cluster);
    pass(&cluster, watch, &mut leaders, Duration::from_secs(1)).await?;

    for _ in 0..dice.random_range(10..18) {
        for _ in 0..dice.random_range(0..3) {
            users.ask(&cluster);
        }
        if dice.random_ratio(3, 4) {
            faults.strike(&mut cluster).await.map_err(|e| violated("restart", e))?;
        }
        let pause = Duration::from_millis(dice.random_range(20..1600));
        pass(&cluster, watch, &mut leaders, pause).await?;
        if watch.is_violated() {
            return Ok(());
        }
    }

    faults.mend(&mut cluster).await.map_err(|e| violated("restart", e))?;
    users.rest().await;
    come_to_rest(&cluster, watch, &mut leaders).await?;
    invariants::acknowledged::at_rest(watch, &cluster.state())?;
    let state = cluster.state();
    watch.story.imply(&format!("{:?}", state.nodes().collect::<Vec<_>>()));
    watch.story.imply(&format!("{:?}", state.networks().collect::<Vec<_>>()));
    watch.story.imply(&format!("{:?}", state.services().collect::<Vec<_>>()));
    watch.story.imply(&format!("{:?}", state.tasks().collect::<Vec<_>>()));
    let (services, tasks, index) = (state.services().count(), state.task_count(), state.index());
    watch.story.tell(format_args!("at rest with {services} services and {tasks} tasks, after {index} log entries"));
    Ok(())
}

/// Lets time pass, with an eye on machines and leaders.
async fn pass(
    cluster: &SimCluster,
    watch: &Watch,
    leaders: &mut Vec<String>,
    pause: Duration,
) -> Result<(), Violation> {
    let end = Instant::now() + pause;
    while Instant::now() < end && !watch.is_violated() {
        sleep(TICK.min(end - Instant::now())).await;
        invariants::of_machines(cluster)?;
        let leads = |n: &&malha_simcluster::SimNode| n.manager().is_some_and(malha_manager::Manager::leads);
        let now: Vec<String> = cluster.nodes.iter().filter(leads).map(|n| n.name.clone()).collect();
        if now != *leaders {
            let who = if now.is_empty() { "nobody".to_owned() } else { now.join(" and ") };
            watch.story.tell(format_args!("{who} leads"));
            *leaders = now;
        }
    }
    Ok(())
}

/// Waits until all of [`invariants::of_rest`] holds and goes on to hold.
async fn come_to_rest(cluster: &SimCluster, watch: &Watch, leaders: &mut Vec<String>) -> Result<(), Violation> {
    const CALM: u32 = 5;
    let end = Instant::now() + REST;
    let mut calm = 0;
    while calm < CALM {
        pass(cluster, watch, leaders, TICK * 6).await?;
        if watch.is_violated() {
            return Ok(());
        }
        match invariants::of_rest(cluster) {
            Ok(()) => calm += 1,
            Err(violation) if Instant::now() > end => return Err(violation),
            Err(_) => calm = 0,
        }
    }
    Ok(())
}
