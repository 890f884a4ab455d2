//! One machine: disks, containers and certificate that last, and a process that may die.

use std::{net::IpAddr, sync::Arc, time::Duration};

use malha_agent::{Agent, AgentConfig, AgentDeps, MemoryDisk, testing::ScriptedExecutor};
use malha_consensus::{Config, Consensus, SimDisk};
use malha_kit::{Tasks, watch};
use malha_manager::{ConnectorTransport, Manager, ManagerConfig, ManagerDeps, join_raft};
use malha_model::{
    ApiError, ApiResult, ClusterId, ClusterSpec, EngineDescription, NodeDescription, NodeId, NodeResources, Platform,
    PluginDescription, Role,
};
use malha_simnet::{SimConnector, SimNet};
use malha_store::State;
use malha_wire::Peer;

use crate::{World, found, hooks::AnyDisk};

pub struct SimNode {
    pub id: NodeId,
    pub name: String,
    pub role: Role,
    pub cluster: ClusterId,
    /// `ip:port` of its manager, while it has one.
    pub addr: String,
    pub machine: ScriptedExecutor,
    pub raft_disk: SimDisk,
    agent_disk: MemoryDisk,
    connector: SimConnector,
    data_path_addr: IpAddr,
    /// Managers that the node was given when it joined.
    seeds: Vec<String>,
    process: Option<Process>,
}

struct Process {
    tasks: Tasks,
    manager: Option<Manager>,
    agent: Agent,
}

const SYNC: std::ops::RangeInclusive<Duration> = Duration::from_micros(200)..=Duration::from_millis(3);

impl SimNode {
    fn new(world: &World, index: usize, id: NodeId, role: Role, cluster: ClusterId, seeds: Vec<String>) -> Self {
        let name = format!("n{}", index + 1);
        let octet = u8::try_from(index + 1).unwrap_or(u8::MAX);
        let peer = Peer { node: id.clone(), role, cluster: cluster.clone() };
        Self {
            machine: ScriptedExecutor::new(id.clone(), description(&name)),
            raft_disk: SimDisk::new(world.rng.fork(), SYNC),
            agent_disk: MemoryDisk::default(),
            connector: world.net.connector(peer),
            addr: address(index),
            data_path_addr: IpAddr::from([10, 99, 0, octet]),
            seeds,
            process: None,
            id,
            name,
            role,
            cluster,
        }
    }

    /// The first node, with a swarm of its own.
    pub(crate) async fn found(world: &World, spec: ClusterSpec) -> ApiResult<Self> {
        let raft_disk = SimDisk::new(world.rng.fork(), SYNC);
        let unknown = Peer { node: NodeId::default(), role: Role::Manager, cluster: ClusterId::default() };
        let nobody = world.net.connector(unknown);
        let start = async |id: NodeId| consensus(world, &id, &address(0), &raft_disk, &nobody).await;
        let (id, cluster, consensus) = found(spec, world, start).await?;
        // what it runs with from now on has its own certificate
        consensus.shutdown().await;
        let mut node = Self::new(world, 0, id, Role::Manager, cluster, vec![address(0)]);
        node.raft_disk = raft_disk;
        node.start(world, None).await?;
        Ok(node)
    }

    pub(crate) async fn join(
        world: &World,
        index: usize,
        id: NodeId,
        role: Role,
        cluster: ClusterId,
        seeds: &[String],
    ) -> ApiResult<Self> {
        let mut node = Self::new(world, index, id, role, cluster, seeds.to_vec());
        node.start(world, (role == Role::Manager).then_some(seeds)).await?;
        Ok(node)
    }

    /// Starts the node's process; a new manager joins the group through `join`.
    pub(crate) async fn start(&mut self, world: &World, join: Option<&[String]>) -> ApiResult<()> {
        let tasks = Tasks::new();
        let connector = world.hooks.connector(self.connector.clone());
        let manager = match self.role {
            Role::Worker => None,
            Role::Manager => Some(self.start_manager(world, &tasks).await?),
        };
        if let Some(candidates) = join {
            join_raft(&self.connector, candidates, &self.addr).await?;
        }
        let mut seeds = self.seeds.clone();
        if manager.is_some() {
            seeds.push(self.addr.clone());
        }
        let (_, seeds) = watch::channel(seeds);
        let deps = AgentDeps {
            executor: Arc::new(self.machine.clone()),
            connector,
            disk: Arc::new(self.agent_disk.clone()),
            seeds,
            clock: world.clock.clone(),
            rng: world.rng.fork(),
        };
        let config = AgentConfig { node: self.id.clone(), data_path_addr: self.data_path_addr };
        let agent = Agent::start(config, deps, &tasks);
        self.process = Some(Process { tasks, manager, agent });
        Ok(())
    }

    async fn start_manager(&self, world: &World, tasks: &Tasks) -> ApiResult<Manager> {
        let consensus = consensus(world, &self.id, &self.addr, &self.raft_disk, &self.connector).await?;
        let deps = ManagerDeps {
            consensus,
            connector: Arc::new(self.connector.clone()),
            clock: world.clock.clone(),
            rng: world.rng.fork(),
        };
        let manager = Manager::start(ManagerConfig { node: self.id.clone() }, deps, tasks);
        world.net.listen(&self.addr, self.id.clone(), Arc::new(manager.clone()));
        Ok(manager)
    }

    /// As the daemon does where the managers ask for it: the role shows in the next connection.
    pub(crate) async fn change_role(&mut self, world: &World, role: Role, managers: &[String]) -> ApiResult<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        self.certify(role);
        match role {
            Role::Manager => {
                // what it may hold of an earlier time as a manager is not to be believed
                self.raft_disk = SimDisk::new(world.rng.fork(), SYNC);
                process.manager = Some(self.start_manager(world, &process.tasks).await?);
                join_raft(&self.connector, managers, &self.addr).await?;
            }
            Role::Worker => {
                world.net.unlisten(&self.addr);
                if let Some(manager) = process.manager.take() {
                    manager.consensus().shutdown().await;
                }
            }
        }
        process.agent.reconnect();
        self.process = Some(process);
        Ok(())
    }

    pub(crate) fn certify(&mut self, role: Role) {
        self.role = role;
        self.connector.set_role(role);
    }

    pub(crate) async fn crash(&mut self, net: &SimNet) {
        let Some(process) = self.process.take() else { return };
        self.raft_disk.crash();
        net.crash(&self.id);
        process.tasks.shutdown().await;
        if let Some(manager) = process.manager {
            manager.consensus().shutdown().await;
        }
    }

    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    pub fn manager(&self) -> Option<&Manager> {
        self.process.as_ref()?.manager.as_ref()
    }

    pub fn agent(&self) -> Option<&Agent> {
        self.process.as_ref().map(|p| &p.agent)
    }

    /// As this node's manager holds it; empty on others.
    pub fn state(&self) -> Arc<State> {
        self.manager().map(|m| m.consensus().state().borrow().clone()).unwrap_or_default()
    }
}

async fn consensus(
    world: &World,
    id: &NodeId,
    addr: &str,
    disk: &SimDisk,
    connector: &SimConnector,
) -> ApiResult<Consensus> {
    let mut config = Config::new(id.clone(), addr.to_owned(), world.rng.fork(), world.clock.clone());
    config.snapshot_every = world.snapshot_every;
    let (hooks, node) = (world.hooks.clone(), id.clone());
    config.observer = Some(Arc::new(move |state| hooks.applied(&node, state)));
    let transport = Arc::new(ConnectorTransport::new(Arc::new(connector.clone())));
    Consensus::start(config, AnyDisk(world.hooks.disk(disk.open())), transport).await.map_err(ApiError::internal)
}

fn address(index: usize) -> String {
    format!("10.99.0.{}:2377", index + 1)
}

fn description(name: &str) -> NodeDescription {
    NodeDescription {
        hostname: name.to_owned(),
        platform: Platform { architecture: "x86_64".into(), os: "linux".into() },
        resources: NodeResources { nano_cpus: 4_000_000_000, memory_bytes: 8 << 30 },
        engine: EngineDescription {
            engine_version: "28.0.0".into(),
            plugins: vec![PluginDescription { kind: "Network".into(), name: "overlay".into() }],
            ..EngineDescription::default()
        },
        ..NodeDescription::default()
    }
}
