//! A client of containerd's gRPC API, generated from its own protocol files.
//!
//! One lazily connected channel over the unix socket; a lost connection is made anew by the next call, so containerd may
//! restart at any time. Every call carries the node's containerd namespace and, for image work, a lease that keeps the
//! garbage collector away from what is not referenced yet.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::{Result, RuntimeError};

#[allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub, dead_code, rustdoc::all, reason = "generated")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/containerd_api.rs"));
}

pub(crate) use generated::containerd::{events, runc, types, v1};
pub(crate) mod services {
    pub(crate) use super::generated::containerd::services::{
        containers::v1 as containers, content::v1 as content, diff::v1 as diff, events::v1 as events,
        images::v1 as images, leases::v1 as leases, namespaces::v1 as namespaces, snapshots::v1 as snapshots,
        tasks::v1 as tasks, version::v1 as version,
    };
}

use services as s;

pub(crate) type Service = InterceptedService<Channel, Headers>;

/// Largest message of containerd's own client and server.
const MAX_MESSAGE: usize = 16 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Containerd {
    channel: Channel,
    headers: Headers,
}

/// What every request says about whom it is for.
#[derive(Clone, Debug)]
pub(crate) struct Headers {
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: tonic::Request<()>) -> std::result::Result<tonic::Request<()>, tonic::Status> {
        let metadata = request.metadata_mut();
        metadata.insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            metadata.insert("containerd-lease", lease.clone());
        }
        Ok(request)
    }
}

macro_rules! clients {
    ($($name:ident: $client:ty),* $(,)?) => {$(
        pub(crate) fn $name(&self) -> $client {
            <$client>::new(InterceptedService::new(self.channel.clone(), self.headers.clone()))
                .max_decoding_message_size(MAX_MESSAGE)
        }
    )*};
}

impl Containerd {
    /// Connects when first used.
    pub(crate) fn new(socket: &Path, namespace: &str) -> Result<Self> {
        let socket: PathBuf = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(&socket).await.map(TokioIo::new) }
        });
        // The address is only there to please HTTP.
        let channel = Endpoint::from_static("http://containerd")
            .connect_timeout(Duration::from_secs(5))
            .connect_with_connector_lazy(connector);
        let namespace =
            namespace.parse().map_err(|_| RuntimeError::invalid(format!("bad containerd namespace {namespace:?}")))?;
        Ok(Self { channel, headers: Headers { namespace, lease: None } })
    }

    clients! {
        containers: s::containers::containers_client::ContainersClient<Service>,
        content: s::content::content_client::ContentClient<Service>,
        diff: s::diff::diff_client::DiffClient<Service>,
        events: s::events::events_client::EventsClient<Service>,
        images: s::images::images_client::ImagesClient<Service>,
        leases: s::leases::leases_client::LeasesClient<Service>,
        namespaces: s::namespaces::namespaces_client::NamespacesClient<Service>,
        snapshots: s::snapshots::snapshots_client::SnapshotsClient<Service>,
        tasks: s::tasks::tasks_client::TasksClient<Service>,
        version: s::version::version_client::VersionClient<Service>,
    }

    /// Version of the containerd behind the socket; also tells whether it answers at all.
    pub(crate) async fn server_version(&self) -> Result<String> {
        Ok(self.version().version(()).await?.into_inner().version)
    }

    /// Creates the namespace where it is not there yet.
    pub(crate) async fn ensure_namespace(&self) -> Result<()> {
        let name = self.namespace().to_owned();
        let namespace = s::namespaces::Namespace { name, ..Default::default() };
        let request = s::namespaces::CreateNamespaceRequest { namespace: Some(namespace) };
        match self.namespaces().create(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == tonic::Code::AlreadyExists => Ok(()),
            Err(status) => Err(status.into()),
        }
    }

    pub(crate) fn namespace(&self) -> &str {
        self.headers.namespace.to_str().unwrap_or_default()
    }

    /// A lease and a client whose calls work under it. containerd drops the lease by itself should we die.
    pub(crate) async fn lease(&self) -> Result<Lease> {
        let expire = crate::clock::now().plus(LEASE_TIME).to_string();
        let request = s::leases::CreateRequest {
            id: format!("malha-{:016x}", rand::random::<u64>()),
            labels: [("containerd.io/gc.expire".to_owned(), expire)].into(),
        };
        let response = self.leases().create(request).await?.into_inner();
        let id = response.lease.map(|l| l.id).unwrap_or_default();
        let mut leased = self.clone();
        leased.headers.lease = id.parse().ok();
        Ok(Lease { id, containerd: leased })
    }
}

const LEASE_TIME: Duration = Duration::from_secs(24 * 3600);

/// Keeps unreferenced content alive; see [`Containerd::lease`].
#[derive(Debug)]
pub(crate) struct Lease {
    id: String,
    /// Calls made through this one are under the lease.
    pub(crate) containerd: Containerd,
}

impl Lease {
    /// Ends the lease; what nothing refers to by now is collected before this returns.
    pub(crate) async fn release(self) -> Result<()> {
        self.containerd.leases().delete(s::leases::DeleteRequest { id: self.id, sync: true }).await?;
        Ok(())
    }
}

/// `google.protobuf.Any` of a JSON document, as containerd's `typeurl` has it.
pub(crate) fn json_any(type_url: &str, value: &serde_json::Value) -> prost_types::Any {
    prost_types::Any { type_url: type_url.to_owned(), value: value.to_string().into_bytes() }
}

/// A protobuf time as ours.
pub(crate) fn timestamp(t: Option<prost_types::Timestamp>) -> malha_model::Timestamp {
    let Some(t) = t.filter(|t| t.seconds > 0) else { return malha_model::Timestamp::ZERO };
    malha_model::Timestamp(t.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(t.nanos)))
}
