//! A whole cluster in one process under virtual time: the real managers and agents, machines that follow a script.
//!
//! Clock, network, disks and containers are the simulation's; everything between them is the product's own code. One seed
//! gives one run. Tests start it inside a paused, single-threaded tokio runtime (`#[tokio::test(start_paused = true)]`).

mod checks;
mod hooks;
mod node;

use std::{future::Future, sync::Arc, time::Duration};

use malha_consensus::Consensus;
use malha_kit::{Rng, SharedClock, TokioClock};
use malha_manager::{NewSwarmConfig, new_swarm};
use malha_model::{
    ApiError, ApiResult, Availability, ClusterSpec, ControlRequest, ControlResponse, NetworkId, NodeId, Role,
    ServiceId, ServiceSpec, Task, TaskState, Timestamp, defaults,
};
use malha_pki::NodeKey;
use malha_simnet::{Latency, SimNet};
use malha_store::State;
use malha_wire::{Connector as _, IssueRequest, Peer};
use tokio::time::{Instant, sleep, timeout};

pub use self::{hooks::Hooks, node::SimNode};

/// What a simulated cluster is made of.
#[derive(Clone, Debug)]
pub struct SimConfig {
    pub seed: u64,
    pub managers: usize,
    pub workers: usize,
    pub latency: Latency,
    pub spec: ClusterSpec,
    /// Log entries between two snapshots of a manager.
    pub snapshot_every: u64,
    pub hooks: Arc<dyn Hooks>,
}

impl SimConfig {
    pub fn new(seed: u64, managers: usize, workers: usize) -> Self {
        Self {
            seed,
            managers,
            workers,
            latency: Latency::default(),
            spec: defaults::cluster_spec(),
            snapshot_every: 1000,
            hooks: Arc::new(hooks::NoHooks),
        }
    }
}

pub struct SimCluster {
    pub net: SimNet,
    pub clock: SharedClock,
    pub rng: Rng,
    /// Managers first, then workers.
    pub nodes: Vec<SimNode>,
    snapshot_every: u64,
    hooks: Arc<dyn Hooks>,
}

/// Everything shared by the nodes of one cluster.
#[derive(Clone)]
pub(crate) struct World {
    pub net: SimNet,
    pub clock: SharedClock,
    pub rng: Rng,
    pub snapshot_every: u64,
    pub hooks: Arc<dyn Hooks>,
}

const EPOCH: Timestamp = Timestamp(1_750_000_000_000_000_000);
const POLL: Duration = Duration::from_millis(5);
/// For what should take a moment.
const PATIENCE: Duration = Duration::from_secs(60);

impl SimCluster {
    /// Starts all nodes, the first of them as the founder, and returns once every one has a session.
    pub async fn start(config: SimConfig) -> ApiResult<Self> {
        let rng = Rng::from_seed(config.seed);
        let clock: SharedClock = Arc::new(TokioClock::starting_at(EPOCH));
        let world = World {
            net: SimNet::new(config.latency, rng.fork()),
            clock: clock.clone(),
            rng: rng.clone(),
            snapshot_every: config.snapshot_every,
            hooks: config.hooks.clone(),
        };
        let first = SimNode::found(&world, config.spec).await?;
        let mut cluster = Self {
            net: world.net.clone(),
            clock,
            rng,
            nodes: vec![first],
            snapshot_every: config.snapshot_every,
            hooks: config.hooks,
        };
        cluster.eventually("the founder leads", |c| c.leader() == Some(0)).await?;
        for index in 1..config.managers + config.workers {
            let role = if index < config.managers { Role::Manager } else { Role::Worker };
            let node = cluster.join(&world, index, role).await?;
            cluster.nodes.push(node);
        }
        let all = cluster.nodes.len();
        cluster
            .eventually("every node has a session", |c| {
                let state = c.state();
                state.nodes().filter(|n| n.status.state == malha_model::NodeState::Ready).count() == all
            })
            .await?;
        Ok(cluster)
    }

    fn world(&self) -> World {
        World {
            net: self.net.clone(),
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            snapshot_every: self.snapshot_every,
            hooks: self.hooks.clone(),
        }
    }

    async fn join(&self, world: &World, index: usize, role: Role) -> ApiResult<SimNode> {
        let founder = &self.nodes[0];
        let root = founder.state().cluster().map(|c| c.root_ca.clone()).unwrap_or_default();
        let token = if role == Role::Manager { root.manager_token } else { root.worker_token };
        let key = NodeKey::generate().map_err(ApiError::internal)?;
        let request = IssueRequest {
            csr_pem: key.request_pem().map_err(ApiError::internal)?,
            token: Some(token),
            availability: Availability::Active,
        };
        let stranger =
            Peer { node: format!("stranger-{index}").as_str().into(), role, cluster: founder.cluster.clone() };
        let client = world.net.connector(stranger).connect(&founder.addr).await?;
        let issued = client.issue_certificate(request).await?;
        SimNode::join(world, index, issued.node, issued.role, issued.cluster, &self.manager_addrs()).await
    }

    /// Addresses of all managers, dead ones included.
    pub fn manager_addrs(&self) -> Vec<String> {
        self.nodes.iter().filter(|n| n.role == Role::Manager).map(|n| n.addr.clone()).collect()
    }

    /// The manager that leads, where there is one.
    pub fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(|n| n.manager().is_some_and(malha_manager::Manager::leads))
    }

    /// The newest state that any live manager holds.
    pub fn state(&self) -> Arc<State> {
        let states = self.nodes.iter().filter_map(SimNode::manager).map(|m| m.consensus().state().borrow().clone());
        states.max_by_key(|s| s.index()).unwrap_or_default()
    }

    pub fn node(&self, id: &NodeId) -> Option<&SimNode> {
        self.nodes.iter().find(|n| n.id == *id)
    }

    /// Asks the `index`th node's manager.
    pub async fn ask(&self, index: usize, request: ControlRequest) -> ApiResult<ControlResponse> {
        let manager = self.nodes[index].manager().ok_or_else(|| ApiError::internal("that manager is not running"))?;
        Box::pin(manager.request(request)).await
    }

    /// Asks any live manager, the next one where the first has no answer.
    pub async fn control(&self, request: ControlRequest) -> ApiResult<ControlResponse> {
        let mut last = ApiError::internal("no manager is running");
        for index in 0..self.nodes.len() {
            if self.nodes[index].manager().is_none() {
                continue;
            }
            match self.ask(index, request.clone()).await {
                Err(error) if error.http_status() == 503 => last = error,
                answer => return answer,
            }
        }
        Err(last)
    }

    pub async fn create_service(&self, spec: ServiceSpec) -> ApiResult<ServiceId> {
        match self.control(ControlRequest::ServiceCreate { spec, registry_auth: None }).await? {
            ControlResponse::ServiceCreated { id, .. } => Ok(id),
            other => Err(ApiError::internal(format!("{other:?}"))),
        }
    }

    pub async fn create_network(&self, name: &str) -> ApiResult<NetworkId> {
        let spec = malha_model::NetworkSpec {
            name: name.into(),
            driver: "overlay".into(),
            attachable: true,
            ..Default::default()
        };
        match self.control(ControlRequest::NetworkCreate { spec }).await? {
            ControlResponse::NetworkCreated { id } => Ok(id),
            other => Err(ApiError::internal(format!("{other:?}"))),
        }
    }

    /// Replaces the spec of a service by what `change` makes of it.
    pub async fn update_service(&self, id: &ServiceId, change: impl FnOnce(&mut ServiceSpec)) -> ApiResult<()> {
        let get = ControlRequest::ServiceGet { id: id.to_string() };
        let ControlResponse::Service(service) = self.control(get).await? else {
            return Err(ApiError::internal("not a service"));
        };
        let mut spec = service.spec;
        change(&mut spec);
        let id = id.to_string();
        let version = service.meta.version;
        self.control(ControlRequest::ServiceUpdate { id, version, spec, registry_auth: None }).await.map(drop)
    }

    /// Tasks of the service that run, as the managers see it.
    pub fn running(&self, service: &ServiceId) -> Vec<Arc<Task>> {
        let state = self.state();
        let runs = |t: &&Arc<Task>| t.status.state == TaskState::Running && t.desired_state == TaskState::Running;
        state.tasks_of_service(service).filter(runs).cloned().collect()
    }

    /// Waits until `condition` holds; says what did not come to pass otherwise.
    pub async fn eventually(&self, what: &str, condition: impl Fn(&Self) -> bool) -> ApiResult<Duration> {
        self.within(PATIENCE, what, condition).await
    }

    pub async fn within(
        &self,
        patience: Duration,
        what: &str,
        condition: impl Fn(&Self) -> bool,
    ) -> ApiResult<Duration> {
        let begin = Instant::now();
        let poll = async {
            while !condition(self) {
                sleep(POLL).await;
            }
        };
        match timeout(patience, poll).await {
            Ok(()) => Ok(begin.elapsed()),
            Err(_) => Err(ApiError::internal(format!("not within {patience:?}: {what}"))),
        }
    }

    /// The process of a node dies, with what it had not synced; its containers run on.
    pub async fn crash(&mut self, index: usize) {
        self.nodes[index].crash(&self.net).await;
    }

    /// Waits until the node is told that it is to have `role`, and does what its daemon would: a certificate of that role,
    /// a manager more or less, a session that shows it.
    pub async fn follow_role(&mut self, index: usize, role: Role) -> ApiResult<()> {
        self.eventually("the node hears of its role", |c| {
            c.nodes[index].agent().is_some_and(|a| *a.role().borrow() == Some(role))
        })
        .await?;
        let world = self.world();
        let managers = self.manager_addrs();
        self.nodes[index].change_role(&world, role, &managers).await
    }

    /// The node's daemon starts again with a certificate of `role`, and asks for no seat.
    pub async fn restart_as(&mut self, index: usize, role: Role) -> ApiResult<()> {
        self.crash(index).await;
        self.nodes[index].certify(role);
        self.restart(index).await
    }

    /// The node's daemon starts again, over what its disk and machine hold.
    pub async fn restart(&mut self, index: usize) -> ApiResult<()> {
        let world = self.world();
        self.nodes[index].start(&world, None).await
    }
}

/// Founds the swarm of the first node.
pub(crate) async fn found(
    spec: ClusterSpec,
    world: &World,
    start: impl AsyncFnOnce(NodeId) -> ApiResult<Consensus>,
) -> ApiResult<(NodeId, malha_model::ClusterId, Consensus)> {
    let config = NewSwarmConfig {
        spec,
        availability: Availability::Active,
        description: malha_model::NodeDescription::default(),
        default_addr_pool: Vec::new(),
        subnet_size: defaults::SUBNET_SIZE,
        data_path_port: defaults::DATA_PATH_PORT,
    };
    let swarm = new_swarm(config, world.clock.now(), &mut world.rng.clone())?;
    let consensus = start(swarm.node.clone()).await?;
    consensus.bootstrap(swarm.initial).await.map_err(ApiError::internal)?;
    Ok((swarm.node, swarm.cluster, consensus))
}

/// A service of `replicas` containers on `networks`.
pub fn service(name: &str, replicas: u64, networks: &[&NetworkId]) -> ServiceSpec {
    let mut spec = ServiceSpec { name: name.into(), ..ServiceSpec::default() };
    spec.mode.replicated = Some(malha_model::Replicated { replicas: Some(replicas) });
    spec.task_template.container_spec =
        Some(malha_model::ContainerSpec { image: "busybox:latest".into(), ..Default::default() });
    spec.task_template.networks = networks
        .iter()
        .map(|n| malha_model::NetworkAttachmentConfig { target: n.to_string(), ..Default::default() })
        .collect();
    spec
}

/// Runs `test` with a deadline in virtual time: a cluster has timers enough to wait for ever.
pub async fn bounded<T>(test: impl Future<Output = T>) -> Option<T> {
    timeout(Duration::from_secs(3600), test).await.ok()
}
