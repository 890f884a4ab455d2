//! Where this node has ways of its own to, and what of the swarm lies there all the same.

use malha_dataplane::NodeNetworkConfig;
use malha_model::NodeRoute;
use tracing::debug;

use super::{NodeNet, WireError};

impl NodeNet {
    /// As they are now, in a swarm or not.
    pub(crate) async fn routes(&self) -> Result<Vec<NodeRoute>, WireError> {
        self.apart(|_| async { Ok(malha_dataplane::routes(&NodeNetworkConfig::default().netns).await?) }).await
    }

    /// For `docker info`: networks that this node is on and that overlap one of its routes.
    pub(crate) async fn warnings(&self) -> Vec<String> {
        let current = self.current();
        if current.views.is_empty() {
            return Vec::new();
        }
        let routes = self.routes().await.unwrap_or_else(|error| {
            debug!(%error, "the node's routes are not known");
            Vec::new()
        });
        let overlaps = current.views.values().filter_map(|v| Some((&v.network, v.network.overlapped(&routes)?)));
        let text = overlaps.map(|(network, (subnet, route))| {
            let name = network.name();
            format!("WARNING: network {name} ({subnet}) overlaps the route {route} of this node")
        });
        text.collect()
    }
}
