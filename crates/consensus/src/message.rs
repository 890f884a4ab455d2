//! What members say to each other, as bytes.
//!
//! A message is a length, a JSON header of that length, and a body that only parts of snapshots have. The header names
//! the member it is for, so that one that lands on a machine with a reused address is refused.

use malha_model::NodeId;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::types::{SnapshotMeta, TypeConfig, Vote};

/// Largest part of a snapshot in one message.
pub(crate) const PART_BYTES: usize = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) to: NodeId,
    pub(crate) request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    Snapshot(SnapshotPart),
    TransferLeader(TransferLeaderRequest<TypeConfig>),
}

/// One part of a snapshot; its bytes are the body of the message.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotPart {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    pub(crate) offset: u64,
    pub(crate) last: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    TransferLeader(TransferLeaderResponse<TypeConfig>),
    /// The part was kept; the next one is awaited.
    SnapshotPart,
    Snapshot(SnapshotResponse<TypeConfig>),
    /// The request could not be served.
    Failed(String),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub(crate) struct Malformed(String);

pub(crate) fn pack(header: &impl Serialize, body: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = vec![0; 4];
    serde_json::to_writer(&mut out, header).map_err(|e| Malformed(e.to_string()))?;
    let length = u32::try_from(out.len() - 4).map_err(|e| Malformed(e.to_string()))?;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body);
    Ok(out)
}

pub(crate) fn unpack<T: DeserializeOwned>(message: &[u8]) -> Result<(T, &[u8]), Malformed> {
    let short = || Malformed("it ends too early".to_owned());
    let (length, rest) = message.split_first_chunk::<4>().ok_or_else(short)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|e| Malformed(e.to_string()))?;
    let (header, body) = rest.split_at_checked(length).ok_or_else(short)?;
    Ok((serde_json::from_slice(header).map_err(|e| Malformed(e.to_string()))?, body))
}
