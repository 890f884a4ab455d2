//! No VNI is given twice, and no two networks share a subnet.

use std::collections::BTreeMap;

use malha_store::State;

use super::{Verdict, violated};

pub fn check(state: &State) -> Verdict {
    let mut holders = BTreeMap::new();
    let mut subnets: Vec<(ipnet::IpNet, &str)> = Vec::new();
    for network in state.networks() {
        for vni in &network.vnis {
            if let Some(other) = holders.insert(*vni, network.name()) {
                return Err(violated("vnis", format_args!("{vni} is given to {other} and {}", network.name())));
            }
        }
        for subnet in network.ipam.iter().filter_map(|c| c.subnet) {
            let overlap = subnets.iter().find(|(s, _)| s.contains(&subnet) || subnet.contains(s));
            if let Some((other, holder)) = overlap {
                let name = network.name();
                return Err(violated("vnis", format_args!("{subnet} of {name} overlaps {other} of {holder}")));
            }
            subnets.push((subnet, network.name()));
        }
    }
    Ok(())
}
