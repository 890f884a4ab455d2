//! The membership as the Docker API sees it.

use async_trait::async_trait;
use futures::StreamExt;
use malha_api::{
    backend::{Cluster, InitRequest, JoinRequest, RemoteManager, SwarmInfo, SwarmLogs},
    errors,
};
use malha_model::{ApiError, ApiResult, Code, ControlRequest, ControlResponse, LogOptions, LogSelector, NodeId};
use tokio_stream::wrappers::ReceiverStream;

use super::{Swarm, health::Health};

#[async_trait]
impl Cluster for Swarm {
    async fn control(&self, request: ControlRequest) -> ApiResult<ControlResponse> {
        let member = self.member().ok_or_else(errors::not_in_swarm_mode)?;
        member.manager()?.manager.request(request).await
    }

    async fn init(&self, request: InitRequest) -> ApiResult<NodeId> {
        self.init_cluster(request).await
    }

    async fn join(&self, request: JoinRequest) -> ApiResult<()> {
        self.join_cluster(request).await
    }

    async fn leave(&self, force: bool) -> ApiResult<()> {
        self.leave_cluster(force).await
    }

    async fn info(&self) -> SwarmInfo {
        let Some(member) = self.member() else { return SwarmInfo::default() };
        // A member that lost its session is still one; why it did is told beside.
        let Health { state, error, leader_known } = member.health();
        let heard = member.agent.managers().borrow().clone();
        SwarmInfo {
            node_id: member.node.clone(),
            node_addr: member.saved.advertise.ip().to_string(),
            state,
            control_available: member.managing.load().as_ref().is_some_and(|m| m.is_seated()),
            leader_known,
            error,
            remote_managers: heard.into_iter().map(|(node_id, addr)| RemoteManager { node_id, addr }).collect(),
        }
    }

    async fn logs(&self, selector: LogSelector, options: LogOptions) -> ApiResult<SwarmLogs> {
        let member = self.member().ok_or_else(errors::not_in_swarm_mode)?;
        let lines = member.manager()?.manager.read_logs(selector, options).await?;
        Ok(ReceiverStream::new(lines).boxed())
    }

    async fn unlock(&self, _key: String) -> ApiResult<()> {
        let member = self.member().ok_or_else(errors::not_in_swarm_mode)?;
        member.manager()?;
        Err(ApiError::plain(Code::AlreadyExists, "swarm is not locked"))
    }

    async fn unlock_key(&self) -> ApiResult<String> {
        let member = self.member().ok_or_else(errors::not_in_swarm_mode)?;
        member.manager()?;
        Ok(String::new())
    }
}
