//! One term of leadership: everything that lives only while this manager leads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicU64},
};

use malha_control::{Ctx, handle, status};
use malha_kit::{CancellationToken, Tasks, watch};
use malha_model::{ApiError, ApiResult, Code, ControlRequest, ControlResponse, LogOptions, LogSelector, NodeId};
use malha_store::Tx;
use malha_wire::{LogReceiver, Peer};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::{
    decide::Decider,
    dispatcher::{
        Pace,
        board::{self, Board},
        liveness::{self, Liveness},
        reports::{self, Report},
        session::Handle,
    },
    errors::no_leader,
    log_broker::LogBroker,
    members::{self, addresses},
    reconcile, role_manager,
};

pub(crate) struct Leader {
    pub term: u64,
    pub decider: Decider,
    /// Cancelled at the end of the term.
    pub over: CancellationToken,
    pub sessions: Arc<Mutex<BTreeMap<NodeId, Handle>>>,
    pub next_session: AtomicU64,
    pub board: watch::Receiver<Arc<Board>>,
    pub managers: watch::Receiver<BTreeMap<NodeId, String>>,
    pub reports: mpsc::Sender<Report>,
    pub liveness: Arc<Liveness>,
    pub logs: Arc<LogBroker>,
    /// Managers that gave up their seats and have not opened a session since.
    pub left: Mutex<BTreeSet<NodeId>>,
    tasks: Tasks,
}

impl Leader {
    /// Begins the term; `None` where it is over before it began. `before` led the last one.
    pub(crate) async fn begin(term: u64, before: Option<&NodeId>, decider: Decider, tasks: Tasks) -> Option<Arc<Self>> {
        // the first write of the term, too: nothing is sent to a node before it is certain that this manager may
        let begun = decider.write(|tx, _| status::nodes_unknown(tx)).await;
        if let Err(error) = begun {
            warn!(term, %error, "the term did not begin");
            return None;
        }
        info!(term, "leading");
        let liveness = Arc::new(Liveness::default());
        let state = decider.state();
        if let Some(cluster) = state.cluster() {
            let answers = |node: &&NodeId| members::answers(&decider.consensus, node);
            liveness.expect(&state, Pace::of(&cluster.spec), before.filter(|node| !answers(node)));
        }
        let (board_sender, board) = watch::channel(Arc::new(Board::first(decider.state(), term)));
        let (managers_sender, managers) = watch::channel(addresses(&decider.consensus));
        let (reports, report_receiver) = mpsc::channel(reports::CAPACITY);
        let sessions = Arc::<Mutex<BTreeMap<NodeId, Handle>>>::default();
        let leader = Self {
            term,
            over: tasks.token().clone(),
            logs: Arc::new(LogBroker::new(sessions.clone(), term)),
            sessions,
            next_session: AtomicU64::new(1),
            board,
            managers,
            reports: reports.clone(),
            liveness: liveness.clone(),
            left: Mutex::default(),
            tasks: tasks.clone(),
            decider: decider.clone(),
        };
        let state = decider.consensus.state();
        tasks.spawn_vital("board", board::run(state, board_sender, term));
        tasks.spawn_vital("reports", reports::run(decider.clone(), report_receiver));
        tasks.spawn_vital("liveness", liveness::run(liveness, reports));
        tasks.spawn_vital("roles", role_manager::run(decider.clone(), managers_sender));
        tasks.spawn_vital("seats", role_manager::seat(decider.clone()));
        tasks.spawn_vital("reconcile", reconcile::run(decider));
        Some(Arc::new(leader))
    }

    /// Returns once one of its tasks has panicked.
    pub(crate) async fn failed(&self) {
        self.tasks.failed().await;
    }

    #[cfg(test)]
    pub(crate) fn plant_panic(&self) {
        self.tasks.spawn_vital("planted", async { panic!("planted") });
    }

    pub(crate) async fn end(&self) {
        self.tasks.shutdown().await;
        info!(term = self.term, "no longer leading");
    }

    pub(crate) async fn control(&self, request: ControlRequest) -> ApiResult<ControlResponse> {
        let mut response = if is_question(&request) {
            if !self.decider.consensus.confirm().await {
                return Err(no_leader());
            }
            self.decider.read(|tx, ctx| handle(tx, ctx, request))
        } else {
            let consensus = &self.decider.consensus;
            let plan = |tx: &mut Tx, ctx: &mut Ctx<'_>| {
                members::check_demotion(consensus, tx, &request)?;
                handle(tx, ctx, request)
            };
            self.decider.request(plan).await
        }?;
        members::show(&self.decider.consensus, &mut response);
        Ok(response)
    }

    /// Takes `peer` into the group.
    pub(crate) async fn join(&self, peer: &Peer, addr: String) -> ApiResult<()> {
        if self.left.lock().contains(&peer.node) {
            warn!(node = %peer.node, "refused: a node that leaves the managers asks to join them");
            return Err(ApiError::rpc(Code::FailedPrecondition, "this node is leaving the swarm"));
        }
        members::join(&self.decider, peer, addr).await
    }

    /// Takes `peer` out of the group. What it asked for before and is still on its way does not bring it back.
    pub(crate) async fn leave(&self, peer: &Peer) -> ApiResult<()> {
        self.left.lock().insert(peer.node.clone());
        let left = members::leave(&self.decider, peer).await;
        if left.is_err() {
            self.left.lock().remove(&peer.node);
        }
        left
    }

    pub(crate) fn subscribe(&self, selector: LogSelector, options: LogOptions) -> LogReceiver {
        let (lines, serve) = self.logs.subscribe(selector, options, self.decider.consensus.state());
        self.tasks.spawn("logs", serve);
        lines
    }
}

/// Requests that change nothing.
fn is_question(request: &ControlRequest) -> bool {
    match request {
        ControlRequest::ClusterGet
        | ControlRequest::NodeList
        | ControlRequest::NodeGet { .. }
        | ControlRequest::ServiceList
        | ControlRequest::ServiceGet { .. }
        | ControlRequest::TaskList
        | ControlRequest::TaskGet { .. }
        | ControlRequest::NetworkList
        | ControlRequest::NetworkGet { .. }
        | ControlRequest::NetworkView { .. } => true,
        ControlRequest::ClusterUpdate { .. }
        | ControlRequest::NodeUpdate { .. }
        | ControlRequest::NodeRemove { .. }
        | ControlRequest::ServiceCreate { .. }
        | ControlRequest::ServiceUpdate { .. }
        | ControlRequest::ServiceRemove { .. }
        | ControlRequest::NetworkCreate { .. }
        | ControlRequest::NetworkRemove { .. }
        | ControlRequest::NetworkAttach { .. }
        | ControlRequest::NetworkDetach { .. }
        | ControlRequest::ContainerRename { .. } => false,
    }
}
