//! Which names exist on a network, and in which order a sandbox's networks are asked.
//!
//! Names of services come first: a service keeps its name (and its VIP keeps answering for it) for as long as the
//! service exists, and no container takes it over by calling itself the same. Names of single containers come and go
//! with the container; several containers of one name share it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use malha_model::{EndpointRecord, NetworkId, NetworkView, ServiceRecord};

use crate::{
    build::{mesh_ports, serving},
    files::Resolver,
    zone::{NetZone, SrvTarget, Zone},
};

type Names = BTreeMap<String, BTreeSet<IpAddr>>;

/// Every name of one network. `ingress` is the view of the ingress network, which alone knows the services' ports; with
/// `None` there are no SRV records.
pub fn build_net_zone(view: &NetworkView, ingress: Option<&NetworkView>) -> NetZone {
    let network = view.network.name().to_lowercase();
    let mut zone = NetZone { network, ..NetZone::default() };
    if view.network.spec.ingress {
        return zone;
    }
    let mut services = Names::new();
    let mut containers = Names::new();
    for service in view.services.values() {
        add_service(view, service, &mut services);
        let srv = srv_targets(view, service);
        let ports = ingress.and_then(|i| i.services.get(&service.id)).map_or(&service.ports, |s| &s.ports);
        add_srv(&ServiceRecord { ports: ports.clone(), ..service.clone() }, &srv, &mut zone);
        for vip in &service.vips {
            zone.reverse.insert(vip.addr(), lower(&format!("{}.{}", service.name, zone.network)));
        }
    }
    for endpoint in view.endpoints.values().filter(|e| e.serving) {
        add_endpoint(view, endpoint, &mut containers);
        for addr in &endpoint.addresses {
            zone.reverse.insert(addr.addr(), lower(&format!("{}.{}", endpoint.name, zone.network)));
        }
    }
    for (name, addrs) in containers {
        services.entry(name).or_insert(addrs);
    }
    zone.names = services.into_iter().map(|(name, addrs)| (name, addrs.into_iter().collect())).collect();
    zone
}

/// What one sandbox resolves: `networks` in the order of its links, [`crate::SandboxPlan::links`]'s; those without a zone
/// (ingress) are passed over. `external` is whether it has a way out of the node.
pub fn build_zone<'a>(
    networks: impl IntoIterator<Item = &'a NetworkId>,
    zones: &BTreeMap<NetworkId, Arc<NetZone>>,
    resolver: &Resolver,
    external: bool,
) -> Zone {
    let networks = networks.into_iter().filter_map(|id| zones.get(id)).filter(|z| !z.is_empty()).cloned().collect();
    // servers that the user named are asked from inside the container, which may well reach them on an internal network
    let own_servers = resolver.upstreams.iter().any(|u| !u.from_node);
    Zone {
        networks,
        upstreams: resolver.upstreams.clone(),
        forward: external || own_servers,
        ndots_set: resolver.ndots_set,
    }
}

fn add_service(view: &NetworkView, service: &ServiceRecord, names: &mut Names) {
    let tasks: BTreeSet<IpAddr> = serving(view, &service.id).collect();
    let vips: BTreeSet<IpAddr> = service.vips.iter().map(|v| v.addr()).collect();
    let answer = if vips.is_empty() { &tasks } else { &vips };
    for name in std::iter::once(&service.name).chain(&service.aliases) {
        add(names, name, answer);
        add(names, &format!("tasks.{name}"), &tasks);
    }
}

fn add_endpoint(view: &NetworkView, endpoint: &EndpointRecord, names: &mut Names) {
    let addrs: BTreeSet<IpAddr> = endpoint.addresses.iter().map(|a| a.addr()).collect();
    for name in std::iter::once(&endpoint.name).chain(&endpoint.names) {
        add(names, name, &addrs);
    }
    let service = endpoint.service.as_ref().and_then(|id| view.services.get(id));
    if let Some(service) = service
        && let Some(slot) = slot_of(endpoint, &service.name)
    {
        for name in std::iter::once(&service.name).chain(&service.aliases) {
            add(names, &format!("{slot}.{name}"), &addrs);
        }
    }
}

/// The slot in `service.slot.task`, where there is one (a global service has none).
fn slot_of<'a>(endpoint: &'a EndpointRecord, service: &str) -> Option<&'a str> {
    let rest = endpoint.name.strip_prefix(service)?.strip_prefix('.')?;
    let slot = rest.strip_suffix(endpoint.task.as_str())?.strip_suffix('.')?;
    slot.parse::<u64>().is_ok().then_some(slot)
}

/// A name without an address is not known: the query goes on to the next network and upstream.
fn add(names: &mut Names, name: &str, addrs: &BTreeSet<IpAddr>) {
    if !name.is_empty() && !addrs.is_empty() {
        names.entry(lower(name)).or_default().extend(addrs);
    }
}

/// One target for a VIP; each task by its own name without.
fn srv_targets(view: &NetworkView, service: &ServiceRecord) -> Vec<String> {
    let network = view.network.name();
    if !service.vips.is_empty() {
        return vec![lower(&format!("{}.{network}", service.name))];
    }
    let own = view.endpoints.values().filter(|e| e.serving && e.service.as_ref() == Some(&service.id));
    own.map(|e| lower(&format!("{}.{network}", e.name))).collect()
}

/// `_name._tcp.service`, `_published._tcp.service` and `_target._tcp.service`, all with the port that answers on the
/// network: the target port.
fn add_srv(service: &ServiceRecord, targets: &[String], zone: &mut NetZone) {
    for port in mesh_ports(service) {
        let mut labels = vec![port.target_port.to_string(), port.published_port.to_string()];
        labels.extend((!port.name.is_empty()).then(|| port.name.clone()));
        for (label, name) in
            labels.iter().flat_map(|l| std::iter::once(&service.name).chain(&service.aliases).map(move |n| (l, n)))
        {
            let entry = zone.services.entry(lower(&format!("_{label}._{}.{name}", port.protocol))).or_default();
            for target in targets {
                let srv = SrvTarget { port: port.target_port, target: target.clone() };
                if !entry.contains(&srv) {
                    entry.push(srv);
                }
            }
        }
    }
    zone.services.retain(|_, targets| !targets.is_empty());
}

fn lower(name: &str) -> String {
    name.trim_end_matches('.').to_lowercase()
}
