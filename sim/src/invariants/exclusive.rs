//! On the machines themselves: no two running containers hold one address, and no task's container starts twice.

use std::collections::BTreeMap;

use malha_simcluster::SimCluster;

use super::{Verdict, violated};

pub fn check(cluster: &SimCluster) -> Verdict {
    let mut holders = BTreeMap::new();
    for node in &cluster.nodes {
        for task in node.machine.running() {
            for attachment in &task.networks {
                for addr in &attachment.addresses {
                    let held = (attachment.network.clone(), addr.addr());
                    if let Some(other) = holders.insert(held, task.id.clone()) {
                        let what = format_args!("{other} and {} run with {} at the same time", task.id, addr.addr());
                        return Err(violated("exclusive", what));
                    }
                }
            }
        }
        if let Some((task, times)) = node.machine.starts().into_iter().find(|(_, times)| *times > 1) {
            return Err(violated("exclusive", format_args!("{} started {task} {times} times", node.name)));
        }
    }
    Ok(())
}
