//! No address or VIP is given twice, and each lies in a subnet of its network, beside what is reserved there.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use malha_model::{Network, NetworkId};
use malha_store::State;

use super::{Verdict, violated};

pub fn check(state: &State) -> Verdict {
    let mut given = Given { state, holders: BTreeMap::new() };
    for network in state.networks() {
        for addr in &network.lb_addresses {
            given.claim(&network.id, *addr, "the load balancer")?;
        }
    }
    for service in state.services() {
        for vip in &service.endpoint.virtual_ips {
            given.claim(&vip.network, vip.addr, service.id.as_str())?;
        }
    }
    for task in state.tasks().filter(|t| !t.status.state.is_terminal()) {
        for attachment in &task.networks {
            for addr in &attachment.addresses {
                given.claim(&attachment.network, *addr, task.id.as_str())?;
            }
        }
    }
    Ok(())
}

struct Given<'a> {
    state: &'a State,
    holders: BTreeMap<(&'a NetworkId, IpAddr), &'a str>,
}

impl<'a> Given<'a> {
    fn claim(&mut self, network: &'a NetworkId, addr: IpNet, who: &'a str) -> Verdict {
        let addr = addr.addr();
        let Some(known) = self.state.network(network) else {
            return Err(violated("addresses", format_args!("{who} has {addr} on {network}, which is gone")));
        };
        if !is_free_to_give(known, addr) {
            return Err(violated("addresses", format_args!("{addr} of {who} is not {}'s to give", known.name())));
        }
        match self.holders.insert((network, addr), who) {
            Some(other) => {
                Err(violated("addresses", format_args!("{addr} on {} is given to {other} and {who}", known.name())))
            }
            None => Ok(()),
        }
    }
}

fn is_free_to_give(network: &Network, addr: IpAddr) -> bool {
    let Some(config) = network.ipam.iter().find(|c| c.subnet.is_some_and(|s| s.contains(&addr))) else { return false };
    config.gateway != Some(addr) && !config.auxiliary_addresses.values().any(|reserved| *reserved == addr)
}
