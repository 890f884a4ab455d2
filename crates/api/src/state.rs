//! What handlers share: the two ports, and typed calls of the one that answers with an enum.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use http::request::Parts;
use malha_kit::SharedClock;
use malha_model::{
    ApiError, ApiResult, Cluster as ClusterObject, ControlRequest, ControlResponse, Network, NetworkView, Node,
    Service, ServiceWithStatus, Task,
};

use crate::{
    backend::{Cluster, Engine},
    http::version::{ApiVersion, MAX_API_VERSION},
};

/// The API over one node.
#[derive(Clone)]
pub struct Api {
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) clock: SharedClock,
}

pub(crate) type Shared = State<Arc<Api>>;

impl Api {
    pub fn new(cluster: Arc<dyn Cluster>, engine: Arc<dyn Engine>, clock: SharedClock) -> Self {
        Self { cluster, engine, clock }
    }
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $t:ty),*) = $request:expr => $variant:ident($answer:ty);)*) => {
        impl Api {$(
            $(#[$doc])*
            pub(crate) async fn $name(&self $(, $arg: $t)*) -> ApiResult<$answer> {
                match self.cluster.control($request).await? {
                    ControlResponse::$variant(v) => Ok(v),
                    other => Err(unexpected(&other)),
                }
            }
        )*}
    };
}

calls! {
    swarm() = ControlRequest::ClusterGet => Cluster(ClusterObject);
    nodes() = ControlRequest::NodeList => Nodes(Vec<Node>);
    node(id: &str) = ControlRequest::NodeGet { id: id.into() } => Node(Node);
    services() = ControlRequest::ServiceList => Services(Vec<ServiceWithStatus>);
    service(id: &str) = ControlRequest::ServiceGet { id: id.into() } => Service(Service);
    tasks() = ControlRequest::TaskList => Tasks(Vec<Task>);
    task(id: &str) = ControlRequest::TaskGet { id: id.into() } => Task(Task);
    swarm_networks() = ControlRequest::NetworkList => Networks(Vec<Network>);
    swarm_network_view(id: &str) = ControlRequest::NetworkView { id: id.into() } => NetworkView(NetworkView);
}

impl Api {
    /// A request that is answered with nothing but success; answers with objects of no interest count too.
    pub(crate) async fn run(&self, request: ControlRequest) -> ApiResult<()> {
        self.cluster.control(request).await.map(|_| ())
    }

    /// True on managers of a swarm.
    pub(crate) async fn is_manager(&self) -> bool {
        self.cluster.info().await.control_available
    }
}

pub(crate) fn unexpected(response: &ControlResponse) -> ApiError {
    let kind = format!("{response:?}");
    let kind = kind.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    ApiError::internal(format!("the leader answered with {kind}, which does not fit the request"))
}

/// The version that the client speaks.
impl<S: Sync> FromRequestParts<S> for ApiVersion {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get().copied().unwrap_or(MAX_API_VERSION))
    }
}
