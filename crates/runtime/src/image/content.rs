//! Blobs in containerd's content store.

use std::{collections::BTreeMap, io};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::manifest::{Descriptor, MAX_DOCUMENT};
use crate::{
    Result, RuntimeError,
    containerd::{
        Containerd,
        services::content::{
            AbortRequest, Info, InfoRequest, ReadContentRequest, UpdateRequest, WriteAction, WriteContentRequest,
        },
    },
};

/// Largest piece sent at once; well below the message limit.
const PIECE: usize = 1 << 20;

pub(crate) type Labels = BTreeMap<String, String>;

/// `sha256:…` of some bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The blob's size and labels, or `None` where it is not here.
pub(crate) async fn info(containerd: &Containerd, digest: &str) -> Result<Option<Info>> {
    match containerd.content().info(InfoRequest { digest: digest.into() }).await {
        Ok(response) => Ok(response.into_inner().info),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// A whole manifest or config.
pub(crate) async fn read(containerd: &Containerd, digest: &str) -> Result<Vec<u8>> {
    let size = info(containerd, digest).await?.map(|i| i.size);
    let size = size.ok_or_else(|| RuntimeError::NotFound(format!("content {digest}: not found")))?;
    if size > MAX_DOCUMENT {
        return Err(RuntimeError::invalid(format!("content {digest}: {size} bytes are too many for a document")));
    }
    let request = ReadContentRequest { digest: digest.into(), offset: 0, size: 0 };
    let mut stream = containerd.content().read(request).await?.into_inner();
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    while let Some(message) = stream.message().await? {
        bytes.extend_from_slice(&message.data);
    }
    Ok(bytes)
}

pub(crate) async fn read_json<T: serde::de::DeserializeOwned>(containerd: &Containerd, digest: &str) -> Result<T> {
    let bytes = read(containerd, digest).await?;
    serde_json::from_slice(&bytes).map_err(|e| RuntimeError::invalid(format!("content {digest}: {e}")))
}

/// Adds labels to a blob that is here.
pub(crate) async fn label(containerd: &Containerd, digest: &str, labels: Labels) -> Result<()> {
    let paths = labels.keys().map(|k| format!("labels.{k}")).collect();
    let info = Info { digest: digest.into(), labels: labels.into_iter().collect(), ..Info::default() };
    let update_mask = Some(prost_types::FieldMask { paths });
    containerd.content().update(UpdateRequest { info: Some(info), update_mask }).await?;
    Ok(())
}

/// Stores a document and says what it is called.
pub(crate) async fn write_document(
    containerd: &Containerd,
    media_type: &str,
    bytes: Vec<u8>,
    labels: Labels,
) -> Result<Descriptor> {
    let descriptor = Descriptor {
        media_type: media_type.into(),
        digest: digest_of(&bytes),
        size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
        ..Descriptor::default()
    };
    let one = futures::stream::iter([Ok(Bytes::from(bytes))]);
    write(containerd, &descriptor, one, labels).await?;
    Ok(descriptor)
}

/// Stores a blob from a stream. containerd checks size and digest; a blob that is here already only gets the labels.
pub(crate) async fn write(
    containerd: &Containerd,
    descriptor: &Descriptor,
    data: impl Stream<Item = io::Result<Bytes>> + Send,
    labels: Labels,
) -> Result<()> {
    if info(containerd, &descriptor.digest).await?.is_some() {
        return relabel(containerd, descriptor, labels).await;
    }
    let reference = format!("malha-{}-{:016x}", descriptor.digest, rand::random::<u64>());
    let (sender, requests) = tokio::sync::mpsc::channel(4);
    let send = feed(sender, &reference, descriptor, data, labels.clone());
    let receive = async {
        let mut answers = containerd.content().write(ReceiverStream::new(requests)).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok::<_, tonic::Status>(())
    };
    let (sent, received) = futures::join!(send, receive);
    match received {
        Err(status) if status.code() == Code::AlreadyExists => relabel(containerd, descriptor, labels).await,
        Ok(()) if sent.is_ok() => Ok(()),
        other => {
            let _ = containerd.content().abort(AbortRequest { r#ref: reference }).await;
            // What the source says is nearer to the cause than what containerd makes of it.
            sent.map_err(|e| RuntimeError::io(format!("store {}", descriptor.digest), e))?;
            other.map_err(RuntimeError::from)
        }
    }
}

async fn relabel(containerd: &Containerd, descriptor: &Descriptor, labels: Labels) -> Result<()> {
    if labels.is_empty() { Ok(()) } else { label(containerd, &descriptor.digest, labels).await }
}

/// Sends `data` in pieces, then the commit. Ends quietly when containerd has stopped listening: its answer tells why.
async fn feed(
    sender: tokio::sync::mpsc::Sender<WriteContentRequest>,
    reference: &str,
    descriptor: &Descriptor,
    data: impl Stream<Item = io::Result<Bytes>> + Send,
    labels: Labels,
) -> io::Result<()> {
    let request = |action: WriteAction, offset: i64, data: Vec<u8>| WriteContentRequest {
        action: action.into(),
        r#ref: reference.into(),
        total: descriptor.size,
        expected: descriptor.digest.clone(),
        offset,
        data,
        ..WriteContentRequest::default()
    };
    let mut offset = 0;
    let mut data = std::pin::pin!(data);
    while let Some(bytes) = data.next().await {
        let mut bytes = bytes?;
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            let length = i64::try_from(piece.len()).unwrap_or(0);
            if sender.send(request(WriteAction::Write, offset, piece.into())).await.is_err() {
                return Ok(());
            }
            offset += length;
        }
    }
    let mut commit = request(WriteAction::Commit, offset, Vec::new());
    commit.labels = labels.into_iter().collect();
    let _ = sender.send(commit).await;
    Ok(())
}
