//! The node's network as the daemon holds it: one handle for everything below.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use malha_kit::supervised;
use malha_model::Protocol;
use malha_netplan::{NetPlan, SandboxId, SandboxPlan};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    ebpf::{self, Dataplane},
    error::{NetError, NetResult},
    gwbridge::{GwBridge, GwBridgeConfig},
    meshports::{Holding, MeshPorts},
    netns::Netns,
    nft::Rules,
    paths::Paths,
    programs::{ProgramError, Programs},
    rtnl::Rtnl,
    sandbox::{self, SandboxState, Sandboxes},
    uplinks::{NodeAddresses, Uplinks},
    vxlan::{self, VXLAN_DEVICE},
};

/// How often flows that are over are forgotten, and rules that somebody flushed are put back.
const UPKEEP: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct NodeNetworkConfig {
    /// The node's network namespace; the default is that of this process.
    pub netns: PathBuf,
    /// Run-time state of this node alone: namespaces and what belongs to them. Gone with a reboot, as they are.
    pub run_dir: PathBuf,
    /// On the bpf file system, this node's alone: where programs and maps outlive the daemon.
    pub pin_dir: PathBuf,
    /// cgroup v2 directory above all of this node's containers.
    pub cgroup: PathBuf,
    /// The node's tunnel address.
    pub node_address: IpAddr,
    /// UDP port of the tunnel.
    pub vxlan_port: u16,
    /// Published flows remembered at once.
    pub flow_capacity: u32,
    pub gwbridge: GwBridgeConfig,
}

impl Default for NodeNetworkConfig {
    fn default() -> Self {
        Self {
            netns: PathBuf::from("/proc/self/ns/net"),
            run_dir: PathBuf::from("/run/malha"),
            pin_dir: PathBuf::from("/sys/fs/bpf/malha"),
            cgroup: PathBuf::from("/sys/fs/cgroup/malha"),
            node_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            vxlan_port: malha_model::defaults::DATA_PATH_PORT,
            flow_capacity: ebpf::DEFAULT_FLOW_CAPACITY,
            gwbridge: GwBridgeConfig::default(),
        }
    }
}

/// Dropped, it leaves everything running: containers do not notice that the daemon is away. Whoever opens the same again
/// lets go of it first, see [`NodeNetwork::let_go`].
pub struct NodeNetwork {
    node: Netns,
    rtnl: Rtnl,
    programs: Arc<dyn Programs>,
    forwarding: Option<Arc<Dataplane>>,
    sandboxes: Arc<Sandboxes>,
    addresses: watch::Receiver<NodeAddresses>,
    keeper: AbortOnDropHandle<()>,
    /// Tells the keeper of paths that there are other nodes than before.
    plan_changed: Arc<Notify>,
    mesh: Holding,
}

impl NodeNetwork {
    /// Whether a daemon that had this run directory left sandboxes of containers, or ports that they held.
    pub fn any_left(run_dir: &Path) -> bool {
        sandbox::any_left(run_dir)
    }

    /// Makes or adopts what every node has.
    pub async fn open(config: &NodeNetworkConfig) -> NetResult<Self> {
        let forwarding = Dataplane::open(&ebpf::Config {
            pin_dir: config.pin_dir.clone(),
            cgroup: config.cgroup.clone(),
            netns: config.netns.clone(),
            node_address: config.node_address,
            vxlan_port: config.vxlan_port,
            flow_capacity: config.flow_capacity,
        });
        let forwarding = Arc::new(forwarding.map_err(|e| NetError::Programs(e.to_string()))?);
        let network = Self::open_with(config, Arc::clone(&forwarding) as Arc<dyn Programs>).await?;
        Ok(Self { forwarding: Some(forwarding), ..network })
    }

    /// The same with other programs.
    pub async fn open_with(config: &NodeNetworkConfig, programs: Arc<dyn Programs>) -> NetResult<Self> {
        let node = Netns::open(&config.netns)?;
        let rtnl = Rtnl::open(&node).await?;
        settings(&node).await?;
        vxlan::ensure(&node, &rtnl, config.vxlan_port).await?;
        let bridge = GwBridge::ensure(&node, &rtnl, &config.gwbridge).await?;
        let mesh = Arc::new(MeshPorts::new(node.clone()));
        let sandboxes = Sandboxes::open(
            node.clone(),
            rtnl.clone(),
            &config.run_dir,
            bridge,
            config.vxlan_port,
            Arc::clone(&programs),
            Arc::clone(&mesh),
        )
        .await?;
        let sandboxes = Arc::new(sandboxes);
        sandboxes.clear_stale_scopes().await?;
        let (uplinks, addresses) = Uplinks::open(node.clone(), rtnl.clone()).await?;
        programs.set_node(&addresses.borrow()).map_err(refused)?;
        let keeper =
            Keeper { addresses: addresses.clone(), programs: Arc::clone(&programs), sandboxes: Arc::clone(&sandboxes) };
        let plan_changed = Arc::new(Notify::new());
        let paths = Paths {
            node: node.clone(),
            rtnl: rtnl.clone(),
            programs: Arc::clone(&programs),
            source: config.node_address,
            changed: Arc::clone(&plan_changed),
        };
        let ports = Arc::clone(&mesh);
        let keeper = tokio::spawn(async move {
            tokio::join!(
                supervised("upkeep", || keeper.run()),
                supervised("uplinks", || uplinks.follow()),
                supervised("paths", || paths.follow()),
                supervised("mesh ports", || ports.follow()),
            );
        });
        let keeper = AbortOnDropHandle::new(keeper);
        let mesh = Holding(mesh);
        Ok(Self { node, rtnl, programs, forwarding: None, sandboxes, addresses, keeper, plan_changed, mesh })
    }

    /// The kernel's maps are to hold this plan, and the node its published ports.
    pub fn apply(&self, plan: &NetPlan) -> NetResult<()> {
        self.programs.apply(plan).map_err(refused)?;
        self.mesh.0.set(&plan.published);
        self.plan_changed.notify_one();
        Ok(())
    }

    /// Waits until the mesh holds none of these ports on the node. It does not keep this network from being let go.
    pub fn mesh_lets_go(&self, ports: BTreeSet<(Protocol, u16)>) -> impl Future<Output = ()> + Send + use<> {
        let mesh = Arc::clone(&self.mesh.0);
        async move { mesh.free(&ports).await }
    }

    pub async fn ensure_sandbox(&self, plan: &SandboxPlan) -> NetResult<SandboxState> {
        self.sandboxes.ensure(plan).await
    }

    pub async fn remove_sandbox(&self, id: &SandboxId) -> NetResult<()> {
        self.sandboxes.remove(id).await
    }

    /// Leads the sandbox's queries to `127.0.0.11:53` to where its resolver listens.
    pub fn set_resolver(&self, sandbox: &SandboxState, udp: u16, tcp: u16) -> NetResult<()> {
        self.programs.set_resolver(sandbox.cookie, udp, tcp).map_err(refused)
    }

    pub fn sandboxes(&self) -> &Sandboxes {
        &self.sandboxes
    }

    /// The node's own namespace.
    pub fn node(&self) -> &Netns {
        &self.node
    }

    /// Addresses and uplinks of the node, followed.
    pub fn addresses(&self) -> watch::Receiver<NodeAddresses> {
        self.addresses.clone()
    }

    /// Puts the node's nftables table back where somebody flushed it; true where that was so. Also done now and then.
    pub async fn restore_rules(&self) -> NetResult<bool> {
        self.sandboxes.restore_rules().await
    }

    /// Maps and counters, for people to look at.
    pub fn forwarding(&self) -> Option<&Dataplane> {
        self.forwarding.as_deref()
    }

    /// Leaves everything running, as if dropped. When it returns nothing here holds a port any more, so that the next who
    /// opens it gets them all.
    pub async fn let_go(self) {
        let Self { keeper, mesh, .. } = self;
        end(keeper, &mesh).await;
    }

    /// Removes all of it: the node leaves its swarm. Each step is tried whatever the others did.
    pub async fn teardown(self) -> NetResult<()> {
        end(self.keeper, &self.mesh).await;
        let mut errors = Vec::new();
        errors.extend(self.sandboxes.collect_garbage(&BTreeSet::new()).await.err());
        errors.extend(self.programs.teardown().map_err(refused).err());
        errors.extend(self.rtnl.delete_link(VXLAN_DEVICE).await.err());
        errors.extend(GwBridge::remove(&self.rtnl).await.err());
        errors.extend(Rules::remove(&self.node).await.err());
        NetError::collect(errors)
    }
}

/// An abort alone would leave what the keeper holds for a moment.
async fn end(keeper: AbortOnDropHandle<()>, mesh: &Holding) {
    keeper.abort();
    // that it was given up is no news
    let _ = keeper.await;
    mesh.at_rest().await;
}

/// What goes on while the daemon runs.
struct Keeper {
    addresses: watch::Receiver<NodeAddresses>,
    programs: Arc<dyn Programs>,
    sandboxes: Arc<Sandboxes>,
}

impl Keeper {
    async fn run(&self) {
        let mut addresses = self.addresses.clone();
        // rules and flows were just put in order
        let mut upkeep = interval_at(Instant::now() + UPKEEP, UPKEEP);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                changed = addresses.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = addresses.borrow_and_update().clone();
                    if let Err(error) = self.programs.set_node(&now) {
                        tracing::error!(%error, "the packet programs do not know the node's addresses");
                    }
                }
                _ = upkeep.tick() => {
                    if let Err(error) = self.programs.sweep() {
                        tracing::warn!(%error, "cannot forget flows that are over");
                    }
                    match self.sandboxes.restore_rules().await {
                        Ok(false) => {}
                        Ok(true) => tracing::warn!("somebody removed our nftables table; it is back"),
                        Err(error) => tracing::error!(%error, "our nftables table is gone, or lacks changes of ports"),
                    }
                }
            }
        }
    }
}

fn refused(e: ProgramError) -> NetError {
    NetError::Programs(e.to_string())
}

/// A node forwards for its containers and knows many neighbours.
async fn settings(node: &Netns) -> NetResult<()> {
    set_unless(node, "net.ipv4.ip_forward", |v| v == "1", "1").await?;
    // the neighbour table's sizes exist in the machine's first namespace only; they are never lowered
    let first = node.sysctl("net.ipv4.neigh.default.gc_thresh1").await.is_ok();
    for (name, least) in [("gc_thresh1", 8192_u32), ("gc_thresh2", 49152), ("gc_thresh3", 65536)] {
        if first {
            let enough = |v: &str| v.parse::<u32>().is_ok_and(|n| n >= least);
            set_unless(node, &format!("net.ipv4.neigh.default.{name}"), enough, &least.to_string()).await?;
        }
    }
    // With it, a packet between two ports of one bridge is translated before the bridge looks, and never routed: a
    // container would not reach a port that its neighbour publishes on the node. Others on the machine may rely on it.
    const BRIDGE_CALLS: &str = "net.bridge.bridge-nf-call-iptables";
    if node.sysctl(BRIDGE_CALLS).await.is_ok_and(|v| v == "1") {
        if first {
            tracing::warn!("{BRIDGE_CALLS} is 1: containers do not reach host-mode ports of others on this node");
        } else {
            node.set_sysctls(vec![(BRIDGE_CALLS.into(), "0".into())]).await?;
        }
    }
    Ok(())
}

async fn set_unless(node: &Netns, name: &str, enough: impl Fn(&str) -> bool, value: &str) -> NetResult<()> {
    if enough(&node.sysctl(name).await?) {
        return Ok(());
    }
    node.set_sysctls(vec![(name.to_owned(), value.to_owned())]).await
}
