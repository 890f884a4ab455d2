//! Which nodes may run a task at all. The first filter that refuses a node is the reason that is counted.

use malha_model::{Availability, NodeState, Task};
use malha_store::State;

use super::{
    constraint::{node_matches, normal_arch},
    node_info::{NodeInfo, host_ports, reservations},
};

/// In the order in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    Ready,
    Resources,
    Plugin,
    Constraints,
    Platform,
    HostPort,
    MaxReplicas,
}

const ALL: [Filter; 7] = [
    Filter::Ready,
    Filter::Resources,
    Filter::Plugin,
    Filter::Constraints,
    Filter::Platform,
    Filter::HostPort,
    Filter::MaxReplicas,
];

/// What one task needs of a node.
pub(crate) struct Demand<'a> {
    task: &'a Task,
    drivers: Vec<String>,
}

impl<'a> Demand<'a> {
    pub(crate) fn of(state: &State, task: &'a Task) -> Self {
        let networks = task.networks.iter().filter_map(|a| state.network(&a.network)).filter(|n| !n.predefined);
        Self { task, drivers: networks.map(|n| n.spec.driver.clone()).collect() }
    }

    pub(crate) fn refused_by(&self, node: &NodeInfo) -> Option<Filter> {
        ALL.into_iter().find(|f| !self.passes(*f, node))
    }

    fn passes(&self, filter: Filter, info: &NodeInfo) -> bool {
        let (node, task) = (&info.node, self.task);
        let placement = task.spec.placement.as_ref();
        match filter {
            Filter::Ready => node.status.state == NodeState::Ready && node.spec.availability == Availability::Active,
            Filter::Resources => reservations(task).is_none_or(|r| {
                let fits = |asked: i64, free: i64| asked <= 0 || asked <= free;
                fits(r.nano_cpus, info.free_cpus) && fits(r.memory_bytes, info.free_memory)
            }),
            Filter::Plugin => {
                let plugins = &node.description.engine.plugins;
                let has = |driver: &String| plugins.iter().any(|p| p.kind == "Network" && p.name == *driver);
                plugins.is_empty() || self.drivers.iter().all(has)
            }
            Filter::Constraints => placement.is_none_or(|p| node_matches(&p.constraints, node)),
            Filter::Platform => {
                let own = &node.description.platform;
                placement.is_none_or(|p| {
                    p.platforms.is_empty()
                        || p.platforms.iter().any(|w| {
                            let arch = w.architecture.is_empty()
                                || normal_arch(&w.architecture) == normal_arch(&own.architecture);
                            (w.os.is_empty() || w.os == own.os) && arch
                        })
                })
            }
            Filter::HostPort => host_ports(task).all(|p| !info.host_ports.contains(&p)),
            Filter::MaxReplicas => {
                placement.is_none_or(|p| p.max_replicas == 0 || info.active_of(task) < p.max_replicas)
            }
        }
    }
}

/// How many nodes each filter refused.
#[derive(Debug, Default)]
pub(crate) struct Failures([usize; ALL.len()]);

impl Failures {
    /// True for a node that nothing refused.
    pub(crate) fn record(&mut self, refused_by: Option<Filter>) -> bool {
        if let Some(filter) = refused_by {
            self.0[filter as usize] += 1;
        }
        refused_by.is_none()
    }

    /// The reasons, most frequent first.
    pub(crate) fn explain(&self) -> String {
        let mut reasons: Vec<(Filter, usize)> = ALL.into_iter().zip(self.0).filter(|(_, n)| *n > 0).collect();
        reasons.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        reasons.into_iter().map(|(f, n)| f.reason(n)).collect::<Vec<_>>().join("; ")
    }
}

impl Filter {
    fn reason(self, n: usize) -> String {
        let nodes = if n == 1 { "1 node".to_owned() } else { format!("{n} nodes") };
        match self {
            Self::Ready => format!("{nodes} not available for new tasks"),
            Self::Resources => format!("insufficient resources on {nodes}"),
            Self::Plugin => format!("missing plugin on {nodes}"),
            Self::Constraints => format!("scheduling constraints not satisfied on {nodes}"),
            Self::Platform => format!("unsupported platform on {nodes}"),
            Self::HostPort => format!("host-mode port already in use on {nodes}"),
            Self::MaxReplicas => "max replicas per node limit exceed".to_owned(),
        }
    }
}
