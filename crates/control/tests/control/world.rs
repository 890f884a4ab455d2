//! A swarm without machines: a state, a clock, and agents that do as they are told.
//!
//! Every write is followed by `reconcile`, by a check that one that looks at everything writes the same, that a second one
//! writes nothing, and by all invariants.

use std::{collections::BTreeMap, time::Duration};

use malha_model::*;
use malha_store::{Change, State, Tx};
use rand::{SeedableRng, rngs::SmallRng};

use malha_control::{Bootstrap, Ctx, Outlook, TokenSource, bootstrap, handle, new_node, reconcile, status};

#[derive(Debug)]
pub(super) struct Tokens;

impl TokenSource for Tokens {
    fn new_token(&self, root: &str) -> ApiResult<String> {
        Ok(format!("SWMTKN-1-{root}-new"))
    }
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) state: State,
    pub(super) now: Timestamp,
    pub(super) wake: Option<Timestamp>,
    outlook: Option<Outlook>,
    rng: SmallRng,
}

pub(super) const START: Timestamp = Timestamp(1_000_000_000_000_000_000);

pub(super) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl World {
    /// A swarm with `nodes` ready nodes `n1`, `n2`, …; the first is the manager.
    pub(super) fn new(nodes: usize) -> Self {
        Self::with_pool(nodes, &["10.0.0.0/8"], 24)
    }

    pub(super) fn with_pool(nodes: usize, pool: &[&str], subnet_size: u8) -> Self {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut ctx = Ctx { now: START, rng: &mut rng, tokens: &Tokens };
        let params = Bootstrap {
            cluster: "cluster".into(),
            first: new_node("first".into(), Role::Manager, Availability::Active, START),
            spec: defaults::cluster_spec(),
            root_ca: RootCa { cert_pem: "root".into(), key_pem: "secret".into(), ..RootCa::default() },
            default_addr_pool: pool.iter().map(|p| p.parse().unwrap()).collect(),
            subnet_size,
            data_path_port: defaults::DATA_PATH_PORT,
        };
        let objects = bootstrap(&mut ctx, params).unwrap().into_iter().filter(|o| o.kind() != Kind::Node);
        let state = State::default().apply(1, &objects.map(Change::Put).collect::<Vec<_>>());
        let mut world = Self { state, now: START, wake: None, outlook: None, rng };
        for i in 1..=nodes {
            world.add_node(&format!("n{i}"), if i == 1 { Role::Manager } else { Role::Worker });
        }
        world
    }

    pub(super) fn add_node(&mut self, id: &str, role: Role) {
        let number: u8 = id.trim_start_matches('n').parse().unwrap();
        let addr = std::net::IpAddr::from([192, 168, 0, number]);
        self.write(|tx, ctx| {
            let mut node = new_node(id.into(), role, Availability::Active, ctx.now);
            if role == Role::Manager {
                node.manager =
                    Some(ManagerStatus { leader: false, reachability: "reachable".into(), addr: String::new() });
            }
            tx.put(node);
            let description = NodeDescription {
                hostname: format!("host-{id}"),
                platform: Platform { architecture: "x86_64".into(), os: "linux".into() },
                resources: NodeResources { nano_cpus: 4_000_000_000, memory_bytes: 8 << 30 },
                ..NodeDescription::default()
            };
            status::node_described(tx, &id.into(), description, addr);
            status::node_up(tx, &id.into(), &addr.to_string());
        });
    }

    /// One transaction: `f`, then reconciliation; nothing where `f` fails.
    pub(super) fn transact<R>(&mut self, f: impl FnOnce(&mut Tx, &mut Ctx<'_>) -> ApiResult<R>) -> ApiResult<R> {
        let mut tx = Tx::at(&self.state, self.now);
        let mut ctx = Ctx { now: self.now, rng: &mut self.rng, tokens: &Tokens };
        let result = f(&mut tx, &mut ctx)?;
        let (mut whole, mut rng) = (tx.clone(), self.rng.clone());
        let whole_outlook = reconcile(&mut whole, &mut Ctx { now: self.now, rng: &mut rng, tokens: &Tokens }, None);
        let mut ctx = Ctx { now: self.now, rng: &mut self.rng, tokens: &Tokens };
        let outlook = reconcile(&mut tx, &mut ctx, self.outlook.as_ref());
        let changes = tx.into_changes();
        assert_eq!(changes, whole.into_changes(), "looking at everything finds nothing more");
        assert_eq!(outlook, whole_outlook);
        let before = self.state.clone();
        self.state = self.state.apply(self.state.index() + 1, &changes);
        let mut again = Tx::at(&self.state, self.now);
        let again_outlook = reconcile(&mut again, &mut ctx, None);
        assert_eq!(again.into_changes(), [], "a second pass at the same time writes nothing");
        assert_eq!(again_outlook, outlook, "a second pass wakes at the same time");
        self.wake = outlook.wake();
        assert!(self.wake.is_none_or(|w| w > self.now));
        self.outlook = Some(outlook);
        super::invariants::check(&before, &self.state);
        Ok(result)
    }

    pub(super) fn write(&mut self, f: impl FnOnce(&mut Tx, &mut Ctx<'_>)) {
        let done = self.transact(|tx, ctx| {
            f(tx, ctx);
            Ok(())
        });
        done.unwrap();
    }

    pub(super) fn ask(&mut self, request: ControlRequest) -> ApiResult<ControlResponse> {
        self.transact(|tx, ctx| handle(tx, ctx, request))
    }

    /// The error text of a request that must fail, and its HTTP status.
    pub(super) fn refused(&mut self, request: ControlRequest) -> (String, u16) {
        let before = self.state.clone();
        let e = self.ask(request).unwrap_err();
        assert_eq!(self.state, before);
        (e.message.clone(), e.http_status())
    }

    pub(super) fn create(&mut self, spec: ServiceSpec) -> ServiceId {
        match self.ask(ControlRequest::ServiceCreate { spec, registry_auth: None }) {
            Ok(ControlResponse::ServiceCreated { id, .. }) => id,
            other => panic!("{other:?}"),
        }
    }

    /// `service update` of the version at hand.
    pub(super) fn update(&mut self, id: &ServiceId, f: impl FnOnce(&mut ServiceSpec)) {
        let held = self.state.service(id).unwrap().clone();
        let mut spec = held.spec.clone();
        f(&mut spec);
        let request =
            ControlRequest::ServiceUpdate { id: id.to_string(), version: held.meta.version, spec, registry_auth: None };
        self.ask(request).unwrap();
    }

    pub(super) fn create_network(&mut self, name: &str, f: impl FnOnce(&mut NetworkSpec)) -> NetworkId {
        match self.ask(ControlRequest::NetworkCreate { spec: network_spec(name, f) }) {
            Ok(ControlResponse::NetworkCreated { id }) => id,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn edit_node(&mut self, id: &str, f: impl FnOnce(&mut NodeSpec)) {
        let held = self.state.node(&id.into()).unwrap().clone();
        let mut spec = held.spec.clone();
        f(&mut spec);
        self.ask(ControlRequest::NodeUpdate { id: id.into(), version: held.meta.version, spec }).unwrap();
    }

    /// The node says of itself that it has become larger or smaller.
    pub(super) fn resize(&mut self, id: &str, nano_cpus: i64, memory_bytes: i64) {
        let mut description = self.state.node(&id.into()).unwrap().description.clone();
        description.resources = NodeResources { nano_cpus, memory_bytes };
        let addr = std::net::IpAddr::from([192, 168, 0, 1]);
        self.write(|tx, _| status::node_described(tx, &id.into(), description, addr));
    }

    /// The node says that it has ways of its own to these subnets.
    pub(super) fn route(&mut self, id: &str, subnets: &[&str]) {
        let mut description = self.state.node(&id.into()).unwrap().description.clone();
        description.routes = subnets.iter().map(|s| route(s)).collect();
        let addr = self.state.node(&id.into()).unwrap().data_path_addr.unwrap();
        self.write(|tx, _| status::node_described(tx, &id.into(), description, addr));
    }

    pub(super) fn node_down(&mut self, id: &str) {
        self.write(|tx, ctx| status::node_down(tx, ctx, &id.into(), "heartbeat failure"));
    }

    pub(super) fn node_up(&mut self, id: &str) {
        self.write(|tx, _| status::node_up(tx, &id.into(), "192.168.0.1"));
    }

    pub(super) fn report(&mut self, task: &Task, state: TaskState) {
        let node = task.node.clone().unwrap();
        let container = ContainerStatus { container_id: "c".repeat(12) + task.id.as_str(), pid: 1, exit_code: 0 };
        let status = TaskStatus { timestamp: self.now, state, container: Some(container), ..TaskStatus::default() };
        self.write(|tx, ctx| status::report(tx, ctx, &node, [(task.id.clone(), status)]));
    }

    /// What each agent that is there would report next, for all of its tasks.
    pub(super) fn agents_step(&mut self) -> bool {
        let due: Vec<_> = self.state.tasks().filter_map(|t| self.next_report(t).map(|s| (t.clone(), s))).collect();
        for (task, state) in &due {
            self.report(task, *state);
        }
        !due.is_empty()
    }

    pub(super) fn next_report(&self, task: &Task) -> Option<TaskState> {
        let node = task.node.as_ref().and_then(|n| self.state.node(n))?;
        let state = task.status.state;
        if node.status.state != NodeState::Ready || state < TaskState::Assigned || state.is_terminal() {
            return None;
        }
        match task.desired_state {
            d if d > TaskState::Running => Some(TaskState::Shutdown),
            TaskState::Running if state < TaskState::Running => Some(TaskState::Running),
            TaskState::Ready if state < TaskState::Ready => Some(TaskState::Ready),
            _ => None,
        }
    }

    pub(super) fn pass(&mut self, d: Duration) {
        self.now = self.now.plus(d);
        self.write(|_, _| {});
    }

    /// Lets agents work and time pass until nothing happens any more (orphaning aside).
    pub(super) fn settle(&mut self) {
        for _ in 0..2000 {
            if self.agents_step() {
                continue;
            }
            match self.wake.filter(|w| w.since(self.now) < secs(3600)) {
                Some(wake) => self.pass(wake.since(self.now)),
                None => return,
            }
        }
        panic!("the world does not come to rest");
    }

    pub(super) fn service(&self, id: &ServiceId) -> &Service {
        self.state.service(id).unwrap()
    }

    /// Tasks of the service that are to run, by slot and age.
    pub(super) fn wanted(&self, id: &ServiceId) -> Vec<Task> {
        let mut out: Vec<Task> = self
            .state
            .tasks_of_service(id)
            .filter(|t| t.desired_state <= TaskState::Running)
            .map(|t| (**t).clone())
            .collect();
        out.sort_by_key(|t| (t.slot, t.meta.created_at, t.id.clone()));
        out
    }

    pub(super) fn running(&self, id: &ServiceId) -> usize {
        self.wanted(id).iter().filter(|t| t.status.state == TaskState::Running).count()
    }

    /// Tasks to run per node.
    pub(super) fn spread(&self, id: &ServiceId) -> BTreeMap<String, usize> {
        let mut out = BTreeMap::new();
        for task in self.wanted(id) {
            *out.entry(task.node.map(|n| n.to_string()).unwrap_or_default()).or_default() += 1;
        }
        out
    }
}

pub(super) fn network_spec(name: &str, f: impl FnOnce(&mut NetworkSpec)) -> NetworkSpec {
    let mut spec = NetworkSpec { name: name.into(), driver: "overlay".into(), ..NetworkSpec::default() };
    f(&mut spec);
    spec
}

pub(super) fn subnet(text: &str) -> IpamConfig {
    IpamConfig { subnet: Some(text.parse().unwrap()), ..IpamConfig::default() }
}

pub(super) fn route(subnet: &str) -> NodeRoute {
    NodeRoute { subnet: subnet.parse().unwrap(), device: "eth7".into() }
}

pub(super) fn service_spec(name: &str, f: impl FnOnce(&mut ServiceSpec)) -> ServiceSpec {
    let mut spec = ServiceSpec { name: name.into(), ..ServiceSpec::default() };
    spec.task_template.container_spec = Some(ContainerSpec { image: "hello:1".into(), ..ContainerSpec::default() });
    f(&mut spec);
    spec
}

pub(super) fn replicas(spec: &mut ServiceSpec, n: u64) {
    spec.mode.replicated = Some(Replicated { replicas: Some(n) });
}

pub(super) fn global(spec: &mut ServiceSpec) {
    spec.mode.global = Some(Empty {});
}

pub(super) fn image(spec: &mut ServiceSpec, name: &str) {
    spec.task_template.container_spec.as_mut().unwrap().image = name.into();
}

pub(super) fn on_network(spec: &mut ServiceSpec, target: &str) {
    let config = NetworkAttachmentConfig { target: target.into(), ..NetworkAttachmentConfig::default() };
    spec.task_template.networks.push(config);
}

pub(super) fn publish(spec: &mut ServiceSpec, published: u16, target: u16, mode: PublishMode) {
    let port =
        PortConfig { published_port: published, target_port: target, publish_mode: mode, ..PortConfig::default() };
    spec.endpoint_spec.get_or_insert_default().ports.push(port);
}

pub(super) fn constrain(spec: &mut ServiceSpec, constraint: &str) {
    spec.task_template.placement.get_or_insert_default().constraints.push(constraint.into());
}

pub(super) fn restart(spec: &mut ServiceSpec, f: impl FnOnce(&mut RestartPolicy)) {
    f(spec.task_template.restart_policy.get_or_insert_default());
}
