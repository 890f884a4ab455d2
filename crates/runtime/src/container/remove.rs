//! `docker rm`, and how a whole node's containers go.

use std::sync::Arc;

use super::{
    info::ContainerStatus,
    remove_snapshot,
    table::{Container, Record},
};
use crate::{
    EventKind, Result, Runtime, RuntimeError, cgroup,
    containerd::services::{
        content::{DeleteContentRequest, ListContentRequest},
        leases, namespaces,
        snapshots::ListSnapshotsRequest,
    },
    runtime::Inner,
};

impl Runtime {
    /// `force` kills first; `volumes` also removes the anonymous ones.
    pub async fn remove(&self, reference: &str, force: bool, volumes: bool) -> Result<()> {
        let container = self.inner.containers.find(reference)?;
        loop {
            if force && container.state().status.is_running() {
                self.inner.kill_and_wait(&container).await?;
            }
            let _changing = container.changing.lock().await;
            match self.inner.remove_stopped(&container, volumes).await {
                // A start was under way.
                Err(RuntimeError::StillRunning { .. }) if force => {}
                Err(RuntimeError::StillRunning { state, .. }) => {
                    return Err(RuntimeError::StillRunning { name: reference.to_owned(), state });
                }
                // It has just removed itself: that is what was wanted.
                Err(RuntimeError::RemovalInProgress(_)) if force => return Ok(()),
                other => return other,
            }
        }
    }

    /// Takes away every container, image, snapshot, volume and cgroup of this node, and its containerd namespace:
    /// for a node that is thrown away. The state directory itself is the caller's.
    pub async fn destroy_everything(&self) -> Result<()> {
        let inner = &self.inner;
        for container in inner.containers.all() {
            match self.remove(&container.id, true, true).await {
                Err(e) if !e.is_not_found() => return Err(e),
                _ => {}
            }
        }
        for record in inner.images.records().await? {
            inner.images.delete_record(&record.name, false).await?;
        }
        for volume in inner.volumes.list()? {
            inner.volumes.remove(&volume.name).await?;
        }
        inner.empty_namespace().await?;
        cgroup::remove_parent(&inner.config.cgroup_parent).await;
        Ok(())
    }
}

impl Inner {
    /// The caller holds `changing`; the container does not run.
    pub(crate) async fn remove_stopped(&self, container: &Arc<Container>, volumes: bool) -> Result<()> {
        let gone = container.live.borrow().removed;
        if gone {
            return Err(RuntimeError::RemovalInProgress(container.id.clone()));
        }
        if container.state().status.is_running() {
            let name = container.record().name.clone();
            return Err(RuntimeError::StillRunning { name, state: "running" });
        }
        // From here on a restart of the daemon finishes the removal.
        container.live.send_modify(|live| live.state.status = ContainerStatus::Removing);
        let _ = container.save_state().await;
        self.delete_task(&container.id).await;
        self.unregister(&container.id).await?;
        let record = container.record();
        remove_snapshot(&self.containerd, &record.snapshotter, &container.id).await?;
        self.unmake(&container.id, &container.dir).await;
        cgroup::remove(&container.cgroup).await;
        self.containers.remove(container);
        container.pending_attaches.lock().clear();
        if volumes {
            self.remove_anonymous(&record).await;
        }
        container.live.send_modify(|live| live.removed = true);
        self.emit(container, EventKind::Destroy);
        Ok(())
    }

    pub(crate) async fn remove_anonymous(&self, record: &Record) {
        for mount in record.mounts.iter().filter(|m| m.anonymous) {
            if let Err(error) = self.volumes.remove(&mount.name).await {
                tracing::warn!(volume = mount.name, %error, "anonymous volume not removed");
            }
        }
    }

    /// What is left in containerd's namespace, and the namespace.
    async fn empty_namespace(&self) -> Result<()> {
        let held = self.containerd.leases().list(leases::ListRequest::default()).await?.into_inner().leases;
        for lease in held {
            self.containerd.leases().delete(leases::DeleteRequest { id: lease.id, sync: false }).await?;
        }
        // Children before parents: as many rounds as the longest chain.
        loop {
            let mut names = Vec::new();
            let request = ListSnapshotsRequest { snapshotter: self.snapshotter.clone(), ..Default::default() };
            let mut stream = self.containerd.snapshots().list(request).await?.into_inner();
            while let Some(message) = stream.message().await? {
                names.extend(message.info.into_iter().map(|i| i.name));
            }
            let mut removed = 0;
            for name in &names {
                removed += usize::from(remove_snapshot(&self.containerd, &self.snapshotter, name).await.is_ok());
            }
            if removed == 0 {
                break;
            }
        }
        let mut digests = Vec::new();
        let mut stream = self.containerd.content().list(ListContentRequest::default()).await?.into_inner();
        while let Some(message) = stream.message().await? {
            digests.extend(message.info.into_iter().map(|i| i.digest));
        }
        for digest in digests {
            let _ = self.containerd.content().delete(DeleteContentRequest { digest }).await;
        }
        let name = self.containerd.namespace().to_owned();
        let _ = self.containerd.namespaces().delete(namespaces::DeleteNamespaceRequest { name }).await;
        let _ = std::fs::remove_dir_all(self.secrets_dir(""));
        Ok(())
    }
}
