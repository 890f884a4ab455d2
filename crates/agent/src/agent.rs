//! Putting the parts of an agent together, and what others may ask of it.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use malha_kit::{Backoff, Rng, SharedClock, Tasks, watch};
use malha_model::{NodeId, Role, TaskId};
use malha_wire::Connector;
use tokio::{
    sync::{Mutex, Notify, Semaphore, mpsc, oneshot},
    time::{Instant, sleep},
};
use tracing::{error, warn};

use crate::{
    core::{Core, Event},
    description,
    disk::AgentDisk,
    executor::{Executor, Found, NodeNetworks},
    logs::Logs,
    networks::{Networks, keep_applied},
    reporter::Outbox,
    saved::{Saved, keep_saved, load},
    session::Session,
    worker::{SLOTS, Shared},
};

#[derive(Clone, Debug)]
pub struct AgentConfig {
    pub node: NodeId,
    /// Tunnel endpoint of this node.
    pub data_path_addr: IpAddr,
}

/// The world as the agent sees it.
#[derive(Clone)]
pub struct AgentDeps {
    pub executor: Arc<dyn Executor>,
    pub connector: Arc<dyn Connector>,
    pub disk: Arc<dyn AgentDisk>,
    /// Addresses of managers (`ip:port`) to begin with: those joined through, and this node's own while it is one.
    pub seeds: watch::Receiver<Vec<String>>,
    pub clock: SharedClock,
    pub rng: Rng,
}

/// Whether there is a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// `error` is what the last attempt ended with.
    Connecting {
        error: Option<String>,
    },
    Connected {
        manager: String,
    },
    /// The swarm does not know this node any more; it stays so unless somebody brings back an old state of the managers.
    Refused {
        error: String,
    },
}

/// A running agent; it ends with the task group that it was started in, leaving containers running.
#[derive(Clone, Debug)]
pub struct Agent {
    events: mpsc::Sender<Event>,
    managers: watch::Receiver<BTreeMap<NodeId, String>>,
    role: watch::Receiver<Option<Role>>,
    link: watch::Receiver<Link>,
    applied: watch::Receiver<Arc<NodeNetworks>>,
    renew: Arc<Notify>,
}

const EVENTS: usize = 256;
const LOG_MESSAGES: usize = 16;
const FOUND_RETRY_FIRST: Duration = Duration::from_millis(100);
const FOUND_RETRY_MAX: Duration = Duration::from_secs(2);
/// Before the parts of an agent begin again.
const PANIC_PAUSE_FIRST: Duration = Duration::from_millis(500);
const PANIC_PAUSE_MAX: Duration = Duration::from_secs(30);

impl Agent {
    pub fn start(config: AgentConfig, deps: AgentDeps, tasks: &Tasks) -> Self {
        let (events, event_receiver) = mpsc::channel(EVENTS);
        let (managers, managers_receiver) = watch::channel(BTreeMap::new());
        let (role, role_receiver) = watch::channel(None);
        let (link, link_receiver) = watch::channel(Link::Connecting { error: None });
        let (applied, applied_receiver) = watch::channel(Arc::new(NodeNetworks::default()));
        let agent = Self {
            events: events.clone(),
            managers: managers_receiver,
            role: role_receiver,
            link: link_receiver,
            applied: applied_receiver,
            renew: Arc::default(),
        };
        let channels = Channels {
            events,
            event_receiver: Arc::new(Mutex::new(event_receiver)),
            managers,
            role,
            link,
            applied,
            saved: watch::Sender::new(Arc::default()),
            outbox: Arc::default(),
        };
        tasks.spawn("agent", live(config, deps, channels, agent.clone(), tasks.clone()));
        agent
    }

    /// The managers of the swarm as last heard.
    pub fn managers(&self) -> watch::Receiver<BTreeMap<NodeId, String>> {
        self.managers.clone()
    }

    /// The role that this node is to have, once a manager has said so.
    pub fn role(&self) -> watch::Receiver<Option<Role>> {
        self.role.clone()
    }

    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    /// What names and maps of this node reflect.
    pub fn applied(&self) -> watch::Receiver<Arc<NodeNetworks>> {
        self.applied.clone()
    }

    /// Returns once names and maps know this task and all its networks: a stand-alone container waits for this between
    /// its attachment and its start.
    pub async fn task_networks_ready(&self, task: &TaskId) {
        let mut applied = self.applied.clone();
        let ready = |a: &Arc<NodeNetworks>| {
            let task = a.tasks.iter().find(|t| t.id == *task);
            task.is_some_and(|t| crate::task::networks_ready(t, a))
        };
        if applied.wait_for(ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Makes the session anew, over a connection that shows the node's present certificate. Nothing that runs notices.
    pub fn reconnect(&self) {
        self.renew.notify_one();
    }

    /// Ends and removes every task of this node, for one that leaves the swarm.
    pub async fn clear(&self) {
        loop {
            let (done, cleared) = oneshot::channel();
            // an error is an agent that has ended
            let asked = self.events.send(Event::Clear(done)).await.is_ok();
            // no answer is one that begins again
            if !asked || cleared.await.is_ok() {
                return;
            }
        }
    }
}

/// What outlives a panic of one of the agent's parts.
#[derive(Clone)]
struct Channels {
    events: mpsc::Sender<Event>,
    event_receiver: Arc<Mutex<mpsc::Receiver<Event>>>,
    managers: watch::Sender<BTreeMap<NodeId, String>>,
    role: watch::Sender<Option<Role>>,
    link: watch::Sender<Link>,
    applied: watch::Sender<Arc<NodeNetworks>>,
    saved: watch::Sender<Arc<Saved>>,
    outbox: Arc<Outbox>,
}

/// Where one of the agent's parts panics, all of them begin again with what they knew. Containers run on.
async fn live(config: AgentConfig, deps: AgentDeps, channels: Channels, agent: Agent, tasks: Tasks) {
    let mut backoff = Backoff::new(PANIC_PAUSE_FIRST, PANIC_PAUSE_MAX, deps.rng.clone());
    loop {
        let (parts, begun) = (tasks.child(), Instant::now());
        let core = run(config.clone(), deps.clone(), channels.clone(), agent.clone(), parts.clone());
        parts.spawn_vital("agent-core", core);
        parts.failed().await;
        error!("a part of the agent panicked; it begins again");
        parts.shutdown().await;
        // What was said to the parts before is for the next session, and for what is found, to say again.
        while channels.event_receiver.lock().await.try_recv().is_ok() {}
        channels.outbox.session_ended();
        channels.link.send_if_modified(|link| {
            let connected = matches!(link, Link::Connected { .. });
            if connected {
                *link = Link::Connecting { error: Some("a part of the agent panicked".to_owned()) };
            }
            connected
        });
        sleep(backoff.pause_after(begun.elapsed())).await;
    }
}

/// What was known last; the disk may lack the newest of it.
async fn last_known(config: &AgentConfig, disk: &dyn AgentDisk, saved: &watch::Sender<Arc<Saved>>) -> Option<Saved> {
    let last = saved.borrow().clone();
    let known = if last.node == config.node { Some((*last).clone()) } else { load(disk).await };
    known.filter(|known| known.node == config.node)
}

async fn run(config: AgentConfig, deps: AgentDeps, channels: Channels, agent: Agent, tasks: Tasks) {
    let AgentDeps { executor, connector, disk, seeds, clock, rng } = deps;
    let saved = last_known(&config, &*disk, &channels.saved).await;
    let found = find(&*executor, rng.fork()).await;

    let outbox = channels.outbox;
    let (log_sender, log_receiver) = mpsc::channel(LOG_MESSAGES);
    let saved_receiver = channels.saved.subscribe();
    let (wanted, wanted_receiver) = watch::channel(None);
    let (known, description) = watch::channel(None);
    let shared = Arc::new(Shared {
        executor: executor.clone(),
        clock,
        events: channels.events.clone(),
        applied: agent.applied.clone(),
        slots: Semaphore::new(SLOTS),
        rng: rng.fork(),
    });
    if let Some(saved) = &saved {
        channels.managers.send_replace(saved.managers.clone());
    }
    let views = saved.iter().flat_map(|s| s.views.iter().cloned());
    let core = Core {
        node: config.node,
        shared,
        outbox: outbox.clone(),
        logs: Logs::new(executor.clone(), log_sender, tasks.clone()),
        tasks: tasks.clone(),
        managers: agent.managers.clone(),
        saved: channels.saved,
        wanted,
        networks: Networks::restored(views),
        entries: BTreeMap::new(),
        found,
        halfway: false,
        known: false,
        clearing: Vec::new(),
    };
    let session = Session {
        data_path_addr: config.data_path_addr,
        executor: executor.clone(),
        description,
        connector,
        outbox: outbox.clone(),
        events: channels.events,
        logs: log_receiver,
        managers: channels.managers,
        seeds,
        role: channels.role,
        link: channels.link,
        renew: agent.renew,
        rng: rng.fork(),
    };
    let of = executor.clone();
    tasks.spawn_supervised("agent-description", move || description::follow(of.clone(), known.clone()));
    let (of, rng, applied) = (executor, rng.fork(), channels.applied);
    tasks.spawn_supervised("agent-networks", move || {
        keep_applied(of.clone(), wanted_receiver.clone(), applied.clone(), outbox.clone(), rng.clone())
    });
    tasks.spawn_supervised("agent-disk", move || keep_saved(disk.clone(), saved_receiver.clone()));
    tasks.spawn_vital("agent-session", session.run());
    core.run(saved, &mut *channels.event_receiver.lock().await).await;
}

/// What already runs on this node; without knowing it nothing can be decided.
async fn find(executor: &dyn Executor, rng: Rng) -> BTreeMap<TaskId, Found> {
    let mut backoff = Backoff::new(FOUND_RETRY_FIRST, FOUND_RETRY_MAX, rng);
    loop {
        match executor.found().await {
            Ok(found) => return found,
            Err(error) => warn!(%error, "the node's containers are not known yet; asking again"),
        }
        tokio::time::sleep(backoff.next_pause()).await;
    }
}

#[cfg(test)]
mod tests {
    use malha_kit::TokioClock;
    use malha_model::{NodeDescription, ServiceId, Task, TaskState, TaskStatus, Timestamp};
    use malha_simnet::{Latency, SimNet};
    use malha_wire::Peer;

    use super::*;
    use crate::{disk::MemoryDisk, saved::SavedTask, testing::ScriptedExecutor};

    /// With all managers away: what it knew is all it has.
    #[tokio::test(start_paused = true)]
    async fn after_a_panic_the_parts_begin_again_with_what_they_knew_and_containers_run_on() {
        let (node, tasks) = (NodeId::from("n"), Tasks::new());
        let assigned = |id: &str| SavedTask {
            task: Arc::new(Task {
                id: id.into(),
                service: Some(ServiceId::from("s")),
                node: Some(node.clone()),
                desired_state: TaskState::Running,
                ..Task::default()
            }),
            status: TaskStatus { state: TaskState::Assigned, ..TaskStatus::default() },
        };
        let saved = Saved { node: node.clone(), tasks: vec![assigned("a"), assigned("b")], ..Saved::default() };
        let disk = MemoryDisk::default();
        disk.save("agent.json", serde_json::to_vec(&saved).unwrap()).await.unwrap();
        let executor = ScriptedExecutor::new(node.clone(), NodeDescription::default());
        let net = SimNet::new(Latency::default(), Rng::from_seed(1));
        let peer = Peer { node: node.clone(), role: Role::Worker, cluster: "c".into() };
        let deps = AgentDeps {
            executor: Arc::new(executor.clone()),
            connector: Arc::new(net.connector(peer)),
            disk: Arc::new(disk.clone()),
            seeds: watch::channel(Vec::new()).1,
            clock: Arc::new(TokioClock::starting_at(Timestamp(1))),
            rng: Rng::from_seed(1),
        };
        let agent = Agent::start(AgentConfig { node, data_path_addr: [10, 9, 0, 1].into() }, deps, &tasks);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(executor.running().len(), 2);

        // Of what the disk does not know by then, it knows.
        disk.save("agent.json", Vec::new()).await.unwrap();
        for _ in 0..3 {
            assert!(agent.events.send(Event::Planted).await.is_ok());
            sleep(Duration::from_secs(5)).await;
        }
        assert!(executor.kill(&"b".into(), 3));
        sleep(Duration::from_secs(1)).await;
        assert_eq!(executor.starts(), BTreeMap::from([("a".into(), 1), ("b".into(), 1)]));
        let kept: Saved = serde_json::from_slice(&disk.load("agent.json").await.unwrap().unwrap()).unwrap();
        let states: Vec<_> = kept.tasks.iter().map(|t| t.status.state).collect();
        assert_eq!(states, [TaskState::Running, TaskState::Failed], "whose end it saw");
        // Nobody who waits for its end waits for ever, or goes on too early.
        let clearing = agent.clone();
        let cleared = tokio::spawn(async move { clearing.clear().await });
        assert!(agent.events.send(Event::Planted).await.is_ok());
        cleared.await.unwrap();
        assert!(executor.containers().is_empty());
        tasks.shutdown().await;
        agent.clear().await;
    }
}
