//! Every node's maps hold what the store says: peers, endpoints, VIPs and published ports, neither more nor less.

use std::{collections::BTreeMap, sync::Arc};

use malha_control::{network_view, networks_of_node};
use malha_model::{NetworkId, NetworkView, Task, TaskId};
use malha_netplan::{NetPlan, NodeInputs, build_plan};
use malha_simcluster::SimNode;
use malha_store::State;

use super::{Verdict, violated};

pub fn check(node: &SimNode, state: &State) -> Verdict {
    let Some(applied) = node.machine.networks() else {
        return Err(violated("maps", format_args!("{} never applied its networks", node.name)));
    };
    let stored: BTreeMap<NetworkId, Arc<NetworkView>> = networks_of_node(state, &node.id)
        .into_iter()
        .filter_map(|id| network_view(state, &id).map(|view| (id, Arc::new(view))))
        .collect();
    if !applied.views.keys().eq(stored.keys()) {
        let (here, there) = (applied.views.keys().collect::<Vec<_>>(), stored.keys().collect::<Vec<_>>());
        return Err(violated("maps", format_args!("{} is on {here:?}, the store says {there:?}", node.name)));
    }
    let here = |t: &&Arc<Task>| !t.networks.is_empty() && !t.status.state.is_terminal();
    let tasks: BTreeMap<TaskId, Arc<Task>> =
        state.tasks_of_node(&node.id).filter(here).map(|t| (t.id.clone(), t.clone())).collect();
    let tasks: Vec<Arc<Task>> = tasks.into_values().collect();
    let planned = plan(node, &applied.views, &applied.tasks);
    let expected = plan(node, &stored, &tasks);
    if planned == expected {
        return Ok(());
    }
    Err(violated("maps", format_args!("{} has {}", node.name, difference(&planned, &expected))))
}

fn plan(node: &SimNode, views: &BTreeMap<NetworkId, Arc<NetworkView>>, local: &[Arc<Task>]) -> NetPlan {
    build_plan(&NodeInputs { node: node.id.clone(), views, local })
}

fn difference(planned: &NetPlan, expected: &NetPlan) -> String {
    let vni = expected.networks.keys().find(|vni| planned.networks.get(vni) != expected.networks.get(vni));
    match vni {
        Some(vni) => {
            format!("on VNI {vni} {:?}, the store says {:?}", planned.networks.get(vni), expected.networks.get(vni))
        }
        None => format!("published {:?}, the store says {:?}", planned.published, expected.published),
    }
}
