//! Which of the nodes that may run a task is to run it.

use std::collections::BTreeMap;

use malha_model::{Node, Task};

use super::node_info::NodeInfo;

/// From this many recent failures of a service on a node on, the node is the last choice for it.
const MANY_FAILURES: u64 = 5;

/// Follows the spread preferences one after the other, each time into the branch with the fewest tasks of the service;
/// in the last branch, the node with fewest recent failures, fewest tasks of the service, fewest tasks.
pub(crate) fn best<'a>(task: &Task, fitting: &[&'a NodeInfo]) -> Option<&'a Node> {
    let preferences = task.spec.placement.as_ref().map_or(&[][..], |p| &p.preferences);
    let mut left: Vec<&NodeInfo> = fitting.to_vec();
    for descriptor in preferences.iter().filter_map(|p| p.spread.as_ref()).map(|s| &s.spread_descriptor) {
        let mut branches: BTreeMap<String, Vec<&NodeInfo>> = BTreeMap::new();
        for info in left.drain(..) {
            branches.entry(label(&info.node, descriptor)).or_default().push(info);
        }
        let load = |nodes: &Vec<&NodeInfo>| nodes.iter().map(|n| n.active_of(task)).sum::<u64>();
        left = branches.into_values().min_by_key(load)?;
    }
    let rank = |n: &&&NodeInfo| {
        let failures = Some(n.failures_of(task)).filter(|f| *f >= MANY_FAILURES).unwrap_or(0);
        (failures, n.active_of(task), n.active, n.node.id.clone())
    };
    left.iter().min_by_key(rank).map(|n| &*n.node)
}

/// The node's value for `node.labels.x` or `engine.labels.x`; nodes without it are one branch.
fn label(node: &Node, descriptor: &str) -> String {
    let found = match (descriptor.strip_prefix("node.labels."), descriptor.strip_prefix("engine.labels.")) {
        (Some(name), _) => node.spec.labels.get(name),
        (_, Some(name)) => node.description.engine.labels.get(name),
        _ => None,
    };
    found.cloned().unwrap_or_default()
}
