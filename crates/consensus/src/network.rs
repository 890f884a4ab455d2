//! openraft's network, on top of the transport seam.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use malha_model::NodeId;
use openraft::{
    RPCTypes, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
        VoteRequest, VoteResponse,
    },
};
use tracing::warn;

use crate::{
    RaftTransport, TransportError,
    message::{Envelope, PART_BYTES, Reply, Request, SnapshotPart, pack, unpack},
    peers::Peers,
    types::{Peer, Snapshot, TypeConfig, Vote},
};

type RpcError = RPCError<TypeConfig>;

/// Time for a message with entries or a part of a snapshot, which the receiver writes to its disk first.
const BULK_TIMEOUT: Duration = Duration::from_secs(5);
/// What each further megabyte of a message may take.
const PER_MEGABYTE: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) node: NodeId,
    pub(crate) transport: Arc<dyn RaftTransport>,
    pub(crate) peers: Peers,
}

/// The way to one member.
pub(crate) struct Link {
    network: Network,
    target: NodeId,
    /// Address as it was when the link was made.
    addr: String,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, peer: &Peer) -> Link {
        Link { network: self.clone(), target, addr: peer.addr.clone() }
    }
}

impl Link {
    async fn call(&self, kind: RPCTypes, request: Request, body: &[u8], timeout: Duration) -> Result<Reply, RpcError> {
        let broken = |text: String| RPCError::Network(NetworkError::from_string(text));
        let envelope = Envelope { to: self.target.clone(), request };
        let message = pack(&envelope, body).map_err(|e| broken(e.to_string()))?;
        let timeout = timeout + PER_MEGABYTE * u32::try_from(message.len() >> 20).unwrap_or(u32::MAX);
        let addr = self.network.peers.addr(&self.target).unwrap_or_else(|| self.addr.clone());
        let answer =
            match tokio::time::timeout(timeout, self.network.transport.send(&self.target, &addr, message)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(e @ TransportError::Unreachable(_))) => return Err(Unreachable::new(&e).into()),
                Ok(Err(e @ TransportError::Failed(_))) => return Err(NetworkError::new(&e).into()),
                Err(_) => {
                    let (id, target) = (self.network.node.clone(), self.target.clone());
                    return Err(Timeout { action: kind, id, target, timeout }.into());
                }
            };
        match unpack(&answer) {
            // the member is there but takes no part at the moment: no use in asking again at once
            Ok((Reply::Failed(text), _)) => Err(Unreachable::from_string(text).into()),
            Ok((reply, _)) => Ok(reply),
            Err(e) => Err(broken(e.to_string())),
        }
    }

    async fn ballot(&self, request: Request, option: &RPCOption) -> Result<VoteResponse<TypeConfig>, RpcError> {
        match self.call(RPCTypes::Vote, request, &[], option.soft_ttl()).await? {
            Reply::Vote(response) => Ok(response),
            other => Err(odd(&other)),
        }
    }

    async fn send_parts(&self, vote: &Vote, snapshot: &Snapshot) -> Result<SnapshotResponse<TypeConfig>, RpcError> {
        let data: &Bytes = &snapshot.snapshot;
        let mut offset = 0;
        loop {
            let end = data.len().min(offset + PART_BYTES);
            let last = end == data.len();
            let part = SnapshotPart { vote: vote.clone(), meta: snapshot.meta.clone(), offset: offset as u64, last };
            let body = &data[offset..end];
            match self.call(RPCTypes::InstallSnapshot, Request::Snapshot(part), body, BULK_TIMEOUT).await? {
                Reply::Snapshot(response) => return Ok(response),
                Reply::SnapshotPart if !last => offset = end,
                other => return Err(odd(&other)),
            }
        }
    }
}

fn odd(reply: &Reply) -> RpcError {
    NetworkError::from_string(format!("unexpected reply {reply:?}")).into()
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let (vote, before) = (request.vote.clone(), request.prev_log_id);
        let sent = request.entries.last().map(|entry| entry.log_id).or(before);
        let timeout = if request.entries.is_empty() { option.hard_ttl() } else { BULK_TIMEOUT };
        match self.call(RPCTypes::AppendEntries, Request::Append(request), &[], timeout).await? {
            Reply::Append(response) => {
                let peers = &self.network.peers;
                match &response {
                    AppendEntriesResponse::Success => peers.acknowledged(&self.target, &vote, sent),
                    AppendEntriesResponse::PartialSuccess(upto) => peers.acknowledged(&self.target, &vote, *upto),
                    AppendEntriesResponse::Conflict if peers.had(&self.target, &vote, before) => {
                        warn!(node = %self.target, "a manager lost its log; remove it and let it join again");
                        return Err(Unreachable::from_string("its log is gone").into());
                    }
                    AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => {}
                }
                Ok(response)
            }
            other => Err(odd(&other)),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ballot(Request::Vote(request), &option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ballot(Request::PreVote(request), &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_parts(&vote, &snapshot) => Ok(sent?),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        match self.call(RPCTypes::TransferLeader, Request::TransferLeader(request), &[], option.soft_ttl()).await? {
            Reply::TransferLeader(response) => Ok(response),
            other => Err(odd(&other)),
        }
    }
}
