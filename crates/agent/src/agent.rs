//! Putting the parts of an agent together, and what others may ask of it.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use malha_kit::{Backoff, Rng, SharedClock, Tasks, watch};
use malha_model::{NodeId, Role, TaskId};
use malha_wire::Connector;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tracing::warn;

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
        let channels = Channels { events, event_receiver, managers, role, link, applied };
        tasks.spawn("agent", run(config, deps, channels, agent.clone(), tasks.clone()));
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
        let (done, cleared) = oneshot::channel();
        if self.events.send(Event::Clear(done)).await.is_ok() {
            // an error is an agent that has ended
            cleared.await.ok();
        }
    }
}

struct Channels {
    events: mpsc::Sender<Event>,
    event_receiver: mpsc::Receiver<Event>,
    managers: watch::Sender<BTreeMap<NodeId, String>>,
    role: watch::Sender<Option<Role>>,
    link: watch::Sender<Link>,
    applied: watch::Sender<Arc<NodeNetworks>>,
}

async fn run(config: AgentConfig, deps: AgentDeps, channels: Channels, agent: Agent, tasks: Tasks) {
    let AgentDeps { executor, connector, disk, seeds, clock, rng } = deps;
    let saved = load(&*disk).await.filter(|saved| saved.node == config.node);
    let found = find(&*executor, rng.fork()).await;

    let outbox = Arc::new(Outbox::default());
    let (log_sender, log_receiver) = mpsc::channel(LOG_MESSAGES);
    let (saved_sender, saved_receiver) = watch::channel(Arc::new(Saved::default()));
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
        saved: saved_sender,
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
    tasks.spawn("agent-description", description::follow(executor.clone(), known));
    tasks.spawn("agent-networks", keep_applied(executor, wanted_receiver, channels.applied, outbox, rng.fork()));
    tasks.spawn("agent-disk", keep_saved(disk, saved_receiver));
    tasks.spawn("agent-session", session.run());
    core.run(saved, channels.event_receiver).await;
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
