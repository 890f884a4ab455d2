//! What waits inside the kernel runs on threads of its own.
//!
//! A request to the kernel's network blocks the thread that makes it: links wait for one lock of the whole machine, and
//! the end of a namespace or of a program for all processors. On the threads that the rest of the daemon shares, a node
//! that removes many containers would miss its heartbeats and its answers to names; a manager would lose its leadership.

use std::{collections::BTreeSet, future::Future, sync::Arc};

use ipnet::IpNet;
use malha_agent::NodeNetworks;
use malha_dataplane::GwBridgeConfig;
use malha_model::TaskId;
use malha_runtime::ContainerFiles;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, info, warn};

use super::{Gateway, Settings, Underlay, WireError, WireRequest, Wired, Wiring};

/// Changes that may wait at once: sandboxes, the maps, the node's addresses and paths.
const THREADS: usize = 4;

/// The threads. Dropped, they end without waiting for what the kernel holds up.
pub(crate) struct KernelThreads(Option<Runtime>);

impl KernelThreads {
    pub(crate) fn start() -> std::io::Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(THREADS).thread_name("malha-kernel").enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    pub(crate) fn handle(&self) -> Option<Handle> {
        self.0.as_ref().map(|runtime| runtime.handle().clone())
    }
}

impl Drop for KernelThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The node's network as the rest of the daemon holds it.
pub(crate) struct NodeNet {
    wiring: Arc<Wiring>,
    threads: Handle,
}

impl NodeNet {
    pub(crate) fn new(settings: Settings, dns: malha_dns::Server, bridge: GwBridgeConfig, threads: Handle) -> Self {
        Self { wiring: Arc::new(Wiring::new(settings, dns, bridge)), threads }
    }

    /// Ends with the caller, once the kernel lets go of it.
    pub(super) async fn apart<T, F>(&self, work: impl FnOnce(Arc<Wiring>) -> F) -> Result<T, WireError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, WireError>> + Send + 'static,
    {
        let work = work(self.wiring.clone()).in_current_span();
        AbortOnDropHandle::new(self.threads.spawn(work)).await?
    }

    /// Comes to its end, whoever goes: halfway the node is without the network that its sandboxes stand on.
    async fn whole<T, F>(&self, work: impl FnOnce(Arc<Wiring>) -> F) -> Result<T, WireError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, WireError>> + Send + 'static,
    {
        self.threads.spawn(work(self.wiring.clone()).in_current_span()).await?
    }

    /// Makes or adopts what the node itself has: tunnel device, bridge, programs. A bridge that is made keeps off
    /// `subnets` where it can.
    pub(crate) async fn open(&self, swarm: Underlay, subnets: Vec<IpNet>) -> Result<(), WireError> {
        self.whole(|wiring| async move { wiring.open(swarm, subnets).await }).await
    }

    /// The node leaves its swarm. Sandboxes of containers stay that are none of its tasks', those not taken over yet as well:
    /// of these, the `occupied` ones. Says whose went.
    pub(crate) async fn close(&self, occupied: BTreeSet<String>) -> Result<BTreeSet<String>, WireError> {
        self.whole(|wiring| async move { wiring.close(&occupied).await }).await
    }

    /// What an earlier daemon left standing outside a swarm: that of `keep` stays, the rest and its ports go.
    pub(crate) async fn reopen(&self, keep: BTreeSet<String>) {
        match self.apart(|wiring| async move { wiring.reopen().await }).await {
            Ok(true) => self.collect_garbage(keep).await,
            Ok(false) => {}
            Err(e) => warn!(error = %e, "cannot look at the sandboxes of an earlier daemon"),
        }
    }

    /// Whether there is a sandbox of a container, made here or found.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.wiring.knows(id)
    }

    /// Whether a container runs on without the sandbox that it had.
    pub(crate) fn has_lost(&self, id: &str) -> bool {
        self.wiring.has_lost(id)
    }

    /// Removes the sandboxes in which no container can stand, but those that are to be kept.
    pub(crate) async fn collect_garbage(&self, keep: BTreeSet<String>) {
        match self.apart(|wiring| async move { wiring.collect_garbage(keep).await }).await {
            Ok(gone) if gone.is_empty() => {}
            Ok(gone) => info!(sandboxes = ?gone, "removed, as no container is left in them"),
            Err(e) => warn!(error = %e, "cannot remove all sandboxes without containers"),
        }
    }

    /// Makes maps and names reflect `networks`. One caller, one state after the other.
    pub(crate) async fn apply(&self, networks: Arc<NodeNetworks>) -> Result<(), WireError> {
        self.apart(|wiring| async move { wiring.apply(networks).await }).await
    }

    /// Makes the network of a container. Everything is undone where a step fails.
    pub(crate) async fn wire(&self, request: WireRequest) -> Result<Wired, WireError> {
        self.apart(|wiring| async move { wiring.wire(request).await }).await
    }

    /// Waits until attachments that an earlier daemon was given have arrived; false where they have not for long.
    pub(crate) async fn attachments_arrive(&self, attachments: &[TaskId]) -> bool {
        self.wiring.attachments_arrive(attachments).await
    }

    /// Takes over the sandbox of a stand-alone container that a former daemon left standing.
    pub(crate) async fn adopt(&self, request: WireRequest, attachments: Vec<TaskId>) -> Result<(), WireError> {
        self.apart(|wiring| async move { wiring.adopt(request, &attachments).await }).await
    }

    /// Removes the network of a container.
    pub(crate) async fn unwire(&self, id: &str) -> Result<(), WireError> {
        let id = id.to_owned();
        self.apart(|wiring| async move { wiring.unwire(&id).await }).await
    }

    /// Makes the gateway bridge before anything needs it.
    pub(crate) async fn make_gateway(&self, config: GwBridgeConfig) -> Result<(), WireError> {
        self.whole(|wiring| async move { wiring.make_gateway(config).await }).await
    }

    /// Removes the gateway bridge that nothing needs.
    pub(crate) async fn remove_gateway(&self) -> Result<(), WireError> {
        self.whole(|wiring| async move { wiring.remove_gateway().await }).await
    }

    /// None while the node's network is not open.
    pub(crate) async fn gateway(&self) -> Option<Gateway> {
        self.wiring.gateway().await
    }

    /// The state that was applied last.
    pub(crate) fn current(&self) -> Arc<NodeNetworks> {
        self.wiring.current()
    }

    /// The hosts file of a sandbox once its container's host name is known.
    pub(crate) fn hosts_file(&self, sandbox: &str, hostname: &str, extra: &[String]) -> ContainerFiles {
        self.wiring.hosts_file(sandbox, hostname, extra)
    }
}
