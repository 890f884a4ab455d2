//! One connection: calls and streams that take their time and end with either process.

use std::{future::Future, sync::Arc};

use async_trait::async_trait;
use malha_kit::CancellationToken;
use malha_model::{
    AgentMessage, ApiError, ApiResult, Code, ControlRequest, ControlResponse, LogOptions, LogSelector, ManagerMessage,
    NodeId,
};
use malha_wire::{
    Duplex, IssueRequest, IssueResponse, LogReceiver, ManagerClient, ManagerService, Peer, SESSION_CAPACITY,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use crate::SimNet;

pub(crate) struct Connection {
    pub net: SimNet,
    /// Of both processes.
    pub ends: [CancellationToken; 2],
    pub peer: Peer,
    pub node: NodeId,
    pub service: Arc<dyn ManagerService>,
}

fn broken() -> ApiError {
    ApiError::rpc(Code::Unavailable, "connection reset")
}

async fn cancelled(ends: &[CancellationToken; 2]) {
    tokio::select! {
        biased;
        () = ends[0].cancelled() => {}
        () = ends[1].cancelled() => {}
    }
}

impl Connection {
    /// There, the work, and back. The work goes on where the way back is what breaks.
    async fn call<T, F>(&self, work: impl FnOnce(Arc<dyn ManagerService>, Peer) -> F + Send) -> ApiResult<T>
    where
        T: Send + 'static,
        F: Future<Output = ApiResult<T>> + Send + 'static,
    {
        let links = &self.net.shared.links;
        let trip = async {
            if !links.pass(&self.peer.node, &self.node).await {
                return Err(broken());
            }
            let end = self.ends[1].clone();
            let work = work(self.service.clone(), self.peer.clone());
            let work = tokio::spawn(async move {
                tokio::select! {
                    biased;
                    () = end.cancelled() => Err(broken()),
                    done = work => done,
                }
            });
            let done = work.await.map_err(|_| broken())?;
            if links.pass(&self.node, &self.peer.node).await { done } else { Err(broken()) }
        };
        tokio::select! {
            biased;
            () = cancelled(&self.ends) => Err(broken()),
            done = trip => done,
        }
    }

    /// Carries a stream from one node to the other until an end hangs up or the connection dies.
    fn carry<T: Send + 'static>(
        &self,
        from: &NodeId,
        to: &NodeId,
        dead: &CancellationToken,
    ) -> (mpsc::Sender<T>, mpsc::Receiver<T>) {
        let (tx, mut taken) = mpsc::channel::<T>(SESSION_CAPACITY);
        let (arriving, rx) = mpsc::channel::<T>(SESSION_CAPACITY);
        let (on_wire, mut wire) = mpsc::channel::<(Instant, T)>(SESSION_CAPACITY);
        let net = self.net.clone();
        let depart = async move {
            while let Some(message) = taken.recv().await {
                if on_wire.send((Instant::now() + net.shared.links.draw(), message)).await.is_err() {
                    return;
                }
            }
        };
        let (net, from, to) = (self.net.clone(), from.clone(), to.clone());
        let broken = dead.clone();
        let arrive = async move {
            loop {
                let next = tokio::select! {
                    biased;
                    () = arriving.closed() => return,
                    next = wire.recv() => next,
                };
                let Some((at, message)) = next else { return };
                sleep_until(at).await;
                if !net.shared.links.open(&from, &to).await {
                    return broken.cancel();
                }
                if arriving.send(message).await.is_err() {
                    return;
                }
            }
        };
        let (ends, dead) = (self.ends.clone(), dead.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = cancelled(&ends) => {}
                () = dead.cancelled() => {}
                // after the last of what was sent, or at once where nobody receives any more
                () = arrive => {}
                () = async { depart.await; std::future::pending().await } => {}
            }
        });
        (tx, rx)
    }
}

#[async_trait]
impl ManagerClient for Connection {
    async fn root_certificate(&self) -> ApiResult<String> {
        self.call(|service, _| async move { service.root_certificate().await }).await
    }

    async fn issue_certificate(&self, request: IssueRequest) -> ApiResult<IssueResponse> {
        self.call(|service, peer| async move {
            // who comes with a token has no certificate yet
            let peer = request.token.is_none().then_some(peer);
            service.issue_certificate(peer, request).await
        })
        .await
    }

    async fn raft(&self, message: Vec<u8>) -> ApiResult<Vec<u8>> {
        self.call(|service, peer| async move { service.raft(peer, message).await }).await
    }

    async fn raft_join(&self, addr: String) -> ApiResult<()> {
        self.call(|service, peer| async move { service.raft_join(peer, addr).await }).await
    }

    async fn raft_leave(&self) -> ApiResult<()> {
        self.call(|service, peer| async move { service.raft_leave(peer).await }).await
    }

    async fn control(&self, request: ControlRequest) -> ApiResult<ControlResponse> {
        self.call(|service, peer| async move { service.control(peer, request).await }).await
    }

    async fn logs(&self, selector: LogSelector, options: LogOptions) -> ApiResult<LogReceiver> {
        self.call(|service, peer| async move { service.logs(peer, selector, options).await }).await
    }

    async fn session(&self) -> ApiResult<Duplex<AgentMessage, ManagerMessage>> {
        let links = &self.net.shared.links;
        if !links.pass(&self.peer.node, &self.node).await {
            return Err(broken());
        }
        let dead = CancellationToken::new();
        let (agent_tx, manager_rx) = self.carry(&self.peer.node, &self.node, &dead);
        let (manager_tx, agent_rx) = self.carry(&self.node, &self.peer.node, &dead);
        let (service, peer, end) = (self.service.clone(), self.peer.clone(), self.ends[1].clone());
        let (refusal, refused) = oneshot::channel();
        tokio::spawn(async move {
            let mut session = service.session(peer, Duplex { tx: manager_tx, rx: manager_rx });
            // as on a real connection: what is refused at once is refused with its reason
            let at_once = tokio::select! {
                biased;
                end = &mut session => Some(end),
                () = std::future::ready(()) => None,
            };
            match at_once {
                Some(Err(error)) => drop(refusal.send(error)),
                Some(Ok(())) => {}
                None => {
                    drop(refusal);
                    tokio::select! {
                        biased;
                        () = end.cancelled() => {}
                        // the agent sees the end of its stream; why is for the log
                        _ = session => {}
                    }
                }
            }
        });
        match refused.await {
            Ok(error) => Err(error),
            Err(_) => Ok(Duplex { tx: agent_tx, rx: agent_rx }),
        }
    }
}
