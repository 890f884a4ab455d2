//! Where a development cluster keeps its things, and what they are called.
//!
//! Everything carries the cluster's name, so that several stand side by side and each is removed whole.

use std::path::{Path, PathBuf};

/// Above the run-time state of all clusters.
const RUN: &str = "/run/malha/dev";

/// Paths and names of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) name: String,
    pub(crate) state: PathBuf,
    pub(crate) run: PathBuf,
}

impl Layout {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            state: Path::new("/var/lib/malha/dev").join(name),
            run: Path::new(RUN).join(name),
        }
    }

    pub(crate) fn cluster_file(&self) -> PathBuf {
        self.state.join("cluster.json")
    }

    /// Beside the cluster, which may be gone.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.run.with_extension("lock")
    }

    /// Network namespace of a node, of the underlay (`net`) or of the outside client (`client`).
    pub(crate) fn netns(&self, what: &str) -> String {
        format!("malha-{}-{what}", self.name)
    }

    pub(crate) fn netns_path(&self, what: &str) -> PathBuf {
        Path::new("/run/netns").join(self.netns(what))
    }

    pub(crate) fn socket(&self, node: &str) -> PathBuf {
        self.run.join(format!("{node}.sock"))
    }

    pub(crate) fn node_state(&self, node: &str) -> PathBuf {
        self.state.join(node)
    }

    pub(crate) fn node_run(&self, node: &str) -> PathBuf {
        self.run.join(node)
    }

    pub(crate) fn log(&self, node: &str) -> PathBuf {
        self.state.join(format!("{node}.log"))
    }

    /// Directory of the cluster's own containerd.
    pub(crate) fn containerd(&self) -> PathBuf {
        self.state.join("containerd")
    }

    pub(crate) fn containerd_socket(&self) -> PathBuf {
        self.containerd().join("containerd.sock")
    }

    /// Name of a node's containerd namespace, cgroup and pin directory.
    pub(crate) fn instance(&self, node: &str) -> String {
        format!("malha-{}-{node}", self.name)
    }
}

/// The instance of the development node whose API is at `host`, a `DOCKER_HOST`; none where that is no such node's.
pub(crate) fn instance_at(host: &str) -> Option<String> {
    let socket = Path::new(host.strip_prefix("unix://")?).strip_prefix(RUN).ok()?;
    let (cluster, node) = socket.to_str()?.strip_suffix(".sock")?.split_once('/')?;
    (!node.contains('/')).then(|| Layout::new(cluster).instance(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_tells_its_instance() {
        let layout = Layout::new("my-demo");
        let host = format!("unix://{}", layout.socket("node2").display());
        assert_eq!(instance_at(&host), Some(layout.instance("node2")));
        for other in ["unix:///run/malha/malha.sock", "tcp://10.0.0.1:2376", "unix:///run/malha/dev/x/y/z.sock", ""] {
            assert_eq!(instance_at(other), None, "{other}");
        }
    }
}
