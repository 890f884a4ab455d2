//! The forwarding half of a node: kernel programs, their maps, and the one place that writes them.
//!
//! [`Dataplane::apply`] compares a plan with what the kernel holds and writes the difference. Everything is pinned below
//! [`Config::pin_dir`] and forwards without the daemon; a daemon that returns opens it, reads it back and goes on, and
//! puts its own programs in place of an older version's without a gap. Nothing is kept outside that directory, so nodes
//! in several network namespaces of one kernel do not meet.
//!
//! Calls may come from any thread: what concerns the node's network namespace is done inside it.

mod apply;
mod attach;
mod clsact;
mod counters;
mod error;
mod inspect;
mod layout;
mod maps;
mod mount;
mod namespace;
mod node;
mod objects;
mod sockets;
mod sweep;
mod sys;
mod tables;
mod verdicts;

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use malha_netplan::{Mac, NetPlan, SandboxId};
use parking_lot::Mutex;

pub(crate) use self::tables::protocol_number;
pub use self::{
    apply::Applied,
    clsact::TcHook,
    counters::{Count, MapDump, Stats},
    error::{EbpfError, EbpfResult},
    inspect::inspect,
    layout::DropReason,
    mount::{BPF_FS, cgroup2_root, ensure_bpf_fs},
    verdicts::Path as NodePath,
};
use self::{
    apply::Gone,
    attach::{Attachment, Attachments},
    error::While,
    layout::{Addr, Endpoint, EndpointKey, LINK_ADDRS, Link, SCOPE_VNIS, Scope, Settings},
    maps::{Maps, failed},
    namespace::Namespace,
    objects::Programs,
    sockets::Doomed,
    sweep::Sweeper,
    tables::{Links, Rows, Waiting},
};

/// Where one node's forwarding lives.
#[derive(Clone, Debug)]
pub struct Config {
    /// On the bpf file system, this node's alone: `/sys/fs/bpf/malha/<node>`.
    pub pin_dir: PathBuf,
    /// cgroup v2 directory above all of this node's containers. Made if absent.
    pub cgroup: PathBuf,
    /// The node's network namespace; `/proc/self/ns/net` for a daemon that runs in it.
    pub netns: PathBuf,
    /// Shown to tasks in place of clients on the node's loopback and in its containers.
    pub node_address: IpAddr,
    pub vxlan_port: u16,
    /// Published TCP connections remembered before the least recently used is forgotten; UDP has half as many places, and
    /// what is not a connection yet a quarter. Counts when the maps are made.
    pub flow_capacity: u32,
}

/// The node's own devices and addresses, as they are now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDevices {
    /// The tunnel device: VXLAN in external mode.
    pub vxlan_ifindex: u32,
    /// Where clients of published ports arrive, the main underlay device first.
    pub uplinks: Vec<u32>,
    /// `docker_gwbridge`: where this node's containers come to its published ports. Their addresses mean something on
    /// this node only, so tasks see the node instead.
    pub bridges: Vec<u32>,
    /// At which published ports answer. 127.0.0.1 is always one.
    pub addresses: Vec<IpAddr>,
}

/// A container's link as its host side sees it.
#[derive(Clone, Debug)]
pub struct LinkInfo {
    pub sandbox: SandboxId,
    pub vni: u32,
    pub addresses: Vec<IpAddr>,
    pub mac: Mac,
    pub ingress: bool,
    /// The sandbox, as the node's namespace numbers it.
    pub netns: Option<u32>,
}

/// Enough for the flows of a busy node; 35 MB of kernel memory.
pub const DEFAULT_FLOW_CAPACITY: u32 = 65536;

/// The maps and programs of one node. Dropping it detaches nothing; [`Dataplane::remove`] does.
pub struct Dataplane {
    state: Mutex<State>,
    sweeper: Mutex<Sweeper>,
    attachments: Attachments,
    programs: Programs,
    config: Config,
}

struct State {
    maps: Maps,
    links: Links,
    /// By cookie.
    namespaces: BTreeMap<u64, PathBuf>,
    /// Sockets to end as soon as it is known where their namespace is.
    doomed: Doomed,
    /// Local endpoints of the last plan whose link was not there.
    waiting: Waiting,
    /// Verdicts follow from what was: a new generation is owed.
    stale: bool,
    /// Addresses that lost their owner, until their sockets are found.
    gone: Gone,
}

const LOOPBACK: u32 = 1;

impl Dataplane {
    /// Takes over what is pinned, or starts afresh. Containers forward from here on; the node's devices once
    /// [`Dataplane::set_node`] names them.
    pub fn open(config: &Config) -> EbpfResult<Self> {
        Self::open_with(config, TcHook::of_kernel())
    }

    /// As [`Dataplane::open`], with a hook that need not be the kernel's best.
    pub fn open_with(config: &Config, hook: TcHook) -> EbpfResult<Self> {
        mount::ensure_bpf_fs()?;
        let namespace = Namespace::open(&config.netns)?;
        namespace.run(mount::prepare_loopback)?;
        fs::create_dir_all(&config.cgroup).on(|| format!("make cgroup {}", config.cgroup.display()))?;
        let config = &Config { pin_dir: mount::reachable(&config.pin_dir), ..config.clone() };
        let maps_dir = inspect::maps_dir(&config.pin_dir);
        let programs_dir = config.pin_dir.join("programs");
        fs::create_dir_all(&maps_dir).on(|| format!("make {}", maps_dir.display()))?;
        let programs = Programs::open(&maps_dir, &programs_dir, config.flow_capacity)?;
        let mut maps = Maps::open(&maps_dir)?;
        let attachments = Attachments::open(config.pin_dir.join("links"), namespace, hook)?;
        let containers = attachments.containers(&programs)?;
        let links: Links = containers.into_iter().map(|c| ((c.sandbox, c.vni), c.ifindex)).collect();
        maps.links.retain(|ifindex| links.values().any(|l| l == ifindex))?;
        attachments.update_node(&programs)?;
        attachments.sockets(&programs, &config.cgroup)?;
        Programs::forget_others(&programs_dir)?;
        objects::forget_other_maps(&maps_dir)?;
        maps.new_generation()?;
        let state = State {
            maps,
            links,
            namespaces: BTreeMap::new(),
            doomed: Doomed::new(),
            waiting: Waiting::new(),
            stale: false,
            gone: Gone::new(),
        };
        let sweeper = Mutex::new(Sweeper::open(&maps_dir)?);
        Ok(Self { state: Mutex::new(state), sweeper, attachments, programs, config: config.clone() })
    }

    /// Names the node's own devices and addresses. Uplinks that are none any more are detached.
    pub fn set_node(&self, node: &NodeDevices) -> EbpfResult<()> {
        let state = &mut *self.state.lock();
        state.maps.configure(&self.config, node)?;
        self.attachments.node(&self.programs, node, LOOPBACK)
    }

    /// Makes the kernel hold this plan. Repeating it writes nothing.
    pub fn apply(&self, plan: &NetPlan) -> EbpfResult<Applied> {
        let state = &mut *self.state.lock();
        let rows = Rows::of(plan, &state.links);
        state.maps.take_writes();
        let done = state.maps.apply(&rows, &mut state.gone);
        state.waiting = rows.waiting;
        let (writes, gone) = (state.maps.take_writes(), state.gone.len());
        state.stale |= writes > 0;
        let sockets = state.settle();
        done?;
        Ok(Applied { writes, gone, sockets: sockets? })
    }

    /// Puts a container's link to work: its own addresses may send from now on, and endpoints of the plan that are in
    /// this sandbox lead to it. Repeating it is fine.
    pub fn attach_link(&self, host_ifindex: u32, info: &LinkInfo) -> EbpfResult<()> {
        let state = &mut *self.state.lock();
        let mut addrs = [Addr::default(); LINK_ADDRS];
        if info.addresses.len() > LINK_ADDRS {
            let what = format!("sandbox {} on network {}", info.sandbox, info.vni);
            return Err(EbpfError::TooManyAddresses { what, limit: LINK_ADDRS });
        }
        for (slot, addr) in addrs.iter_mut().zip(&info.addresses) {
            *slot = (*addr).into();
        }
        let netns = info.netns.map_or(0, |id| id + 1);
        let row = Link { vni: info.vni, mac: info.mac.0, ingress: info.ingress.into(), pad: 0, netns, addrs };
        let key = (info.sandbox.clone(), info.vni);
        let replaced = state.links.get(&key).copied().filter(|old| *old != host_ifindex);
        if let Some(old) = replaced {
            self.unplug(state, &key, old)?;
        }
        // where it goes wrong from here on, `detach_link` knows what to take away
        state.links.insert(key.clone(), host_ifindex);
        state.stale = true;
        state.maps.links.put(host_ifindex, row)?;
        let what = Attachment { sandbox: info.sandbox.clone(), vni: info.vni, ifindex: host_ifindex };
        self.attachments.container(&self.programs, &what)?;
        let mut behind = state.waiting.get(&key).cloned().unwrap_or_default();
        behind.extend(replaced.into_iter().flat_map(|old| state.maps.behind(old)));
        for (endpoint, row) in behind {
            state.maps.put_endpoint(endpoint, Endpoint { ifindex: host_ifindex, ..row })?;
        }
        state.waiting.remove(&key);
        state.settle().map(drop)
    }

    /// Forgets a container's link and the endpoints behind it. Absent is fine, and so is a device that is gone already.
    pub fn detach_link(&self, host_ifindex: u32) -> EbpfResult<()> {
        let state = &mut *self.state.lock();
        let key = state.links.iter().find(|(_, ifindex)| **ifindex == host_ifindex).map(|(key, _)| key.clone());
        key.map_or(Ok(()), |key| self.forget_link(state, &key, host_ifindex))
    }

    /// Each step is taken whatever the others did; what is left can be detached again.
    fn forget_link(&self, state: &mut State, key: &(SandboxId, u32), ifindex: u32) -> EbpfResult<()> {
        state.stale = true;
        let removed = state.remove_behind(ifindex);
        let forgotten = removed.and(self.unplug(state, key, ifindex));
        if forgotten.is_ok() {
            state.links.remove(key);
        }
        let settled = state.settle().map(drop);
        forgotten.and(settled)
    }

    /// Takes the programs from a link. The endpoints behind it are its caller's.
    fn unplug(&self, state: &mut State, key: &(SandboxId, u32), ifindex: u32) -> EbpfResult<()> {
        let detached = self.attachments.remove_container(&Attachment { sandbox: key.0.clone(), vni: key.1, ifindex });
        detached.and(state.maps.links.remove(&ifindex))
    }

    /// Whether a link of this sandbox is at work on this network, and by which device.
    pub fn link_of(&self, sandbox: &str, vni: u32) -> Option<u32> {
        self.state.lock().links.get(&(sandbox.to_owned(), vni)).copied()
    }

    /// The networks whose VIPs mean something in the namespace at `netns`, in the order in which they are searched.
    /// Sockets in it are ended when their backend goes; datagrams that answer published flows leave from its address on
    /// the ingress network.
    pub fn set_scope(&self, netns_cookie: u64, netns: &Path, vnis: &[u32], ingress: Option<IpAddr>) -> EbpfResult<()> {
        if vnis.len() > SCOPE_VNIS {
            let what = format!("the container in {}", netns.display());
            return Err(EbpfError::TooManyNetworks { what, count: vnis.len(), limit: SCOPE_VNIS });
        }
        let mut scope = Scope { ingress: ingress.map(Addr::from).unwrap_or_default(), ..Scope::default() };
        for (slot, vni) in scope.vnis.as_flattened_mut().iter_mut().zip(vnis) {
            *slot = *vni;
        }
        scope.count = vnis.len() as u32;
        let state = &mut *self.state.lock();
        if let Some(held) = state.maps.scopes.get(&netns_cookie) {
            (scope.resolver_udp, scope.resolver_tcp) = (held.resolver_udp, held.resolver_tcp);
        }
        state.namespaces.insert(netns_cookie, netns.to_owned());
        state.end_sockets_in(netns_cookie);
        state.maps.scopes.put(netns_cookie, scope)
    }

    /// Where the resolver of this namespace listens, of which its sockets know as `127.0.0.11:53`.
    pub fn set_resolver(&self, netns_cookie: u64, udp: u16, tcp: u16) -> EbpfResult<()> {
        let mut state = self.state.lock();
        let held = state.maps.scopes.get(&netns_cookie).copied().unwrap_or_default();
        let scope = Scope { resolver_udp: udp.into(), resolver_tcp: tcp.into(), ..held };
        state.maps.scopes.put(netns_cookie, scope)
    }

    pub fn clear_scope(&self, netns_cookie: u64) -> EbpfResult<()> {
        let mut state = self.state.lock();
        state.namespaces.remove(&netns_cookie);
        state.doomed.remove(&netns_cookie);
        state.maps.scopes.remove(&netns_cookie)
    }

    /// Namespaces that have a scope: a daemon that returns clears those of containers that ended meanwhile.
    pub fn scopes(&self) -> Vec<u64> {
        self.state.lock().maps.scopes.held().keys().copied().collect()
    }

    pub fn stats(&self) -> EbpfResult<Stats> {
        self.state.lock().maps.stats()
    }

    /// Every map, readable.
    pub fn dump(&self) -> EbpfResult<Vec<MapDump>> {
        self.state.lock().maps.dump()
    }

    /// Forgets published flows that were reset a while ago; those closed properly are gone already. To be called now
    /// and then.
    pub fn sweep(&self) -> EbpfResult<usize> {
        self.sweep_after(sweep::LINGER)
    }

    /// As [`Dataplane::sweep`], with another idea of a while.
    pub fn sweep_after(&self, linger: Duration) -> EbpfResult<usize> {
        self.sweeper.lock().sweep(linger)
    }

    /// Detaches everything and removes all pins: the node forwards nothing any more.
    pub fn remove(&self) -> EbpfResult<()> {
        let _state = self.state.lock();
        self.attachments.remove_all()?;
        match fs::remove_dir_all(&self.config.pin_dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).on(|| format!("remove {}", self.config.pin_dir.display()))
            }
            _ => Ok(()),
        }
    }
}

// === impl State ===

impl State {
    /// What follows a change of the maps: verdicts are void, and sockets end. Owed until it is done, so the next change
    /// tries again what fails.
    fn settle(&mut self) -> EbpfResult<usize> {
        let renewed = if self.stale { self.maps.new_generation() } else { Ok(()) };
        self.stale &= renewed.is_err();
        let ended = self.end_sockets();
        renewed.and(ended)
    }

    /// Ends the sockets that a VIP led to addresses that are gone. One that cannot be ended times out by itself, so that
    /// is told and not an error.
    fn end_sockets(&mut self) -> EbpfResult<usize> {
        let found = self.maps.take_doomed(&self.gone, &mut self.doomed);
        if found.is_ok() {
            self.gone.clear();
        }
        let known: Vec<u64> = self.doomed.keys().filter(|c| self.namespaces.contains_key(c)).copied().collect();
        let ended: usize = known.into_iter().map(|cookie| self.end_sockets_in(cookie)).sum();
        found.map(|()| ended)
    }

    fn remove_behind(&mut self, ifindex: u32) -> EbpfResult<()> {
        let mut done = Ok(());
        for (endpoint, _) in self.maps.behind(ifindex) {
            match self.maps.endpoints.remove(&endpoint) {
                Ok(()) => {
                    self.gone.insert((endpoint.vni, endpoint.addr));
                }
                Err(e) => done = Err(e),
            }
        }
        done
    }

    fn end_sockets_in(&mut self, cookie: u64) -> usize {
        let Some(netns) = self.namespaces.get(&cookie) else { return 0 };
        let Some(sockets) = self.doomed.remove(&cookie) else { return 0 };
        sockets::destroy(netns.clone(), sockets).unwrap_or_else(|error| {
            tracing::warn!(netns = %netns.display(), %error, "sockets of a gone backend stay");
            0
        })
    }
}

// === impl Maps ===

impl Maps {
    /// The endpoints that are behind a link.
    fn behind(&self, ifindex: u32) -> Vec<(EndpointKey, Endpoint)> {
        let here = |e: &Endpoint| e.kind == layout::kind::LOCAL && e.ifindex == ifindex;
        self.endpoints.held().iter().filter(|(_, e)| here(e)).map(|(k, e)| (*k, *e)).collect()
    }

    fn configure(&mut self, config: &Config, node: &NodeDevices) -> EbpfResult<()> {
        let settings = Settings {
            node: config.node_address.into(),
            vxlan_ifindex: node.vxlan_ifindex,
            uplink_ifindex: node.uplinks.first().copied().unwrap_or_default(),
            lo_ifindex: LOOPBACK,
            vxlan_port: config.vxlan_port.into(),
            pad: 0,
        };
        if self.settings.get(&0, 0).map_err(failed("settings"))? != settings {
            self.settings.set(0, settings, 0).map_err(failed("settings"))?;
        }
        self.set_node_addresses(&node.addresses)
    }

    fn set_node_addresses(&mut self, addresses: &[IpAddr]) -> EbpfResult<()> {
        let mut wanted: Vec<Addr> = addresses.iter().map(|a| (*a).into()).collect();
        wanted.push(IpAddr::V4(Ipv4Addr::LOCALHOST).into());
        wanted.iter().try_for_each(|addr| self.node_addrs.put(*addr, 1))?;
        self.node_addrs.retain(|held| wanted.contains(held)).map(drop)
    }
}
