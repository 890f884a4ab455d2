//! A node that is in a swarm: its certificate, its connections, its agent and, where it is one, its manager.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use arc_swap::ArcSwapOption;
use malha_agent::{Agent, AgentConfig, AgentDeps, FileDisk, Link};
use malha_api::errors;
use malha_kit::{CancellationToken, Tasks, watch};
use malha_model::{ApiError, ApiResult, Code, ControlRequest, ControlResponse, NodeId, Role};
use malha_pki::TlsMaterial;
use malha_runtime::Runtime;
use malha_wire::{Connector, GrpcConnector, JoinError, ManagerClient};
use tokio::sync::Mutex;
use tracing::debug;

use super::{
    Swarm, SwarmDeps,
    role::{Managing, Opening},
    saved::Saved,
};
use crate::node::{
    executor::{NodeExecutor, TASK_LABEL, image::Pulls},
    network::Underlay,
};

/// How long a request of this node looks for a manager that answers.
const ASK_LIMIT: Duration = Duration::from_secs(10);
pub(super) const ASK_PAUSE: Duration = Duration::from_millis(100);
/// Nobody can say at the moment.
pub(super) const UNAVAILABLE: u16 = 503;

pub(crate) struct Member {
    pub(super) deps: SwarmDeps,
    pub(super) dir: PathBuf,
    pub(super) node: NodeId,
    pub(super) saved: Saved,
    pub(super) tls: Arc<TlsMaterial>,
    pub(super) connector: Arc<GrpcConnector>,
    pub(super) agent: Agent,
    pub(super) seeds: watch::Sender<Vec<String>>,
    /// Set while this node is a manager.
    pub(super) managing: ArcSwapOption<Managing>,
    /// Why there is no manager here although there should be one.
    pub(super) failed: ArcSwapOption<String>,
    /// One change of role at a time.
    pub(super) role_change: Mutex<()>,
    /// The node leaves whatever the managers say: it waits for no seat any more.
    pub(super) leaving: CancellationToken,
    pub(super) tasks: Tasks,
}

impl Member {
    /// Opens the node's network and starts the agent. The manager is started by `role`.
    pub(super) async fn start(
        deps: &SwarmDeps,
        dir: PathBuf,
        saved: Saved,
        tls: Arc<TlsMaterial>,
    ) -> anyhow::Result<Arc<Self>> {
        deps.net
            .open(Underlay { addr: saved.data_path, vxlan_port: saved.data_path_port }, saved.subnets.clone())
            .await
            .context("the node's network")?;
        deps.net.collect_garbage(occupied(&deps.runtime)).await;
        let node = tls.certificate().identity.node.clone();
        let tasks = deps.tasks.child();
        let connector = Arc::new(GrpcConnector::new(tls.clone(), &tasks));
        let (seeds, seeds_receiver) = watch::channel(saved.managers.clone());
        let executor = NodeExecutor {
            node: node.clone(),
            config: deps.config.clone(),
            runtime: deps.runtime.clone(),
            net: deps.net.clone(),
            pulls: Pulls::default(),
            trust: tls.trust().tls_info().ok(),
        };
        let agent = Agent::start(
            AgentConfig { node: node.clone(), data_path_addr: saved.data_path },
            AgentDeps {
                executor: Arc::new(executor),
                connector: connector.clone(),
                disk: Arc::new(FileDisk::new(dir.join("agent"))),
                seeds: seeds_receiver,
                clock: deps.clock.clone(),
                rng: deps.rng.fork(),
            },
            &tasks,
        );
        let member = Arc::new(Self {
            deps: deps.clone(),
            dir,
            node,
            saved,
            tls,
            connector,
            agent,
            seeds,
            managing: ArcSwapOption::empty(),
            failed: ArcSwapOption::empty(),
            role_change: Mutex::default(),
            leaving: CancellationToken::new(),
            tasks,
        });
        let (role, seat, health) = (member.clone(), member.clone(), member.clone());
        member.tasks.spawn_supervised("role", move || role.clone().follow_role());
        member.tasks.spawn_supervised("seat", move || seat.clone().follow_seat());
        member.tasks.spawn_supervised("health", move || health.clone().follow_health());
        Ok(member)
    }

    /// Takes up the part that the certificate names. A manager that cannot be started now is tried again later.
    pub(super) async fn resume_role(&self) -> anyhow::Result<()> {
        // the leader may have had a word already
        let _one = self.role_change.lock().await;
        if self.tls.certificate().identity.role == Role::Manager && self.managing.load().is_none() {
            self.start_manager(Opening::AsItIs).await.inspect_err(|e| self.fail(format!("{e:#}")))?;
        }
        Ok(())
    }

    /// Addresses of managers, best first: what the agent heard last, what was known at the start.
    pub(super) fn manager_addrs(&self) -> Vec<String> {
        let heard = self.agent.managers();
        let mut seen = BTreeSet::new();
        let own = self.managing.load().as_ref().map(|_| self.saved.advertise.to_string());
        let heard = heard.borrow().values().cloned().collect::<Vec<_>>();
        own.into_iter().chain(heard).chain(self.saved.managers.clone()).filter(|a| seen.insert(a.clone())).collect()
    }

    /// A manager that can be reached.
    pub(super) async fn any_manager(&self) -> ApiResult<Arc<dyn ManagerClient>> {
        let mut last = ApiError::plain(Code::Unavailable, "no manager of this swarm is known");
        for addr in self.manager_addrs() {
            match self.connector.connect(&addr).await {
                Ok(client) => return Ok(client),
                Err(e) => last = e.into(),
            }
        }
        Err(last)
    }

    /// Gets the next certificate, with the role `wanted` where one is. The manager of the session is asked first, which
    /// leads; this node's own last, which may not have heard of a change of roles.
    pub(super) async fn renew(&self, wanted: Option<Role>) -> ApiResult<()> {
        let own = self.saved.advertise.to_string();
        let mut candidates = self.manager_addrs();
        if let Link::Connected { manager } = &*self.agent.link().borrow() {
            candidates.insert(0, manager.clone());
        }
        candidates.sort_by_key(|addr| *addr == own);
        let mut last = ApiError::plain(Code::Unavailable, "no manager of this swarm is known");
        for addr in candidates {
            let renewed = match self.connector.connect(&addr).await {
                Ok(client) => malha_wire::renew(&*client, &self.tls, wanted).await,
                Err(e) => Err(JoinError::from(e)),
            };
            match renewed {
                Ok(()) => return Ok(()),
                Err(e) => last = e.into(),
            }
        }
        Err(last)
    }

    async fn ask_once(&self, request: ControlRequest) -> ApiResult<ControlResponse> {
        self.any_manager().await?.control(request).await
    }

    /// Asks until a manager answers; managers pass it on to the leader.
    pub(super) async fn ask_leader(&self, request: ControlRequest) -> ApiResult<ControlResponse> {
        let until = tokio::time::Instant::now() + ASK_LIMIT;
        loop {
            match self.ask_once(request.clone()).await {
                // by the status: the text that there is no leader has Docker's odd code
                Err(e) if e.http_status() == UNAVAILABLE && tokio::time::Instant::now() < until => {
                    debug!(error = %e, "no leader yet; asking again");
                    tokio::time::sleep(ASK_PAUSE).await;
                }
                other => return other,
            }
        }
    }

    /// The manager of this node, or why there is none: Docker's text for a worker.
    pub(super) fn manager(&self) -> ApiResult<Arc<Managing>> {
        let why = || match self.failed.load_full() {
            Some(why) => ApiError::plain(Code::Unavailable, why.to_string()),
            None => errors::not_a_manager(),
        };
        self.managing.load_full().ok_or_else(why)
    }
}

impl Swarm {
    /// As `attach`, for who asks again by itself.
    pub(crate) async fn attach_once(&self, request: ControlRequest) -> ApiResult<ControlResponse> {
        let Some(member) = self.member() else {
            return Err(ApiError { code: Code::NotFound, ..errors::not_in_swarm_mode() });
        };
        member.ask_once(request).await
    }
}

/// Sandboxes of containers that run, and of those of tasks that are about to: a stand-alone one gets its at the start.
pub(super) fn occupied(runtime: &Runtime) -> BTreeSet<String> {
    let occupied = runtime.list().into_iter().filter_map(|c| {
        let task = c.options.labels.get(TASK_LABEL).cloned();
        let awaited = task.is_some() && c.state.started_at.is_zero();
        (c.state.status.is_running() || awaited).then(|| task.unwrap_or(c.id))
    });
    occupied.collect()
}
