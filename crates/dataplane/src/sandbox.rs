//! The network namespaces of containers.
//!
//! [`Sandboxes::ensure`] makes a namespace be what its plan says, whatever is there: nothing, all of it (after a daemon
//! restart: adopted without a packet lost), or what an interrupted attempt left. A failure takes back what the call had
//! made. The kernel is the only record: names, aliases and mounts tell which sandboxes exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};
use malha_model::{PortConfig, Protocol};
use malha_netplan::{SandboxId, SandboxPlan};
use tokio::sync::Mutex;

use crate::{
    conntrack,
    error::{Doing, NetError, NetResult},
    gwbridge::GwBridge,
    hostports::{HostPorts, PortMap},
    meshports::MeshPorts,
    names::{LinkKey, Owner},
    netns::Netns,
    nft::Rules,
    programs::{ProgramError, Programs},
    rtnl::{Link, Rtnl},
    wire::{GatewayState, LinkState, Wiring},
};

/// A sandbox as it is in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxState {
    pub id: SandboxId,
    /// For the container runtime.
    pub netns: PathBuf,
    pub cookie: u64,
    /// In the plan's order.
    pub links: Vec<LinkState>,
    pub gateway: Option<GatewayState>,
    /// The plan's host ports with the numbers they got.
    pub host_ports: Vec<PortConfig>,
}

/// All sandboxes of a node.
pub struct Sandboxes {
    node: Netns,
    rtnl: Rtnl,
    dir: PathBuf,
    bridge: GwBridge,
    vxlan_port: u16,
    programs: Arc<dyn Programs>,
    /// One change at a time: addresses of the gateway bridge, ports and rules are the node's.
    shared: Mutex<Shared>,
}

struct Shared {
    ports: HostPorts,
    /// What the node's rules do with ports, as far as is known.
    in_force: PortMap,
    /// The rules are to be written whatever is known: somebody removed them, or an attempt did not come to its end.
    dirty: bool,
    last_gateway: Option<Ipv4Addr>,
}

/// Whether there is anything in a directory that [`Sandboxes::open`] was given once.
pub(crate) fn any_left(dir: &Path) -> bool {
    let holds = |part: &str| fs::read_dir(dir.join(part)).is_ok_and(|mut entries| entries.next().is_some());
    holds("netns") || holds("ports")
}

impl Sandboxes {
    /// `dir` gets `netns/` and `ports/`. Rules of an earlier daemon stay in force with their ports.
    pub(crate) async fn open(
        node: Netns,
        rtnl: Rtnl,
        dir: &Path,
        bridge: GwBridge,
        vxlan_port: u16,
        programs: Arc<dyn Programs>,
        mesh: Arc<MeshPorts>,
    ) -> NetResult<Self> {
        let ports = HostPorts::load(&dir.join("ports"), &node, mesh).await?;
        let in_force = ports.map();
        let shared = Mutex::new(Shared { ports, in_force, dirty: true, last_gateway: None });
        let all = Self { node, rtnl, dir: dir.join("netns"), bridge, vxlan_port, programs, shared };
        fs::create_dir_all(&all.dir).doing(|| format!("make {}", all.dir.display()))?;
        let mut shared = all.shared.lock().await;
        all.enforce(&mut shared).await?;
        drop(shared);
        Ok(all)
    }

    /// Makes the sandbox be as planned and answers what it is.
    pub async fn ensure(&self, plan: &SandboxPlan) -> NetResult<SandboxState> {
        check(plan)?;
        let mut shared = self.shared.lock().await;
        let path = self.netns_path(&plan.id);
        let fresh = !Netns::exists(&path);
        let mut made = Vec::new();
        let done = self.build(plan, &path, &mut shared, &mut made).await;
        if done.is_err() {
            let undone = if fresh { self.remove_now(&plan.id, &mut shared).await } else { self.unmake(&made).await };
            if let Err(error) = undone {
                tracing::warn!(sandbox = plan.id, %error, "could not take back a sandbox that failed");
            }
        }
        done
    }

    /// Removes all of a sandbox; a step that fails does not keep the others from being tried. Absent is fine.
    pub async fn remove(&self, id: &SandboxId) -> NetResult<()> {
        let mut shared = self.shared.lock().await;
        self.remove_now(id, &mut shared).await
    }

    /// Every sandbox of which anything is left.
    pub async fn list(&self) -> NetResult<BTreeSet<SandboxId>> {
        let shared = self.shared.lock().await;
        let mut all: BTreeSet<SandboxId> = shared.ports.sandboxes().cloned().collect();
        all.extend(self.rtnl.links().await?.iter().filter_map(Owner::of).map(|o| o.sandbox));
        let entries = fs::read_dir(&self.dir).doing(|| format!("read {}", self.dir.display()))?;
        all.extend(entries.filter_map(|e| e.ok()?.file_name().into_string().ok()));
        Ok(all)
    }

    /// Removes the sandboxes that are not among `keep`.
    pub async fn collect_garbage(&self, keep: &BTreeSet<SandboxId>) -> NetResult<BTreeSet<SandboxId>> {
        let gone: BTreeSet<_> = self.list().await?.difference(keep).cloned().collect();
        let mut errors = Vec::new();
        for id in &gone {
            errors.extend(self.remove(id).await.err());
        }
        NetError::collect(errors).map(|()| gone)
    }

    /// Clears the scopes of namespaces that ended while no daemon looked.
    pub(crate) async fn clear_stale_scopes(&self) -> NetResult<()> {
        let _shared = self.shared.lock().await;
        let mut stale: BTreeSet<u64> = self.programs.scopes().into_iter().collect();
        if stale.is_empty() {
            return Ok(());
        }
        for entry in fs::read_dir(&self.dir).doing(|| format!("read {}", self.dir.display()))?.flatten() {
            if Netns::exists(&entry.path()) {
                stale.remove(&Netns::open(&entry.path())?.cookie().await?);
            }
        }
        stale.into_iter().try_for_each(|cookie| self.programs.clear_scope(cookie).map_err(programs))
    }

    /// Puts the node's rules back where somebody flushed them, and in force what could not be before; true where they were
    /// gone.
    pub(crate) async fn restore_rules(&self) -> NetResult<bool> {
        let mut shared = self.shared.lock().await;
        let gone = !Rules::present(&self.node).await;
        shared.dirty |= gone;
        self.enforce(&mut shared).await.map(|()| gone)
    }

    /// Whether there is a namespace of this sandbox, in which a container may run.
    pub fn stands(&self, id: &SandboxId) -> bool {
        Netns::exists(&self.netns_path(id))
    }

    /// The namespace of a sandbox, for sockets inside it.
    pub fn netns(&self, id: &SandboxId) -> NetResult<Netns> {
        Netns::open(&self.netns_path(id))
    }

    pub fn bridge(&self) -> &GwBridge {
        &self.bridge
    }

    fn netns_path(&self, id: &SandboxId) -> PathBuf {
        self.dir.join(id)
    }

    async fn build(
        &self,
        plan: &SandboxPlan,
        path: &Path,
        shared: &mut Shared,
        made: &mut Vec<String>,
    ) -> NetResult<SandboxState> {
        let sandbox = self.namespace(path).await?;
        let inside = Rtnl::open(&sandbox).await?;
        let node_links = self.rtnl.links().await?;
        let own = owned(&node_links, &plan.id);
        self.drop_unplanned(plan, &own).await?;
        let names = interface_names(plan, &own, &inside.links().await?);
        let wiring = Wiring { id: &plan.id, node: &self.rtnl, sandbox: &sandbox, inside: &inside };

        let cookie = sandbox.cookie().await?;
        let mut state = SandboxState {
            id: plan.id.clone(),
            netns: path.to_owned(),
            cookie,
            links: Vec::new(),
            gateway: None,
            host_ports: Vec::new(),
        };
        let mut pairs = Vec::new();
        for (link, name) in plan.links.iter().zip(&names) {
            let pair = wiring.overlay_pair(link, name).await?;
            if pair.made {
                made.push(pair.host_name().to_owned());
            }
            let link_state = pair.link_state(link);
            self.programs.attach_link(&plan.id, &link_state).map_err(programs)?;
            state.links.push(link_state);
            pairs.push(pair);
        }
        self.programs.set_scope(&state).map_err(programs)?;
        for (link, pair) in plan.links.iter().zip(&pairs) {
            wiring.overlay_up(link, pair).await?;
        }
        if let Some(name) = names.get(plan.links.len()) {
            let addr = self.gateway_address(&own, &node_links, shared)?;
            let pair = wiring.gateway_pair(&self.bridge, addr, name).await?;
            if pair.made {
                made.push(pair.host_name().to_owned());
            }
            wiring.gateway_up(&self.bridge, &pair).await?;
            state.gateway = Some(pair.gateway_state(&self.bridge, addr));
            pairs.push(pair);
        }
        wiring.settled(&pairs).await?;
        sandbox.set_sysctls(plan.sysctls.clone().into_iter().collect()).await?;
        let addr = state.gateway.as_ref().map(|g| g.address.addr());
        let bound = shared.ports.bind(&self.node, &plan.id, &plan.host_ports, addr).await;
        // former ports are given up even where the new ones cannot be had
        let enforced = self.enforce(shared).await;
        state.host_ports = bound?;
        enforced.map(|()| state)
    }

    async fn namespace(&self, path: &Path) -> NetResult<Netns> {
        if Netns::exists(path) {
            return Netns::open(path);
        }
        Netns::delete(path)?;
        Netns::create(path).await
    }

    /// The address that the sandbox has on the bridge, or a new one.
    fn gateway_address(&self, own: &[(Owner, &Link)], all: &[Link], shared: &mut Shared) -> NetResult<Ipv4Net> {
        let current = own.iter().find_map(|(owner, _)| match owner.key {
            LinkKey::Gateway(IpNet::V4(addr)) if self.bridge.subnet().contains(&addr.addr()) => Some(addr),
            _ => None,
        });
        if let Some(addr) = current {
            return Ok(addr);
        }
        let addr = self.bridge.next_address(all, shared.last_gateway)?;
        shared.last_gateway = Some(addr.addr());
        Ok(addr)
    }

    /// Links of networks that the sandbox has left.
    async fn drop_unplanned(&self, plan: &SandboxPlan, own: &[(Owner, &Link)]) -> NetResult<()> {
        for (owner, link) in own {
            let planned = match owner.key {
                LinkKey::Overlay(vni) => plan.links.iter().any(|l| l.vni == vni),
                LinkKey::Gateway(_) => plan.gwbridge,
            };
            if !planned {
                self.drop_link(link).await?;
            }
        }
        Ok(())
    }

    async fn drop_link(&self, link: &Link) -> NetResult<()> {
        let detached = self.programs.detach_link(&link.name, link.index).map_err(programs);
        let deleted = self.rtnl.delete_link(&link.name).await;
        NetError::collect(detached.err().into_iter().chain(deleted.err()).collect())
    }

    async fn unmake(&self, made: &[String]) -> NetResult<()> {
        let mut errors = Vec::new();
        for name in made {
            match self.rtnl.link(name).await {
                Ok(Some(link)) => errors.extend(self.drop_link(&link).await.err()),
                Ok(None) => {}
                Err(e) => errors.push(e),
            }
        }
        NetError::collect(errors)
    }

    async fn remove_now(&self, id: &SandboxId, shared: &mut Shared) -> NetResult<()> {
        check_id(id)?;
        let mut errors = Vec::new();
        errors.extend(shared.ports.release(id).err());
        errors.extend(self.enforce(shared).await.err());
        match self.rtnl.links().await {
            Ok(links) => {
                for (_, link) in owned(&links, id) {
                    errors.extend(self.drop_link(link).await.err());
                }
            }
            Err(e) => errors.push(e),
        }
        let path = self.netns_path(id);
        if Netns::exists(&path) {
            match Netns::open(&path) {
                Ok(ns) => match ns.cookie().await {
                    Ok(cookie) => errors.extend(self.programs.clear_scope(cookie).map_err(programs).err()),
                    Err(e) => errors.push(e),
                },
                Err(e) => errors.push(e),
            }
        }
        errors.extend(Netns::delete(&path).err());
        NetError::collect(errors)
    }

    /// Puts the ports as they are held in force, and makes flows to those that led elsewhere begin anew. Where that fails
    /// it is owed, and whoever comes next does it; the upkeep at the latest.
    async fn enforce(&self, shared: &mut Shared) -> NetResult<()> {
        let now = shared.ports.map();
        if !shared.dirty && shared.in_force == now {
            return Ok(());
        }
        shared.dirty = true;
        let (vxlan_port, gateway_subnet) = (self.vxlan_port, self.bridge.subnet());
        Rules { vxlan_port, gateway_subnet, host_ports: now.clone() }.apply(&self.node).await?;
        let moved = |port: &&(Protocol, u16)| shared.in_force.get(port) != now.get(port);
        let moved: BTreeSet<_> = shared.in_force.keys().chain(now.keys()).filter(moved).copied().collect();
        if !moved.is_empty() {
            self.forget_flows(moved).await?;
        }
        shared.in_force = now;
        shared.dirty = false;
        Ok(())
    }

    /// Makes flows to these ports of the node begin anew.
    async fn forget_flows(&self, moved: BTreeSet<(Protocol, u16)>) -> NetResult<()> {
        let own = self.rtnl.addresses().await?.into_iter().filter_map(|(_, net)| match net.addr() {
            IpAddr::V4(addr) => Some(addr),
            IpAddr::V6(_) => None,
        });
        let own: BTreeSet<Ipv4Addr> = own.collect();
        if let Err(error) = self.node.run(move || conntrack::forget(&moved, &own)).await.and_then(|done| done) {
            tracing::warn!(%error, "flows to a port of the node may still go to who had it before");
        }
        Ok(())
    }
}

fn programs(e: ProgramError) -> NetError {
    NetError::Programs(e.to_string())
}

/// The node's ends of a sandbox's links.
fn owned<'a>(links: &'a [Link], id: &SandboxId) -> Vec<(Owner, &'a Link)> {
    let named = links.iter().filter_map(|l| Owner::of(l).map(|o| (o, l)));
    named.filter(|(o, _)| o.sandbox == *id).collect()
}

/// Names inside, the gateway link's last: what the user asked for, what a link is called already (a running process
/// has seen it), else the next free `ethN`.
fn interface_names(plan: &SandboxPlan, own: &[(Owner, &Link)], inside: &[Link]) -> Vec<String> {
    let by_index: BTreeMap<u32, &str> = inside.iter().map(|l| (l.index, l.name.as_str())).collect();
    let current = |wanted: &dyn Fn(&LinkKey) -> bool| {
        let (_, link) = own.iter().find(|(o, _)| wanted(&o.key))?;
        by_index.get(&link.peer?).map(|n| (*n).to_owned())
    };
    let links = plan
        .links
        .iter()
        .map(|l| l.ifname.clone().or_else(|| current(&|key| matches!(key, LinkKey::Overlay(vni) if *vni == l.vni))));
    let gateway = plan.gwbridge.then(|| current(&|key| matches!(key, LinkKey::Gateway(_))));
    let known: Vec<Option<String>> = links.chain(gateway).collect();
    let taken: BTreeSet<String> = known.iter().flatten().cloned().collect();
    let mut free = (0..).map(|n| format!("eth{n}")).filter(|n| !taken.contains(n));
    known.into_iter().filter_map(|name| name.or_else(|| free.next())).collect()
}

/// Everything that can be wrong with a plan is found before the first change.
fn check(plan: &SandboxPlan) -> NetResult<()> {
    check_id(&plan.id)?;
    let bad = |why: &str| Err(NetError::BadPlan { what: format!("sandbox {}", plan.id), why: why.to_owned() });
    let vnis: BTreeSet<u32> = plan.links.iter().map(|l| l.vni).collect();
    if vnis.len() != plan.links.len() {
        return bad("two links on one network");
    }
    let names: BTreeSet<String> = plan.interface_names().into_iter().collect();
    if names.len() != plan.links.len() + usize::from(plan.gwbridge) {
        return bad("two interfaces of one name");
    }
    if plan.links.iter().any(|l| l.addresses.is_empty()) {
        return bad("a link without an address");
    }
    if !plan.gwbridge && !plan.host_ports.is_empty() {
        return bad("ports on the node, but only internal networks");
    }
    if plan.sysctls.keys().any(|k| !k.starts_with("net.") || k.contains('/')) {
        return bad("a setting that is not of the network");
    }
    Ok(())
}

/// An id becomes a file name and part of an alias.
fn check_id(id: &SandboxId) -> NetResult<()> {
    let plain = (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if plain {
        return Ok(());
    }
    let err = io::Error::new(io::ErrorKind::InvalidInput, "letters, digits, - and _ only");
    Err(err).doing(|| format!("sandbox id {id:?}"))
}
