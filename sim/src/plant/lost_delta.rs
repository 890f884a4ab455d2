//! An agent that loses changes of its networks: one delta in four is dropped and the next is made to look as if it
//! followed, so that no gap shows; and it never hears that it left a network.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use malha_kit::Rng;
use malha_model::{
    AgentMessage, ApiResult, ControlRequest, ControlResponse, LogOptions, LogSelector, ManagerMessage, NetworkId,
};
use malha_simnet::SimConnector;
use malha_wire::{
    ConnectError, Connector, Duplex, IssueRequest, IssueResponse, LogReceiver, ManagerClient, SESSION_CAPACITY,
};
use rand::Rng as _;
use tokio::sync::mpsc;

pub(crate) struct LostDelta {
    connector: SimConnector,
    rng: Rng,
}

impl LostDelta {
    pub(crate) fn new(connector: SimConnector, rng: Rng) -> Self {
        Self { connector, rng }
    }
}

#[async_trait]
impl Connector for LostDelta {
    async fn connect(&self, addr: &str) -> Result<Arc<dyn ManagerClient>, ConnectError> {
        let client = self.connector.connect(addr).await?;
        Ok(Arc::new(Client { client, rng: self.rng.clone() }))
    }
}

struct Client {
    client: Arc<dyn ManagerClient>,
    rng: Rng,
}

#[async_trait]
impl ManagerClient for Client {
    async fn root_certificate(&self) -> ApiResult<String> {
        self.client.root_certificate().await
    }

    async fn issue_certificate(&self, request: IssueRequest) -> ApiResult<IssueResponse> {
        self.client.issue_certificate(request).await
    }

    async fn raft(&self, message: Vec<u8>) -> ApiResult<Vec<u8>> {
        self.client.raft(message).await
    }

    async fn raft_join(&self, addr: String) -> ApiResult<()> {
        self.client.raft_join(addr).await
    }

    async fn raft_leave(&self) -> ApiResult<()> {
        self.client.raft_leave().await
    }

    async fn control(&self, request: ControlRequest) -> ApiResult<ControlResponse> {
        self.client.control(request).await
    }

    async fn logs(&self, selector: LogSelector, options: LogOptions) -> ApiResult<LogReceiver> {
        self.client.logs(selector, options).await
    }

    async fn session(&self) -> ApiResult<Duplex<AgentMessage, ManagerMessage>> {
        let Duplex { tx, mut rx } = self.client.session().await?;
        let (pass_on, heard) = mpsc::channel(SESSION_CAPACITY);
        let mut rng = self.rng.clone();
        tokio::spawn(async move {
            let mut dropped: BTreeMap<NetworkId, u64> = BTreeMap::new();
            while let Some(message) = rx.recv().await {
                let Some(message) = lose(message, &mut dropped, &mut rng) else { continue };
                if pass_on.send(message).await.is_err() {
                    return;
                }
            }
        });
        Ok(Duplex { tx, rx: heard })
    }
}

fn lose(message: ManagerMessage, dropped: &mut BTreeMap<NetworkId, u64>, rng: &mut Rng) -> Option<ManagerMessage> {
    match message {
        ManagerMessage::NetworkGone(_) => None,
        ManagerMessage::NetworkDelta(delta) if rng.random_ratio(1, 4) => {
            dropped.entry(delta.network).or_insert(delta.from_seq);
            None
        }
        ManagerMessage::NetworkDelta(mut delta) => {
            delta.from_seq = dropped.remove(&delta.network).unwrap_or(delta.from_seq);
            Some(ManagerMessage::NetworkDelta(delta))
        }
        ManagerMessage::Network(view) => {
            dropped.remove(&view.network.id);
            Some(ManagerMessage::Network(view))
        }
        other => Some(other),
    }
}
