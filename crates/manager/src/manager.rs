//! The manager as nodes, other managers and its own node's API see it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use malha_consensus::{Consensus, LeaderAddr, Leadership};
use malha_kit::{Backoff, Rng, SharedClock, Tasks, watch};
use malha_model::{
    AgentMessage, ApiError, ApiResult, ControlRequest, ControlResponse, LogOptions, LogSelector, ManagerMessage,
    NodeId, Role,
};
use malha_wire::{
    ConnectError, Connector, Duplex, IssueRequest, IssueResponse, LogReceiver, ManagerClient, ManagerService, Peer,
};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};

use crate::{
    ca,
    decide::Decider,
    dispatcher::session,
    errors::no_leader,
    leader::Leader,
    members::addresses,
    rights::{self, managers_only},
};

#[derive(Clone, Debug)]
pub struct ManagerConfig {
    pub node: NodeId,
}

pub struct ManagerDeps {
    /// Started, and bootstrapped or invited.
    pub consensus: Consensus,
    /// To the other managers.
    pub connector: Arc<dyn Connector>,
    pub clock: SharedClock,
    pub rng: Rng,
}

/// A running manager; it ends with the task group that it was started in. Clones are the same manager.
#[derive(Clone)]
pub struct Manager {
    shared: Arc<Shared>,
}

struct Shared {
    node: NodeId,
    decider: Decider,
    connector: Arc<dyn Connector>,
    leading: watch::Receiver<Option<Arc<Leader>>>,
}

/// How long a request waits for a leader to be elected.
const ELECTION: Duration = Duration::from_secs(4);
/// Before a leader that cannot be reached is tried again; elections take longer.
const RETRY: Duration = Duration::from_millis(100);
/// Before a leader of which a part has panicked begins again.
const PANIC_PAUSE_FIRST: Duration = Duration::from_secs(1);
const PANIC_PAUSE_MAX: Duration = Duration::from_secs(30);

impl Manager {
    pub fn start(config: ManagerConfig, deps: ManagerDeps, tasks: &Tasks) -> Self {
        let ManagerDeps { consensus, connector, clock, rng } = deps;
        let decider = Decider::new(consensus, clock, rng);
        let (sender, leading) = watch::channel(None);
        let (of, group) = (decider.clone(), tasks.clone());
        tasks.spawn_supervised("leader", move || lead(of.clone(), sender.clone(), group.clone()));
        let shared = Shared { node: config.node, decider, connector, leading };
        Self { shared: Arc::new(shared) }
    }

    pub fn consensus(&self) -> &Consensus {
        &self.shared.decider.consensus
    }

    /// True while this manager answers requests itself.
    pub fn leads(&self) -> bool {
        self.shared.leading.borrow().is_some()
    }

    /// Returns once this manager leads, or knows who does.
    pub async fn ready(&self) {
        let deadline = Instant::now() + ELECTION;
        while self.decider_or_leader(deadline).await.is_err() {
            sleep(RETRY).await;
        }
    }

    /// A request of this node's own API. Where a leader steps down before it has changed anything, the next one is asked.
    pub async fn request(&self, request: ControlRequest) -> ApiResult<ControlResponse> {
        let deadline = Instant::now() + ELECTION;
        loop {
            // boxed: requests are large, and so is all that holds one
            match Box::pin(self.request_once(request.clone())).await {
                Err(error) if error == no_leader() && Instant::now() < deadline => sleep(RETRY).await,
                answer => return answer,
            }
        }
    }

    async fn request_once(&self, request: ControlRequest) -> ApiResult<ControlResponse> {
        let forward = request.clone();
        match self.at_leader(|client| async move { client.control(forward).await }).await? {
            At::Here(leader) => leader.control(request).await,
            At::There(answer) => answer,
        }
    }

    /// Lines of the logs of a service or task, for this node's own API.
    pub async fn read_logs(&self, selector: LogSelector, options: LogOptions) -> ApiResult<LogReceiver> {
        let (s, o) = (selector.clone(), options.clone());
        match self.at_leader(|client| async move { client.logs(s, o).await }).await? {
            At::Here(leader) => Ok(leader.subscribe(selector, options)),
            At::There(answer) => answer,
        }
    }

    fn leader(&self) -> Option<Arc<Leader>> {
        self.shared.leading.borrow().clone()
    }

    /// Finds the leader, waiting for an election if need be, and asks it unless it is this manager. A leader that cannot
    /// be connected to was asked nothing, so the next one is.
    async fn at_leader<T, F>(&self, ask: impl FnOnce(Arc<dyn ManagerClient>) -> F) -> ApiResult<At<T>>
    where
        F: Future<Output = ApiResult<T>>,
    {
        let deadline = Instant::now() + ELECTION;
        loop {
            let addr = match self.decider_or_leader(deadline).await? {
                Ok(leader) => return Ok(At::Here(leader)),
                Err(there) => there.addr,
            };
            match timeout_at(deadline, self.shared.connector.connect(&addr)).await {
                Ok(Ok(client)) => return Ok(At::There(ask(client).await)),
                Ok(Err(error @ ConnectError::Untrusted { .. })) => return Err(error.into()),
                Ok(Err(ConnectError::Unreachable { .. })) => debug!(addr, "the leader cannot be reached"),
                Err(_) => return Err(no_leader()),
            }
            if Instant::now() >= deadline {
                return Err(no_leader());
            }
            sleep(RETRY).await;
        }
    }

    async fn decider_or_leader(&self, deadline: Instant) -> ApiResult<Result<Arc<Leader>, LeaderAddr>> {
        let mut leading = self.shared.leading.clone();
        let mut leadership = self.consensus().leadership();
        loop {
            if let Some(leader) = leading.borrow_and_update().clone() {
                return Ok(Ok(leader));
            }
            if let Some(other) = leadership.borrow_and_update().other().cloned() {
                return Ok(Err(other));
            }
            let change = async {
                tokio::select! {
                    biased;
                    changed = leading.changed() => changed,
                    changed = leadership.changed() => changed,
                }
            };
            match timeout_at(deadline, change).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(no_leader()),
            }
        }
    }

    fn admitted(&self, peer: &Peer) -> ApiResult<()> {
        rights::admitted(&self.shared.decider.state(), peer)
    }

    /// Other managers have found out who leads before they ask: passing on once more could go round in circles.
    fn passes_on(&self, peer: &Peer) -> bool {
        peer.role == Role::Worker || peer.node == self.shared.node
    }

    fn redirect(&self) -> ManagerMessage {
        let leader = self.consensus().leadership().borrow().other().map(|l| l.addr.clone());
        ManagerMessage::Redirect { leader, managers: addresses(self.consensus()) }
    }
}

enum At<T> {
    Here(Arc<Leader>),
    There(ApiResult<T>),
}

/// Begins and ends terms.
async fn lead(decider: Decider, leading: watch::Sender<Option<Arc<Leader>>>, tasks: Tasks) {
    let mut leadership = decider.consensus.leadership();
    let mut before = None;
    let mut backoff = Backoff::new(PANIC_PAUSE_FIRST, PANIC_PAUSE_MAX, decider.rng.clone());
    let mut begun = Instant::now();
    // What a part panicked over is not looked at again.
    decider.forget_outlook();
    loop {
        let now = leadership.borrow_and_update().clone();
        if let Some(other) = now.other() {
            before = Some(other.node.clone());
        }
        let mut current = leading.borrow().clone();
        let term = match now {
            Leadership::Leader { term } => Some(term),
            Leadership::NoLeader | Leadership::Follower { .. } => None,
        };
        if current.as_ref().map(|l| l.term) != term {
            if let Some(old) = current.take() {
                leading.send_replace(None);
                old.end().await;
            }
            if let Some(term) = term {
                let group = tasks.child();
                match Leader::begin(term, before.as_ref(), decider.clone(), group).await {
                    Some(leader) => {
                        before = None;
                        begun = Instant::now();
                        leading.send_replace(Some(leader));
                    }
                    None => sleep(RETRY).await,
                }
                continue;
            }
        }
        let Some(leader) = current else {
            if leadership.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            biased;
            changed = leadership.changed() => if changed.is_err() { return },
            () = leader.failed() => {
                warn!(term = leader.term, "a part of the leader panicked; it begins again");
                leading.send_replace(None);
                leader.end().await;
                decider.forget_outlook();
                sleep(backoff.pause_after(begun.elapsed())).await;
            }
        }
    }
}

#[async_trait]
impl ManagerService for Manager {
    async fn root_certificate(&self) -> ApiResult<String> {
        let state = self.shared.decider.state();
        Ok(ca::cluster(&state)?.root_ca.cert_pem.clone())
    }

    async fn issue_certificate(&self, peer: Option<Peer>, request: IssueRequest) -> ApiResult<IssueResponse> {
        match (&request.token, peer) {
            (Some(token), peer) => {
                if peer.is_some_and(|p| !self.passes_on(&p)) && !self.leads() {
                    return Err(no_leader());
                }
                let forward = request.clone();
                match self.at_leader(|client| async move { client.issue_certificate(forward).await }).await? {
                    At::Here(leader) => ca::admit(&leader.decider, &request, token).await,
                    At::There(answer) => answer,
                }
            }
            (None, Some(peer)) => ca::renew(&self.shared.decider, &peer, &request),
            (None, None) => Err(ApiError::invalid("A valid join token is necessary to join this cluster")),
        }
    }

    async fn raft(&self, peer: Peer, message: Vec<u8>) -> ApiResult<Vec<u8>> {
        rights::takes_part(self.consensus(), &peer)?;
        Ok(self.consensus().handle(&message).await)
    }

    async fn raft_join(&self, peer: Peer, addr: String) -> ApiResult<()> {
        managers_only(&peer)?;
        self.admitted(&peer)?;
        let leader = self.leader().ok_or_else(no_leader)?;
        leader.join(&peer, addr).await
    }

    async fn raft_leave(&self, peer: Peer) -> ApiResult<()> {
        managers_only(&peer)?;
        let leader = self.leader().ok_or_else(no_leader)?;
        leader.leave(&peer).await
    }

    async fn control(&self, peer: Peer, request: ControlRequest) -> ApiResult<ControlResponse> {
        self.admitted(&peer)?;
        let for_itself = for_itself(&peer, &request);
        if !for_itself {
            managers_only(&peer)?;
        }
        match self.leader() {
            Some(leader) => {
                if !for_itself {
                    rights::manages(&leader.decider.state(), &peer)?;
                }
                leader.control(request).await
            }
            None if self.passes_on(&peer) => self.request(request).await,
            None => Err(no_leader()),
        }
    }

    async fn logs(&self, peer: Peer, selector: LogSelector, options: LogOptions) -> ApiResult<LogReceiver> {
        managers_only(&peer)?;
        self.admitted(&peer)?;
        match self.leader() {
            Some(leader) => {
                rights::manages(&leader.decider.state(), &peer)?;
                Ok(leader.subscribe(selector, options))
            }
            None if self.passes_on(&peer) => self.read_logs(selector, options).await,
            None => Err(no_leader()),
        }
    }

    async fn session(&self, peer: Peer, session: Duplex<ManagerMessage, AgentMessage>) -> ApiResult<()> {
        self.admitted(&peer)?;
        match self.leader() {
            Some(leader) => session::run(&leader, peer, session).await,
            None => {
                // a node that is gone again needs no directions
                session.tx.send(self.redirect()).await.ok();
                Ok(())
            }
        }
    }
}

fn for_itself(peer: &Peer, request: &ControlRequest) -> bool {
    match request {
        ControlRequest::NetworkAttach { node, .. }
        | ControlRequest::NetworkDetach { node, .. }
        | ControlRequest::ContainerRename { node, .. } => *node == peer.node,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tests::lone;

    #[tokio::test(start_paused = true)]
    async fn after_a_panic_of_a_part_the_leader_begins_again_in_its_term() {
        let (decider, _) = lone(32 << 20).await;
        let tasks = Tasks::new();
        let (sender, mut leading) = watch::channel(None);
        tasks.spawn("leader", lead(decider.clone(), sender, tasks.clone()));
        let first = leading.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        first.plant_panic();
        leading.wait_for(Option::is_none).await.unwrap();
        let again = leading.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(first.over.is_cancelled() && !again.over.is_cancelled() && again.term == first.term);
        again.control(ControlRequest::NodeList).await.unwrap();
        assert!(again.decider.write(|_, _| {}).await.is_ok());
        tasks.shutdown().await;
    }
}
