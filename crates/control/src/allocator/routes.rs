//! Where nodes have ways of their own to: no network of the swarm may lie there.
//!
//! Containers could not tell what their node reaches there from their own network, on that node or on any that they move
//! to: so the routes of all nodes count.

use ipnet::IpNet;
use malha_model::{Node, NodeRoute};
use malha_store::State;

/// In order, none within another.
#[derive(Debug)]
pub(crate) struct Routes<'a>(Vec<Found<'a>>);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    node: &'a Node,
    route: &'a NodeRoute,
}

impl<'a> Routes<'a> {
    pub(crate) fn of(state: &'a State) -> Self {
        let of_node = |node: &'a Node| node.description.routes.iter().map(move |route| Found { node, route });
        let mut all: Vec<Found<'a>> = state.nodes().flat_map(|n| of_node(n)).collect();
        // what holds another comes before it
        all.sort_by_key(|f| (f.route.subnet.network(), f.route.subnet.prefix_len()));
        let mut apart: Vec<Found<'a>> = Vec::new();
        for found in all {
            if !apart.last().is_some_and(|last| last.route.subnet.contains(&found.route.subnet)) {
                apart.push(found);
            }
        }
        Self(apart)
    }

    pub(crate) fn overlapping(&self, subnet: &IpNet) -> Option<Found<'a>> {
        let before = self.0.partition_point(|f| f.route.subnet.network() <= subnet.broadcast());
        let last = self.0.get(before.checked_sub(1)?)?;
        (last.route.subnet.broadcast() >= subnet.network()).then_some(*last)
    }
}

impl std::fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the route {} of node {}", self.route, self.node.name())
    }
}
