//! The answering side of the protocol.

use bytes::{Bytes, BytesMut};
use malha_kit::watch;
use malha_model::NodeId;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::debug;

use crate::{
    message::{Envelope, Reply, Request, SnapshotPart, pack, unpack},
    types::{Raft, Snapshot, SnapshotMeta, Vote},
};

pub(crate) struct Receiver {
    node: NodeId,
    raft: Raft,
    heard: watch::Sender<Option<Instant>>,
    /// The snapshot that is coming in, and what of it is there.
    incoming: Mutex<Option<Incoming>>,
}

struct Incoming {
    vote: Vote,
    meta: SnapshotMeta,
    data: BytesMut,
}

/// No state of a swarm is larger; more is a fault of the sender.
const MAX_SNAPSHOT: usize = 1 << 30;

impl Receiver {
    pub(crate) fn new(node: NodeId, raft: Raft) -> Self {
        Self { node, raft, heard: watch::Sender::new(None), incoming: Mutex::new(None) }
    }

    /// When a leader was last heard.
    pub(crate) fn heard(&self) -> watch::Receiver<Option<Instant>> {
        self.heard.subscribe()
    }

    pub(crate) async fn handle(&self, message: &[u8]) -> Vec<u8> {
        let reply = match unpack::<Envelope>(message) {
            Ok((envelope, _)) if envelope.to != self.node => {
                Reply::Failed(format!("this is {}, not {}", self.node, envelope.to))
            }
            Ok((envelope, body)) => self.serve(envelope.request, body).await.unwrap_or_else(Reply::Failed),
            Err(error) => Reply::Failed(error.to_string()),
        };
        // replies hold nothing that JSON cannot say
        pack(&reply, &[]).unwrap_or_default()
    }

    async fn serve(&self, request: Request, body: &[u8]) -> Result<Reply, String> {
        match request {
            Request::Append(request) => {
                let response = self.raft.append_entries(request).await.map_err(|e| e.to_string())?;
                if !matches!(response, openraft::raft::AppendEntriesResponse::HigherVote(_)) {
                    self.heard.send_replace(Some(Instant::now()));
                }
                Ok(Reply::Append(response))
            }
            Request::Vote(_) | Request::PreVote(_) if !self.is_member() => {
                // an empty log must not lift a candidate that lacks what this member once held
                Err("this member does not know its group yet".to_owned())
            }
            Request::Vote(request) => self.raft.vote(request).await.map(Reply::Vote).map_err(|e| e.to_string()),
            Request::PreVote(request) => self.raft.pre_vote(request).await.map(Reply::Vote).map_err(|e| e.to_string()),
            Request::Snapshot(part) => self.take_part(part, body).await,
            Request::TransferLeader(request) => {
                self.raft.handle_transfer_leader(request).await.map(Reply::TransferLeader).map_err(|e| e.to_string())
            }
        }
    }

    fn is_member(&self) -> bool {
        self.raft.metrics().borrow_watched().membership_config.get_node(&self.node).is_some()
    }

    async fn take_part(&self, part: SnapshotPart, body: &[u8]) -> Result<Reply, String> {
        let Some(data) = self.collect(&part, body)? else { return Ok(Reply::SnapshotPart) };
        debug!(bytes = data.len(), "a snapshot arrived");
        let snapshot = Snapshot { meta: part.meta, snapshot: data };
        self.heard.send_replace(Some(Instant::now()));
        self.raft.install_full_snapshot(part.vote, snapshot).await.map(Reply::Snapshot).map_err(|e| e.to_string())
    }

    /// Adds the part; the whole once it is the last.
    fn collect(&self, part: &SnapshotPart, body: &[u8]) -> Result<Option<Bytes>, String> {
        let mut slot = self.incoming.lock();
        if part.offset == 0 {
            *slot = Some(Incoming { vote: part.vote.clone(), meta: part.meta.clone(), data: BytesMut::new() });
        }
        let fits = |i: &Incoming| {
            i.vote == part.vote
                && i.meta == part.meta
                && i.data.len() as u64 == part.offset
                && i.data.len() < MAX_SNAPSHOT
        };
        let Some(mut incoming) = slot.take().filter(fits) else {
            return Err("this part of a snapshot does not follow what came before".to_owned());
        };
        incoming.data.extend_from_slice(body);
        if part.last {
            return Ok(Some(incoming.data.freeze()));
        }
        *slot = Some(incoming);
        Ok(None)
    }
}
