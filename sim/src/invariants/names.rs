//! Every node answers the names that the store says, network by network.

use std::collections::BTreeMap;

use malha_control::{network_view, networks_of_node};
use malha_model::{NetworkId, NetworkView};
use malha_netplan::{NetZone, build_net_zone};
use malha_simcluster::SimNode;
use malha_store::State;

use super::{Verdict, violated};

pub fn check(node: &SimNode, state: &State) -> Verdict {
    let applied = node.machine.networks().map(|n| n.views.clone()).unwrap_or_default();
    let ids = networks_of_node(state, &node.id);
    let stored: BTreeMap<NetworkId, NetworkView> =
        ids.into_iter().filter_map(|id| network_view(state, &id).map(|view| (id, view))).collect();
    let answers = zones(applied.iter().map(|(id, view)| (id, &**view)));
    let expected = zones(stored.iter());
    let different = |id: &&NetworkId| answers.get(*id) != expected.get(*id);
    match answers.keys().chain(expected.keys()).find(different) {
        Some(id) => {
            let (name, here, there) = (&node.name, answers.get(id), expected.get(id));
            Err(violated("names", format_args!("{name} answers on {id} {here:?}, the store says {there:?}")))
        }
        None => Ok(()),
    }
}

fn zones<'a>(views: impl Iterator<Item = (&'a NetworkId, &'a NetworkView)> + Clone) -> BTreeMap<NetworkId, NetZone> {
    let ingress = views.clone().map(|(_, view)| view).find(|view| view.network.spec.ingress);
    views.map(|(id, view)| (id.clone(), build_net_zone(view, ingress))).collect()
}
