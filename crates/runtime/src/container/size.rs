//! How much disk a container takes: `docker ps -s`. Counted when it is asked for, since it walks the container's files.

use crate::{
    Result, Runtime,
    containerd::services::snapshots::{StatSnapshotRequest, UsageRequest},
    runtime::Inner,
};

/// In bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerSize {
    /// What it has written.
    pub written: i64,
    /// That, and the image below it.
    pub whole: i64,
}

impl Runtime {
    pub async fn size(&self, container: &str) -> Result<ContainerSize> {
        let record = self.inner.containers.find(container)?.record();
        let snapshotter = &record.snapshotter;
        let own = self.inner.usage(snapshotter, &record.id).await?;
        let mut below = Vec::new();
        let mut parent = self.inner.parent(snapshotter, &record.id).await?;
        while !parent.is_empty() {
            below.push(self.inner.usage(snapshotter, &parent).await?);
            parent = self.inner.parent(snapshotter, &parent).await?;
        }
        // a snapshot of `native` is a copy of all that is below it
        if snapshotter == "native" {
            return Ok(ContainerSize { written: (own - below.first().unwrap_or(&0)).max(0), whole: own });
        }
        Ok(ContainerSize { written: own, whole: own + below.iter().sum::<i64>() })
    }
}

impl Inner {
    async fn usage(&self, snapshotter: &str, key: &str) -> Result<i64> {
        let request = UsageRequest { snapshotter: snapshotter.into(), key: key.into() };
        Ok(self.containerd.snapshots().usage(request).await?.into_inner().size)
    }

    async fn parent(&self, snapshotter: &str, key: &str) -> Result<String> {
        let request = StatSnapshotRequest { snapshotter: snapshotter.into(), key: key.into() };
        let info = self.containerd.snapshots().stat(request).await?.into_inner().info;
        Ok(info.unwrap_or_default().parent)
    }
}
