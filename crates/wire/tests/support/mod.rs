//! A manager with a real CA behind a real port on loopback.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use malha_kit::Tasks;
use malha_model::{
    AgentMessage, ApiError, ApiResult, ControlRequest, ControlResponse, LogLine, LogOptions, LogSelector,
    ManagerMessage, NodeId, Role, Timestamp,
};
use malha_pki::{CertificateAuthority, Identity, JoinToken, NodeKey, TlsMaterial};
use malha_wire::{Duplex, IssueRequest, IssueResponse, LogReceiver, ManagerService, Peer, serve};
use tokio::{net::TcpListener, sync::mpsc};

pub(crate) const LIFE: Duration = Duration::from_secs(3600);

pub(crate) fn now() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64)
}

pub(crate) struct Swarm {
    pub(crate) ca: CertificateAuthority,
    pub(crate) worker_token: Mutex<String>,
    pub(crate) manager_token: Mutex<String>,
    /// Roles that renewals hand out, other than what the node has.
    pub(crate) promoted: Mutex<Option<Role>>,
    pub(crate) seen: Mutex<Vec<String>>,
    /// Sessions that the service has seen end.
    pub(crate) ended: tokio::sync::Semaphore,
}

impl Swarm {
    pub(crate) fn new() -> Arc<Self> {
        let ca = CertificateAuthority::generate(now()).unwrap();
        let token = || Mutex::new(JoinToken::generate(ca.trust()).unwrap().to_string());
        let (worker_token, manager_token) = (token(), token());
        let (promoted, seen) = Default::default();
        Arc::new(Self { ca, worker_token, manager_token, promoted, seen, ended: tokio::sync::Semaphore::new(0) })
    }

    pub(crate) fn worker_token(&self) -> String {
        self.worker_token.lock().unwrap().clone()
    }

    pub(crate) fn rotate_worker_token(&self) {
        *self.worker_token.lock().unwrap() = JoinToken::generate(self.ca.trust()).unwrap().to_string();
    }

    pub(crate) fn material(&self, node: &str, role: Role) -> Arc<TlsMaterial> {
        let identity = Identity { node: node.into(), role, cluster: "cluster".into() };
        let key = NodeKey::generate().unwrap();
        let cert = self.ca.issue(&key.request_pem().unwrap(), &identity, now(), LIFE).unwrap();
        Arc::new(TlsMaterial::create(None, self.ca.trust().clone(), &key, &cert).unwrap())
    }

    /// Serves on a free port of loopback; its address.
    pub(crate) async fn listen(self: &Arc<Self>, tasks: &Tasks) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        serve(listener, self.material("boss", Role::Manager), self.clone(), tasks);
        addr
    }
}

#[async_trait]
impl ManagerService for Swarm {
    async fn root_certificate(&self) -> ApiResult<String> {
        Ok(self.ca.trust().pem().to_owned())
    }

    async fn issue_certificate(&self, peer: Option<Peer>, request: IssueRequest) -> ApiResult<IssueResponse> {
        let (node, role) = match (&request.token, peer) {
            (Some(t), None) if JoinToken::matches(&self.worker_token.lock().unwrap(), t) => {
                ("new".into(), Role::Worker)
            }
            (Some(t), None) if JoinToken::matches(&self.manager_token.lock().unwrap(), t) => {
                ("new".into(), Role::Manager)
            }
            (None, Some(peer)) => (peer.node, self.promoted.lock().unwrap().unwrap_or(peer.role)),
            _ => return Err(ApiError::invalid("A valid join token is necessary to join this cluster")),
        };
        let identity = Identity { node, role, cluster: "cluster".into() };
        let certificate_pem = self.ca.issue(&request.csr_pem, &identity, now(), LIFE)?;
        let Identity { node, role, cluster } = identity;
        Ok(IssueResponse {
            node,
            role,
            cluster,
            certificate_pem,
            root_pem: self.ca.trust().pem().into(),
            data_path_port: 4789,
            subnets: vec!["10.0.0.0/8".parse().unwrap()],
        })
    }

    /// Answers with the message turned round.
    async fn raft(&self, _peer: Peer, mut message: Vec<u8>) -> ApiResult<Vec<u8>> {
        message.reverse();
        Ok(message)
    }

    async fn raft_join(&self, peer: Peer, addr: String) -> ApiResult<()> {
        self.seen.lock().unwrap().push(format!("join {} {addr}", peer.node));
        Ok(())
    }

    async fn raft_leave(&self, _peer: Peer) -> ApiResult<()> {
        Err(ApiError::not_found("planted").with_status(418))
    }

    async fn control(&self, peer: Peer, request: ControlRequest) -> ApiResult<ControlResponse> {
        self.seen.lock().unwrap().push(format!("{} {request:?}", peer.node));
        Ok(ControlResponse::Done)
    }

    async fn logs(&self, _peer: Peer, selector: LogSelector, _options: LogOptions) -> ApiResult<LogReceiver> {
        let LogSelector::Task(task) = selector else { return Err(ApiError::not_found("no such service")) };
        let (tx, rx) = mpsc::channel(4);
        tokio::spawn(async move {
            for n in 0..100 {
                let data = format!("line {n}\n").into_bytes();
                let line = LogLine {
                    node: NodeId::from("n"),
                    service: None,
                    task: task.clone(),
                    timestamp: Timestamp(n),
                    stream: 1,
                    data,
                };
                if tx.send(Ok(line)).await.is_err() {
                    return;
                }
            }
            let _ = tx.send(Err("one node did not answer".into())).await;
        });
        Ok(rx)
    }

    /// Answers each heartbeat; nodes named `refused` are refused.
    async fn session(&self, peer: Peer, mut session: Duplex<ManagerMessage, AgentMessage>) -> ApiResult<()> {
        if peer.node.as_str() == "refused" {
            return Err(ApiError::not_found("node refused not found"));
        }
        while let Some(message) = session.rx.recv().await {
            if message == AgentMessage::Heartbeat && session.tx.send(ManagerMessage::Alive).await.is_err() {
                break;
            }
        }
        self.ended.add_permits(1);
        Ok(())
    }
}
