//! Names, maps and sandboxes of this node, kept as the swarm's views say.
//!
//! The one place where a view becomes kernel state and DNS zones. [`NodeNet::apply`] takes the whole state each time;
//! [`NodeNet::wire`] makes a container's sandbox before its process starts and [`NodeNet::unwire`] removes it. After a
//! restart of the daemon the sandboxes that stand are taken over by the first `apply`. All of it happens on threads of its
//! own ([`apart`]).

mod apart;
mod endpoint;
mod found;
mod gateway;
mod kernel;
mod routes;
mod zones;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use malha_agent::NodeNetworks;
use malha_api::backend::EndpointSettings;
use malha_dataplane::{GwBridgeConfig, NetError, NodeNetwork, SandboxState};
use malha_model::{DnsConfig, NetworkAttachment, NetworkId, PortConfig, Task, TaskState};
use malha_netplan::{
    NetworkMode, NodeInputs, PlanError, Resolver, SandboxInputs, SandboxPlan, build_plan, build_sandbox, hosts_file,
    task_sandbox,
};
use malha_runtime::ContainerFiles;
use parking_lot::Mutex;
use tokio::sync::{RwLock, watch};
use tracing::{info, warn};

pub(crate) use self::{
    apart::{KernelThreads, NodeNet},
    endpoint::endpoint_id,
    gateway::Gateway,
    kernel::Underlay,
};
use self::{
    endpoint::{endpoint_settings, host_network},
    kernel::{Kernel, opened},
    zones::Zones,
};
use super::turns::Turns;

/// How long a container waits for the views of its networks to arrive.
const VIEW_LIMIT: Duration = Duration::from_secs(20);
/// How long a task waits for a port of the node: one that its service gave up in the mesh is free a moment later.
const PORT_LIMIT: Duration = Duration::from_secs(5);
const PORT_PAUSE: Duration = Duration::from_millis(500);

struct Wiring {
    settings: Settings,
    dns: malha_dns::Server,
    /// Written to open and to close. Sandboxes are made and removed under the read half, many at a time: what one of them
    /// waits for must never keep a change of the swarm from the maps.
    kernel: RwLock<Option<Kernel>>,
    /// Held for moments, never across a wait.
    state: Mutex<State>,
    networks: watch::Sender<Arc<NodeNetworks>>,
    /// Sandboxes that are being made or removed: whoever removes one waits until a given-up attempt to make it has ended.
    turns: Turns,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Namespaces and what belongs to them; gone with a reboot, as they are.
    pub(crate) run_dir: PathBuf,
    /// Pinned programs and maps.
    pub(crate) pin_dir: PathBuf,
    /// Parent cgroup of all containers, where the socket programs are attached.
    pub(crate) cgroup: PathBuf,
    /// Name servers for containers; the node's own `resolv.conf` where empty.
    pub(crate) upstreams: Vec<IpAddr>,
}

#[derive(Default)]
struct State {
    /// How the bridge is made where there is none.
    bridge: GwBridgeConfig,
    sandboxes: BTreeMap<String, Sandbox>,
    zones: Zones,
    /// Left standing by a former daemon and not taken over yet.
    orphans: BTreeSet<String>,
    /// Of stand-alone containers that run on without: it went with the swarm.
    lost: BTreeSet<String>,
}

/// A sandbox that stands, and what its names are made from.
struct Sandbox {
    plan: SandboxPlan,
    kernel: SandboxState,
    networks: Vec<NetworkId>,
    resolver: Resolver,
}

/// A container that is to be wired: a task, or a stand-alone container with its attachments.
#[derive(Clone, Debug, Default)]
pub(crate) struct WireRequest {
    pub(crate) id: String,
    pub(crate) task: Option<Task>,
    pub(crate) attachments: Vec<NetworkAttachment>,
    pub(crate) host_ports: Vec<PortConfig>,
    /// Empty is the short container id, which is not known yet.
    pub(crate) hostname: String,
    pub(crate) dns: Option<DnsConfig>,
    pub(crate) hosts: Vec<String>,
}

/// What the container is started with.
#[derive(Clone, Debug)]
pub(crate) struct Wired {
    pub(crate) mode: malha_runtime::NetworkMode,
    pub(crate) files: ContainerFiles,
    /// By network name.
    pub(crate) networks: BTreeMap<String, EndpointSettings>,
    /// Host-mode ports as bound.
    pub(crate) ports: Vec<PortConfig>,
    pub(crate) sandbox_key: String,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("network {0} did not arrive from the managers within {VIEW_LIMIT:?}")]
    NoView(NetworkId),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("network sandbox: {0}")]
    Kernel(#[from] NetError),
    #[error("embedded DNS: {0}")]
    Dns(#[from] malha_dns::Error),
    #[error("the node's network is not open")]
    Closed,
    #[error("it is gone, with the swarm that the node was in")]
    Lost,
    #[error("the node's network failed: {0}")]
    Failed(#[from] tokio::task::JoinError),
    #[error("network with name docker_gwbridge already exists")]
    GatewayStands,
    #[error("a device docker_gwbridge with another address exists: remove it, or ask for its subnet")]
    OtherBridge,
    #[error("network docker_gwbridge has active endpoints: the node is in a swarm, or containers use it")]
    GatewayInUse,
}

impl Wiring {
    fn new(settings: Settings, dns: malha_dns::Server, bridge: GwBridgeConfig) -> Self {
        let (networks, _) = watch::channel(Arc::default());
        let state = Mutex::new(State { bridge, ..State::default() });
        Self { settings, dns, kernel: RwLock::default(), state, networks, turns: Turns::default() }
    }

    /// The state that was applied last.
    fn current(&self) -> Arc<NodeNetworks> {
        self.networks.borrow().clone()
    }

    /// Makes maps and names reflect `networks`. One caller, one state after the other. Maps come first: a name is to lead
    /// somewhere. Where not all of them can be written the names are told all the same, as most still do.
    async fn apply(&self, networks: Arc<NodeNetworks>) -> Result<(), WireError> {
        let kernel = self.kernel.read().await;
        let net = opened(&kernel)?;
        let plan =
            build_plan(&NodeInputs { node: networks.node.clone(), views: &networks.views, local: &networks.tasks });
        let applied = net.apply(&plan);
        {
            let mut state = self.state.lock();
            state.zones.refresh(&networks.views);
            for (id, sandbox) in &state.sandboxes {
                self.dns.update(id, state.zones.of(sandbox));
            }
        }
        self.take_over(net, &networks).await;
        applied?;
        self.networks.send_replace(networks);
        Ok(())
    }

    /// Registers sandboxes that a former daemon left standing.
    async fn take_over(&self, net: &NodeNetwork, networks: &NodeNetworks) {
        if self.state.lock().orphans.is_empty() {
            return;
        }
        let node_file = node_resolv_conf();
        for task in networks.tasks.iter().filter(|t| !t.is_attachment() && t.status.state <= TaskState::Running) {
            let id = task.id.to_string();
            let Ok(NetworkMode::Sandbox(plan)) = task_sandbox(task, &networks.views) else { continue };
            if !self.state.lock().orphans.remove(&id) {
                continue;
            }
            let dns = task.spec.container_spec.as_ref().and_then(|c| c.dns_config.clone());
            let wanted = task.networks.iter().map(|a| a.network.clone()).collect();
            match self.stand(net, plan, wanted, self.resolver(&node_file, dns.as_ref())).await {
                Ok(_) => info!(sandbox = id, "taken over"),
                Err(e) => warn!(sandbox = id, error = %e, "cannot take over"),
            }
        }
    }

    /// Makes (or finds) the sandbox and its resolver. Where that fails, what stood before is left standing: a container
    /// may run in it, and the next [`Self::apply`] tries again.
    async fn stand(
        &self,
        net: &NodeNetwork,
        plan: SandboxPlan,
        networks: Vec<NetworkId>,
        resolver: Resolver,
    ) -> Result<SandboxState, WireError> {
        let id = plan.id.clone();
        let _turn = self.turns.take(&id).await;
        let stood = net.sandboxes().stands(&id);
        let done = self.raise(net, plan, networks, resolver).await;
        if done.is_ok() || self.state.lock().sandboxes.contains_key(&id) {
            return done;
        }
        self.dns.remove(&id).await;
        if stood {
            self.state.lock().orphans.insert(id);
            return done;
        }
        match net.remove_sandbox(&id).await {
            Ok(()) => {
                self.state.lock().orphans.remove(&id);
            }
            Err(undo) => warn!(sandbox = id, error = %undo, "cannot remove a sandbox without names"),
        }
        done
    }

    async fn raise(
        &self,
        net: &NodeNetwork,
        plan: SandboxPlan,
        networks: Vec<NetworkId>,
        resolver: Resolver,
    ) -> Result<SandboxState, WireError> {
        let kernel = net.ensure_sandbox(&plan).await?;
        let id = plan.id.clone();
        let sandbox = Sandbox { networks, resolver, plan, kernel: kernel.clone() };
        let zone = self.state.lock().zones.of(&sandbox);
        let ports = self.dns.add(&id, &kernel.netns, zone).await?;
        net.set_resolver(&kernel, ports.udp, ports.tcp)?;
        // what was applied meanwhile knew nothing of this sandbox
        let mut state = self.state.lock();
        self.dns.update(&id, state.zones.of(&sandbox));
        state.lost.remove(&id);
        // until here whoever closes the network must see that it stands
        state.orphans.remove(&id);
        state.sandboxes.insert(id, sandbox);
        Ok(kernel)
    }

    fn resolver(&self, node_file: &str, dns: Option<&DnsConfig>) -> Resolver {
        let mut dns = dns.cloned().unwrap_or_default();
        if dns.nameservers.is_empty() {
            dns.nameservers = self.settings.upstreams.iter().map(ToString::to_string).collect();
        }
        Resolver::new(node_file, Some(&dns))
    }

    /// Makes the network of a container. Everything is undone where a step fails.
    async fn wire(self: &Arc<Self>, request: WireRequest) -> Result<Wired, WireError> {
        let attachments = match &request.task {
            Some(task) => task.networks.clone(),
            None => request.attachments.clone(),
        };
        let networks = self.views_of(&attachments).await?;
        let mode = match &request.task {
            Some(task) => task_sandbox(task, &networks.views)?,
            None => build_sandbox(
                &SandboxInputs {
                    id: request.id.clone(),
                    attachments: attachments.iter().collect(),
                    host_ports: request.host_ports.clone(),
                    sysctls: BTreeMap::new(),
                },
                &networks.views,
            )?,
        };
        let NetworkMode::Sandbox(plan) = mode else {
            let hosts = (!request.hosts.is_empty()).then(|| hosts_file("", &[], &request.hosts));
            let files = ContainerFiles { hosts, hostname: None, resolv_conf: None };
            let networks = host_network();
            return Ok(Wired {
                mode: malha_runtime::NetworkMode::Host,
                files,
                networks,
                ports: Vec::new(),
                sandbox_key: String::new(),
            });
        };
        let resolver = self.resolver(&node_resolv_conf(), request.dns.as_ref());
        let resolv_conf = resolver.resolv_conf();
        let own = plan.own_addresses();
        let ids: Vec<NetworkId> = attachments.iter().map(|a| a.network.clone()).collect();
        self.ensure_open().await?;
        let until = tokio::time::Instant::now() + PORT_LIMIT;
        if request.task.is_some() {
            self.mesh_lets_go(&plan.host_ports, until).await?;
        }
        let kernel = loop {
            let kernel = self.kernel.read().await;
            let patient = request.task.is_some() && tokio::time::Instant::now() < until;
            match self.stand(opened(&kernel)?, plan.clone(), Vec::clone(&ids), resolver.clone()).await {
                Err(WireError::Kernel(NetError::PortAllocated { .. })) if patient => {}
                stood => break stood?,
            }
            drop(kernel);
            tokio::time::sleep(PORT_PAUSE).await;
        };
        let endpoints = attachments.iter().filter_map(|a| {
            let network = &networks.views.get(&a.network)?.network;
            Some((network.name().to_owned(), endpoint_settings(&request.id, network, a)))
        });
        Ok(Wired {
            mode: malha_runtime::NetworkMode::Path(kernel.netns.clone()),
            files: ContainerFiles {
                hosts: Some(hosts_file(&request.hostname, &own, &request.hosts)),
                hostname: (!request.hostname.is_empty()).then(|| format!("{}\n", request.hostname)),
                resolv_conf: Some(resolv_conf),
            },
            networks: endpoints.collect(),
            ports: kernel.host_ports,
            sandbox_key: kernel.netns.display().to_string(),
        })
    }

    /// Waits for ports that the mesh still has; nobody else waits along. Where it keeps them, the sandbox says so.
    async fn mesh_lets_go(&self, ports: &[PortConfig], until: tokio::time::Instant) -> Result<(), WireError> {
        let ports = ports.iter().map(|p| (p.protocol, p.published_port)).collect();
        let kernel = self.kernel.read().await;
        let free = opened(&kernel)?.mesh_lets_go(ports);
        drop(kernel);
        let _ = tokio::time::timeout_at(until, free).await;
        Ok(())
    }

    /// The hosts file of a sandbox once its container's host name is known.
    fn hosts_file(&self, sandbox: &str, hostname: &str, extra: &[String]) -> ContainerFiles {
        let networks = self.current();
        let task = networks.tasks.iter().find(|t| t.id.as_str() == sandbox);
        let plan = task.and_then(|t| match task_sandbox(t, &networks.views) {
            Ok(NetworkMode::Sandbox(plan)) => Some(plan),
            _ => None,
        });
        let own = plan.map(|p| p.own_addresses()).unwrap_or_default();
        ContainerFiles { hosts: Some(hosts_file(hostname, &own, extra)), hostname: None, resolv_conf: None }
    }

    async fn unwire(self: &Arc<Self>, id: &str) -> Result<(), WireError> {
        let mut kernel = self.kernel.read().await;
        if kernel.is_none() {
            drop(kernel);
            // Where it could not be opened before, something of it may be left.
            self.reopen().await?;
            kernel = self.kernel.read().await;
        }
        let _turn = self.turns.take(id).await;
        {
            let mut state = self.state.lock();
            state.sandboxes.remove(id);
            state.orphans.remove(id);
            state.lost.remove(id);
        }
        self.dns.remove(id).await;
        match opened(&kernel) {
            Ok(net) => Ok(net.remove_sandbox(&id.to_owned()).await?),
            // Nothing can be left of it then.
            Err(_) => Ok(()),
        }
    }

    /// Waits until the views of all attached networks are here.
    async fn views_of(&self, attachments: &[NetworkAttachment]) -> Result<Arc<NodeNetworks>, WireError> {
        let mut watch = self.networks.subscribe();
        let missing =
            |n: &NodeNetworks| attachments.iter().map(|a| &a.network).find(|id| !n.views.contains_key(*id)).cloned();
        let arrived = watch.wait_for(|n| missing(n).is_none());
        match tokio::time::timeout(VIEW_LIMIT, arrived).await {
            Ok(Ok(networks)) => Ok(networks.clone()),
            _ => {
                let current = self.current();
                missing(&current).map_or(Ok(current), |id| Err(WireError::NoView(id)))
            }
        }
    }
}

fn node_resolv_conf() -> String {
    std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}
