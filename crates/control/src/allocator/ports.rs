//! Published ports: no two services share one through the routing mesh.

use std::{collections::BTreeSet, net::SocketAddr};

use malha_model::{
    ApiError, ApiResult, Code, PortConfig, Protocol, PublishMode, Service, ServiceId, ServiceSpec,
    defaults::DYNAMIC_PORTS,
};
use malha_store::State;

/// Refuses ports that another service has. Host-mode ports of two services may meet; the scheduler keeps them apart.
pub(crate) fn check_conflicts(state: &State, spec: &ServiceSpec, own: Option<&ServiceId>) -> ApiResult<()> {
    for asked in spec.ports().iter().filter(|p| p.publish_mode == PublishMode::Ingress) {
        if let Some(what) = held_by_swarm(state, asked) {
            let text = format!("port '{}' is already in use by the swarm as {what} port", asked.published_port);
            return Err(ApiError::invalid(text));
        }
    }
    for other in others(state, own) {
        for held in &other.endpoint.ports {
            for asked in spec.ports() {
                if let Some(mode) = conflict(asked, held) {
                    let (port, name, id) = (held.published_port, &other.spec.name, &other.id);
                    let text = format!("port '{port}' is already in use by service '{name}' ({id}) as {mode} port");
                    return Err(ApiError::invalid(text));
                }
            }
        }
    }
    Ok(())
}

/// Through the mesh such a port would be taken on every node: nobody could join any more.
fn held_by_swarm(state: &State, asked: &PortConfig) -> Option<&'static str> {
    let port = asked.published_port;
    let control = |addr: &str| addr.parse::<SocketAddr>().is_ok_and(|a| a.port() == port);
    match asked.protocol {
        Protocol::Tcp => {
            let mut managers = state.nodes().filter_map(|n| n.manager.as_ref());
            managers.any(|m| control(&m.addr)).then_some("its managers'")
        }
        Protocol::Udp => state.cluster().is_some_and(|c| c.data_path_port == port).then_some("a data path"),
        Protocol::Sctp => None,
    }
}

fn conflict(asked: &PortConfig, held: &PortConfig) -> Option<&'static str> {
    let same =
        asked.published_port != 0 && asked.published_port == held.published_port && asked.protocol == held.protocol;
    match (same, held.publish_mode, asked.publish_mode) {
        (true, PublishMode::Ingress, _) => Some("an ingress"),
        (true, PublishMode::Host, PublishMode::Ingress) => Some("a host-published"),
        _ => None,
    }
}

fn others<'a>(state: &'a State, own: Option<&'a ServiceId>) -> impl Iterator<Item = &'a Service> {
    state.services().map(|s| &**s).filter(move |s| !s.pending_delete && Some(&s.id) != own)
}

/// The ports of `spec` with automatic ones filled in; those that the service already has stay.
pub(crate) fn assign(state: &State, spec: &ServiceSpec, own: Option<&Service>) -> ApiResult<Vec<PortConfig>> {
    let others = others(state, own.map(|s| &s.id)).flat_map(|s| &s.endpoint.ports);
    let mut used: BTreeSet<(Protocol, u16)> =
        others.chain(spec.ports()).map(|p| (p.protocol, p.published_port)).collect();
    let mut kept: Vec<&PortConfig> = own.iter().flat_map(|s| &s.endpoint.ports).collect();
    kept.retain(|p| DYNAMIC_PORTS.contains(&p.published_port) && !used.contains(&(p.protocol, p.published_port)));
    // Kept ports are marked before new ones are drawn, whatever their order in the spec.
    let mut out = Vec::new();
    for port in spec.ports() {
        let mut port = port.clone();
        if is_automatic(&port) {
            let same = |k: &&PortConfig| {
                k.protocol == port.protocol
                    && k.target_port == port.target_port
                    && k.publish_mode == PublishMode::Ingress
            };
            if let Some(at) = kept.iter().position(same) {
                port.published_port = kept.remove(at).published_port;
                used.insert((port.protocol, port.published_port));
            }
        }
        out.push(port);
    }
    for port in out.iter_mut().filter(|p| is_automatic(p)) {
        let free = DYNAMIC_PORTS.clone().find(|p| !used.contains(&(port.protocol, *p)));
        port.published_port = free.ok_or_else(|| exhausted(port.protocol))?;
        used.insert((port.protocol, port.published_port));
    }
    Ok(out)
}

/// Port 0 in host mode is the kernel's choice on the node.
fn is_automatic(port: &PortConfig) -> bool {
    port.published_port == 0 && port.publish_mode == PublishMode::Ingress
}

fn exhausted(protocol: Protocol) -> ApiError {
    let (first, last) = (DYNAMIC_PORTS.start(), DYNAMIC_PORTS.end());
    ApiError::rpc(Code::FailedPrecondition, format!("no free published port left in {first}-{last}/{protocol}"))
}
