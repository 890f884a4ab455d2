//! From layers in the content store to a chain of snapshots.
//!
//! Done by hand, call by call, because containerd 1.6 has no service for it; the calls are the same in every later one.

use sha2::{Digest, Sha256};
use tonic::Code;

use super::{
    content::{self, Labels},
    manifest::{ConfigFile, Descriptor, Manifest},
};
use crate::{
    Result, RuntimeError,
    containerd::{
        Containerd,
        services::{
            diff::ApplyRequest,
            snapshots::{CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest},
        },
    },
};

/// The name of the snapshot that holds these layers, lowest first.
pub(crate) fn chain_id(diff_ids: &[String]) -> String {
    let mut chain = String::new();
    for diff_id in diff_ids {
        chain = extend(&chain, diff_id);
    }
    chain
}

fn extend(parent: &str, diff_id: &str) -> String {
    if parent.is_empty() {
        return diff_id.to_owned();
    }
    format!("sha256:{}", hex::encode(Sha256::digest(format!("{parent} {diff_id}"))))
}

/// Makes sure that every layer's snapshot exists, and ties the top one to the config blob, which the manifest keeps.
/// `each` hears of every layer before and after.
pub(crate) async fn unpack(
    containerd: &Containerd,
    snapshotter: &str,
    manifest: &Manifest,
    config: &ConfigFile,
    mut each: impl FnMut(usize, Stage),
) -> Result<()> {
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        return Err(RuntimeError::invalid(format!(
            "the image has {} layers but names {}",
            manifest.layers.len(),
            diff_ids.len()
        )));
    }
    let mut parent = String::new();
    for (n, (layer, diff_id)) in manifest.layers.iter().zip(diff_ids).enumerate() {
        let chain = extend(&parent, diff_id);
        if !exists(containerd, snapshotter, &chain).await? {
            each(n, Stage::Extracting);
            apply(containerd, snapshotter, &parent, &chain, layer, diff_id).await?;
        }
        each(n, Stage::Complete);
        parent = chain;
    }
    if !parent.is_empty() {
        let label = format!("containerd.io/gc.ref.snapshot.{snapshotter}");
        content::label(containerd, &manifest.config.digest, Labels::from([(label, parent)])).await?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Extracting,
    Complete,
}

pub(crate) async fn exists(containerd: &Containerd, snapshotter: &str, key: &str) -> Result<bool> {
    let request = StatSnapshotRequest { snapshotter: snapshotter.into(), key: key.into() };
    match containerd.snapshots().stat(request).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(status.into()),
    }
}

async fn apply(
    containerd: &Containerd,
    snapshotter: &str,
    parent: &str,
    chain: &str,
    layer: &Descriptor,
    diff_id: &str,
) -> Result<()> {
    let key = format!("malha-extract-{:016x} {chain}", rand::random::<u64>());
    let prepare = PrepareSnapshotRequest {
        snapshotter: snapshotter.into(),
        key: key.clone(),
        parent: parent.into(),
        ..PrepareSnapshotRequest::default()
    };
    let mounts = containerd.snapshots().prepare(prepare).await?.into_inner().mounts;
    let done = async {
        let request = ApplyRequest { diff: Some(layer.into()), mounts, ..ApplyRequest::default() };
        let applied = containerd.diff().apply(request).await?.into_inner().applied.unwrap_or_default();
        if applied.digest != diff_id {
            return Err(RuntimeError::invalid(format!(
                "layer {} unpacks to {}, the image says {diff_id}",
                layer.digest, applied.digest
            )));
        }
        let commit = CommitSnapshotRequest {
            snapshotter: snapshotter.into(),
            name: chain.into(),
            key: key.clone(),
            ..CommitSnapshotRequest::default()
        };
        match containerd.snapshots().commit(commit).await {
            Ok(_) => Ok(true),
            // Somebody else was faster: theirs is as good.
            Err(status) if status.code() == Code::AlreadyExists => Ok(false),
            Err(status) => Err(status.into()),
        }
    }
    .await;
    if !matches!(done, Ok(true)) {
        let request = RemoveSnapshotRequest { snapshotter: snapshotter.into(), key };
        let _ = containerd.snapshots().remove(request).await;
    }
    done.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_follow_the_oci_rule() {
        let (a, b) = (format!("sha256:{}", "a".repeat(64)), format!("sha256:{}", "b".repeat(64)));
        assert_eq!(chain_id(std::slice::from_ref(&a)), a);
        let expected = format!("sha256:{}", hex::encode(Sha256::digest(format!("{a} {b}"))));
        assert_eq!(chain_id(&[a, b]), expected);
        assert_eq!(chain_id(&[]), "");
    }
}
