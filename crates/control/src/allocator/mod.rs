//! Everything that must not be given out twice: subnets, VNIs, addresses, VIPs and published ports.
//!
//! Networks and services are allocated by the request that makes them, which fails where that cannot be done. Tasks are
//! allocated when they are NEW; one that cannot be stays NEW and says why.

mod ipam;
pub(crate) mod ports;
mod routes;
mod vni;

use std::{collections::BTreeSet, sync::Arc};

use malha_model::{
    ApiResult, Endpoint, Network, NetworkAttachment, NetworkAttachmentConfig, NetworkId, Service, Task, TaskState,
    VirtualIp,
};
use malha_store::{State, Tx};

pub(crate) use self::{
    ipam::{AddressError, Addresses, holds_addresses, is_edge, overlap},
    vni::{VNI_OPTION, parse_list},
};
use crate::{Ctx, status};

/// Fills in subnets, VNIs and the load balancer's addresses of a new overlay network.
pub(crate) fn allocate_network(state: &State, network: &mut Network) -> ApiResult<()> {
    ipam::allocate_subnets(state, network)?;
    network.vnis = vni::allocate(state, network)?;
    let mut probe = Tx::new(state);
    probe.put(network.clone());
    let mut addresses = Addresses::default();
    network.lb_addresses = addresses.take(&probe, &network.id)?;
    addresses.save(&mut probe);
    if let Some(saved) = probe.network(&network.id) {
        network.cursor = saved.cursor.clone();
    }
    Ok(())
}

/// Brings `service.endpoint` in line with its spec: ports, and one VIP per network. What it already has, it keeps.
pub(crate) fn allocate_service(tx: &mut Tx, service: &mut Service) -> ApiResult<()> {
    let held = tx.service(&service.id).cloned();
    let ports = ports::assign(tx, &service.spec, held.as_deref())?;
    let mut addresses = Addresses::default();
    let mut virtual_ips = Vec::new();
    for network in vip_networks(tx, service) {
        let kept: Vec<VirtualIp> =
            service.endpoint.virtual_ips.iter().filter(|v| v.network == network).cloned().collect();
        if kept.is_empty() {
            let taken = addresses.take(tx, &network)?;
            virtual_ips.extend(taken.into_iter().map(|addr| VirtualIp { network: network.clone(), addr }));
        } else {
            virtual_ips.extend(kept);
        }
    }
    addresses.save(tx);
    let spec = service.spec.endpoint_spec.clone().unwrap_or_default();
    service.endpoint = Endpoint { spec, ports, virtual_ips };
    Ok(())
}

/// Networks that the service has a VIP on: its own in spec order, then ingress where it publishes there.
fn vip_networks(state: &State, service: &Service) -> Vec<NetworkId> {
    if service.spec.is_dnsrr() {
        return Vec::new();
    }
    let mut seen = BTreeSet::new();
    let targets = service.spec.task_template.networks.iter().map(|n| NetworkId::from(n.target.as_str()));
    let own = targets.filter(|id| state.network(id).is_some_and(|n| !n.predefined));
    let ingress = state.ingress().filter(|_| service.spec.publishes_ingress()).map(|n| n.id.clone());
    own.chain(ingress).filter(|id| seen.insert(id.clone())).collect()
}

/// Gives NEW tasks their addresses and makes them PENDING.
pub(crate) fn allocate_tasks(tx: &mut Tx, ctx: &Ctx<'_>, new: Vec<Arc<Task>>) {
    let mut addresses = Addresses::default();
    for held in new {
        if tx.is_full() {
            break;
        }
        let attached = attachments(tx, &mut addresses, &held);
        if attached.as_ref().is_err_and(|e| held.status.err == e.to_string()) {
            continue;
        }
        let mut task = (*held).clone();
        match attached {
            Ok(networks) => {
                task.networks = networks;
                status::advance(&mut task, ctx, TaskState::Pending, "pending task scheduling");
            }
            Err(e) => {
                task.status.timestamp = ctx.now;
                task.status.err = e.to_string();
            }
        }
        tx.put(task);
    }
    addresses.save(tx);
}

fn attachments(state: &State, addresses: &mut Addresses, task: &Task) -> Result<Vec<NetworkAttachment>, AddressError> {
    let service = task.service.as_ref().and_then(|s| state.service(s));
    let publishes = service.is_some_and(|s| s.spec.publishes_ingress());
    let ingress = state
        .ingress()
        .filter(|_| publishes)
        .map(|n| NetworkAttachmentConfig { target: n.id.to_string(), ..NetworkAttachmentConfig::default() });
    let mark = addresses.mark();
    let mut out: Vec<NetworkAttachment> = Vec::new();
    for config in task.spec.networks.iter().chain(&ingress) {
        let network = NetworkId::from(config.target.as_str());
        let result = attach(state, addresses, &network, config);
        match result {
            Ok(attachment) => out.push(attachment),
            Err(e) => {
                // All or nothing: what the task got on its other networks is free again.
                addresses.undo(mark, &out);
                return Err(e);
            }
        }
    }
    Ok(out)
}

fn attach(
    state: &State,
    addresses: &mut Addresses,
    id: &NetworkId,
    config: &NetworkAttachmentConfig,
) -> Result<NetworkAttachment, AddressError> {
    let predefined = state.network(id).is_some_and(|n| n.predefined);
    Ok(NetworkAttachment {
        network: id.clone(),
        addresses: if predefined { Vec::new() } else { addresses.take(state, id)? },
        aliases: config.aliases.clone(),
        driver_opts: config.driver_opts.clone(),
    })
}
