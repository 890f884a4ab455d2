//! A swarm of one manager in memory: services run the moment they are created.

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard},
};

use futures::StreamExt;
use malha_api::{
    backend::{Cluster, InitRequest, JoinRequest, LocalState, SwarmInfo, SwarmLogs},
    errors,
};
use malha_kit::{Clock, SystemClock};
use malha_model::{
    ApiError, ApiResult, Cluster as ClusterObject, Code, ControlRequest, ControlResponse, Endpoint, IpamConfig,
    LogLine, LogOptions, LogSelector, ManagerStatus, Meta, Network, NetworkAttachment, NetworkSpec, NetworkView, Node,
    NodeDescription, NodeId, NodeState, NodeStatus, PublishMode, Role, RootCa, Service, ServiceSpec, ServiceWithStatus,
    Task, TaskState, TaskStatus, VirtualIp, defaults, random_id,
};

pub(crate) const NODE: &str = "1node0000000000000000000a";

#[derive(Default)]
pub(crate) struct State {
    pub(crate) active: bool,
    pub(crate) worker: bool,
    version: u64,
    cluster: ClusterObject,
    nodes: Vec<Node>,
    pub(crate) services: Vec<Service>,
    pub(crate) tasks: Vec<Task>,
    networks: Vec<Network>,
    pub(crate) last_auth: Option<String>,
}

#[derive(Default)]
pub(crate) struct FakeCluster(Mutex<State>);

impl FakeCluster {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Makes the swarm, as `init` does.
    pub(crate) fn found(&self) {
        let mut s = self.state();
        s.active = true;
        let meta = s.meta();
        s.cluster = ClusterObject {
            id: "1cluster".into(),
            meta,
            spec: defaults::cluster_spec(),
            root_ca: RootCa {
                worker_token: "SWMTKN-1-root-worker".into(),
                manager_token: "SWMTKN-1-root-manager".into(),
                ..RootCa::default()
            },
            ..ClusterObject::default()
        };
        let description = NodeDescription { hostname: "node1".into(), ..NodeDescription::default() };
        let mut node = Node { id: NODE.into(), meta, description, observed_role: Role::Manager, ..Node::default() };
        node.spec.role = Role::Manager;
        node.status = NodeStatus { state: NodeState::Ready, addr: "192.0.2.1".into(), ..NodeStatus::default() };
        let addr = "192.0.2.1:2377".into();
        node.manager = Some(ManagerStatus { leader: true, reachability: "reachable".into(), addr });
        s.nodes.push(node);
        s.add_network(NetworkSpec {
            name: "ingress".into(),
            driver: "overlay".into(),
            ingress: true,
            ..NetworkSpec::default()
        });
    }
}

impl State {
    fn meta(&mut self) -> Meta {
        self.version += 1;
        let now = SystemClock.now();
        Meta { version: self.version, created_at: now, updated_at: now }
    }

    fn add_network(&mut self, spec: NetworkSpec) -> malha_model::NetworkId {
        let n = self.networks.len();
        let mut config = spec.ipam.config.clone();
        if config.is_empty() {
            let subnet = format!("10.0.{n}.0/24").parse().ok();
            let gateway = Some(IpAddr::from([10, 0, u8::try_from(n).unwrap(), 1]));
            config.push(IpamConfig { subnet, gateway, ..IpamConfig::default() });
        }
        let meta = self.meta();
        let vnis = vec![4096 + u32::try_from(n).unwrap()];
        let id = new_id();
        self.networks.push(Network { id: id.as_str().into(), meta, spec, ipam: config, vnis, ..Network::default() });
        id.as_str().into()
    }

    fn network(&self, id: &str) -> ApiResult<Network> {
        find(&self.networks, id, "network", |n| n.id.as_str(), |n| &n.spec.name)
    }

    fn service(&self, id: &str) -> ApiResult<Service> {
        find(&self.services, id, "service", |s| s.id.as_str(), |s| &s.spec.name)
    }

    fn add_service(&mut self, mut spec: ServiceSpec) -> ApiResult<Service> {
        if self.services.iter().any(|s| s.spec.name == spec.name) {
            let text = format!("name conflicts with an existing object: service {} already exists", spec.name);
            return Err(ApiError::rpc(Code::AlreadyExists, text));
        }
        for n in &mut spec.task_template.networks {
            n.target = self.network(&n.target)?.id.to_string();
        }
        let meta = self.meta();
        let mut service = Service { id: new_id().as_str().into(), meta, spec, ..Service::default() };
        service.spec_version = meta.version;
        service.endpoint = self.endpoint(&service.spec);
        self.run(&service);
        self.services.push(service.clone());
        Ok(service)
    }

    fn update_service(&mut self, id: &str, version: u64, mut spec: ServiceSpec) -> ApiResult<()> {
        let old = self.service(id)?;
        if version != old.meta.version {
            return Err(ApiError::rpc(Code::Unknown, "update out of sequence"));
        }
        for n in &mut spec.task_template.networks {
            n.target = self.network(&n.target)?.id.to_string();
        }
        let meta = self.meta();
        let service = Service {
            meta: Meta { created_at: old.meta.created_at, ..meta },
            previous_spec: Some(old.spec.clone()),
            endpoint: self.endpoint(&spec),
            spec,
            spec_version: meta.version,
            ..old
        };
        self.services.retain(|s| s.id != service.id);
        self.run(&service);
        self.services.push(service);
        Ok(())
    }

    fn endpoint(&self, spec: &ServiceSpec) -> Endpoint {
        let mut ports = spec.ports().to_vec();
        for p in ports.iter_mut().filter(|p| p.published_port == 0 && p.publish_mode == PublishMode::Ingress) {
            p.published_port = 30000;
        }
        let vip = |t: &str| VirtualIp { network: t.into(), addr: "10.0.1.2/24".parse().unwrap() };
        let virtual_ips = spec.task_template.networks.iter().map(|n| vip(&n.target)).collect();
        Endpoint { spec: spec.endpoint_spec.clone().unwrap_or_default(), ports, virtual_ips }
    }

    /// Gives the service its running tasks.
    fn run(&mut self, service: &Service) {
        let meta = self.meta();
        for t in self.tasks.iter_mut().filter(|t| t.service.as_ref() == Some(&service.id)) {
            t.desired_state = TaskState::Shutdown;
            t.status.state = TaskState::Shutdown;
        }
        for slot in 1..=service.spec.replicas() {
            let networks = service.spec.task_template.networks.iter().map(|n| NetworkAttachment {
                network: n.target.as_str().into(),
                addresses: vec!["10.0.1.3/24".parse().unwrap()],
                ..NetworkAttachment::default()
            });
            let networks = networks.collect();
            let status = TaskStatus {
                timestamp: meta.created_at,
                state: TaskState::Running,
                message: "started".into(),
                ..TaskStatus::default()
            };
            self.tasks.push(Task {
                id: new_id().as_str().into(),
                meta,
                service: Some(service.id.clone()),
                service_name: service.spec.name.clone(),
                slot,
                node: Some(NODE.into()),
                spec: service.spec.task_template.clone(),
                spec_version: service.spec_version,
                desired_state: TaskState::Running,
                status,
                networks,
                endpoint: service.endpoint.clone(),
                ..Task::default()
            });
        }
    }
}

fn new_id() -> String {
    random_id(&mut rand::rng())
}

fn find<T: Clone>(
    all: &[T],
    reference: &str,
    what: &str,
    id: impl Fn(&T) -> &str,
    name: impl Fn(&T) -> &str,
) -> ApiResult<T> {
    let mut found = all.iter().filter(|o| id(o).starts_with(reference) || name(o) == reference);
    found.next().cloned().ok_or_else(|| ApiError::not_found(format!("{what} {reference} not found")))
}

#[async_trait::async_trait]
impl Cluster for FakeCluster {
    async fn control(&self, request: ControlRequest) -> ApiResult<ControlResponse> {
        let mut s = self.state();
        if !s.active {
            return Err(errors::not_in_swarm_mode());
        }
        if s.worker {
            return Err(errors::not_a_manager());
        }
        answer(&mut s, request)
    }

    async fn init(&self, _: InitRequest) -> ApiResult<NodeId> {
        if self.state().active {
            return Err(errors::already_in_a_swarm());
        }
        self.found();
        Ok(NODE.into())
    }

    async fn join(&self, request: JoinRequest) -> ApiResult<()> {
        if request.join_token != "SWMTKN-1-root-worker" {
            return Err(ApiError::invalid("A valid join token is necessary to join this cluster"));
        }
        let mut s = self.state();
        (s.active, s.worker) = (true, true);
        Ok(())
    }

    async fn leave(&self, _: bool) -> ApiResult<()> {
        let mut s = self.state();
        if !s.active {
            return Err(errors::not_in_a_swarm());
        }
        *s = State::default();
        Ok(())
    }

    async fn info(&self) -> SwarmInfo {
        let s = self.state();
        if !s.active {
            return SwarmInfo::default();
        }
        SwarmInfo {
            node_id: NODE.into(),
            node_addr: "192.0.2.1".into(),
            state: LocalState::Active,
            control_available: !s.worker,
            leader_known: !s.worker,
            ..SwarmInfo::default()
        }
    }

    async fn logs(&self, selector: LogSelector, options: LogOptions) -> ApiResult<SwarmLogs> {
        let s = self.state();
        let of = |t: &&Task| match &selector {
            LogSelector::Service(id) => t.service.as_ref() == Some(id),
            LogSelector::Task(id) => &t.id == id,
        };
        let lines: Vec<Result<LogLine, String>> = s.tasks.iter().filter(of).map(|t| Ok(line(t))).collect();
        let tail = options.tail.map_or(0, |n| lines.len().saturating_sub(usize::try_from(n).unwrap()));
        let missing = Err("node lost is not available".to_owned());
        Ok(futures::stream::iter(lines.into_iter().skip(tail).chain(options.since.map(|_| missing))).boxed())
    }

    async fn unlock(&self, _: String) -> ApiResult<()> {
        self.control(ControlRequest::ClusterGet).await?;
        Err(ApiError::plain(Code::AlreadyExists, "swarm is not locked"))
    }

    async fn unlock_key(&self) -> ApiResult<String> {
        self.control(ControlRequest::ClusterGet).await?;
        Ok(String::new())
    }
}

fn line(t: &Task) -> LogLine {
    LogLine {
        node: NODE.into(),
        service: t.service.clone(),
        task: t.id.clone(),
        timestamp: t.meta.created_at,
        stream: 1,
        data: format!("hello from slot {}\n", t.slot).into_bytes(),
    }
}

fn answer(s: &mut State, request: ControlRequest) -> ApiResult<ControlResponse> {
    use ControlRequest as Q;
    use ControlResponse as A;
    Ok(match request {
        Q::ClusterGet => A::Cluster(s.cluster.clone()),
        Q::ClusterUpdate { version, spec, rotate_worker_token, .. } => {
            if version != s.cluster.meta.version {
                return Err(ApiError::rpc(Code::Unknown, "update out of sequence"));
            }
            s.cluster.spec = spec;
            s.cluster.meta = s.meta();
            if rotate_worker_token {
                s.cluster.root_ca.worker_token = "SWMTKN-1-root-rotated".into();
            }
            A::Done
        }
        Q::NodeList => A::Nodes(s.nodes.clone()),
        Q::NodeGet { id } => A::Node(find(&s.nodes, &id, "node", |n| n.id.as_str(), Node::name)?),
        Q::NodeUpdate { id, spec, .. } => {
            let node = find(&s.nodes, &id, "node", |n| n.id.as_str(), Node::name)?;
            let at = s.nodes.iter().position(|n| n.id == node.id).unwrap();
            s.nodes[at].spec = spec;
            A::Done
        }
        Q::ServiceList => {
            let status = |service: &Service| {
                let of = s.tasks.iter().filter(|t| t.service.as_ref() == Some(&service.id));
                let running = of.filter(|t| t.status.state == TaskState::Running).count() as u64;
                ServiceWithStatus { service: service.clone(), running, desired: service.spec.replicas(), completed: 0 }
            };
            A::Services(s.services.iter().map(status).collect())
        }
        Q::ServiceGet { id } => A::Service(s.service(&id)?),
        Q::ServiceCreate { spec, registry_auth } => {
            s.last_auth = registry_auth;
            A::ServiceCreated { id: s.add_service(spec)?.id, warnings: vec![] }
        }
        Q::ServiceUpdate { id, version, spec, .. } => {
            s.update_service(&id, version, spec)?;
            A::ServiceUpdated { warnings: vec![] }
        }
        Q::ServiceRemove { id } => {
            let id = s.service(&id)?.id;
            s.services.retain(|x| x.id != id);
            s.tasks.retain(|t| t.service.as_ref() != Some(&id));
            A::Done
        }
        Q::TaskList => A::Tasks(s.tasks.clone()),
        Q::TaskGet { id } => A::Task(find(&s.tasks, &id, "task", |t| t.id.as_str(), |_| "")?),
        Q::NetworkList => A::Networks(s.networks.clone()),
        Q::NetworkGet { id } => A::Network(s.network(&id)?),
        Q::NetworkCreate { spec } => A::NetworkCreated { id: s.add_network(spec) },
        Q::NetworkRemove { id } => {
            let n = s.network(&id)?;
            let uses = |x: &&Service| x.spec.task_template.networks.iter().any(|a| a.target == n.id.as_str());
            if let Some(user) = s.services.iter().find(uses) {
                let text = format!("network {} is in use by service {}", n.id, user.id);
                return Err(ApiError::rpc(Code::FailedPrecondition, text));
            }
            s.networks.retain(|x| x.id != n.id);
            A::Done
        }
        Q::NetworkView { id } => A::NetworkView(NetworkView { network: s.network(&id)?, ..NetworkView::default() }),
        other => return Err(ApiError::internal(format!("the double does not know {other:?}"))),
    })
}
