//! `docker ps`, `inspect`, `rename`, `top` and the size of a terminal.

use tonic::Code;

use super::{exec_options::ConsoleSize, info::ContainerInfo, name};
use crate::{EventKind, Result, Runtime, RuntimeError, cgroup, containerd::services::tasks::ResizePtyRequest};

impl Runtime {
    pub fn inspect(&self, container: &str) -> Result<ContainerInfo> {
        Ok(self.inner.containers.find(container)?.info())
    }

    /// All, newest first.
    pub fn list(&self) -> Vec<ContainerInfo> {
        let mut all: Vec<ContainerInfo> = self.inner.containers.all().iter().map(|c| c.info()).collect();
        all.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        all
    }

    /// The container that bears this label, where one does.
    pub fn labelled(&self, key: &str, value: &str) -> Option<ContainerInfo> {
        self.inner.containers.labelled(key, value).map(|c| c.info())
    }

    pub async fn rename(&self, container: &str, name: &str) -> Result<()> {
        let container = self.inner.containers.find(container)?;
        let name = name.strip_prefix('/').unwrap_or(name);
        name::check(name)?;
        let _changing = container.change().await?;
        let mut record = (*container.record()).clone();
        let old_name = std::mem::replace(&mut record.name, name.to_owned());
        if old_name == name {
            return Err(RuntimeError::invalid("Renaming a container with the same name as its current name"));
        }
        self.inner.containers.reserve_second(name, &container.id)?;
        if let Err(e) = container.set_record(record).await {
            self.inner.containers.release(name, &container.id);
            return Err(e);
        }
        self.inner.containers.release(&old_name, &container.id);
        self.inner.emit(&container, EventKind::Rename { old_name });
        Ok(())
    }

    /// Processes of a running container, by their numbers on this machine.
    pub async fn pids(&self, container: &str) -> Result<Vec<u32>> {
        let container = self.inner.containers.find(container)?;
        if !container.state().status.is_running() {
            return Err(RuntimeError::NotRunning(container.id.clone()));
        }
        Ok(cgroup::members(&container.cgroup))
    }

    /// Size of the container's terminal.
    pub async fn resize(&self, container: &str, size: ConsoleSize) -> Result<()> {
        let container = self.inner.containers.find(container)?;
        if !container.state().status.is_running() {
            return Err(RuntimeError::NotRunning(container.id.clone()));
        }
        self.inner.resize_pty(&container.id, "", size).await?;
        self.inner.emit(&container, EventKind::Resize);
        Ok(())
    }
}

impl crate::runtime::Inner {
    pub(crate) async fn resize_pty(&self, container: &str, exec: &str, size: ConsoleSize) -> Result<()> {
        let request = ResizePtyRequest {
            container_id: container.into(),
            exec_id: exec.into(),
            width: size.width.into(),
            height: size.height.into(),
        };
        match self.containerd.tasks().resize_pty(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Err(RuntimeError::NotRunning(container.into())),
            Err(status) => Err(status.into()),
        }
    }
}
