//! The agent's hands: tasks of services as containers of this node, wired into their networks.

mod host_config;
pub(crate) mod image;
mod options;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::StreamExt;
use malha_agent::{Executor, Exit, Found, NodeNetworks, Started, TaskError};
use malha_model::{
    ContainerSpec, ContainerStatus, LogLine, LogOptions, NodeDescription, NodeId, Task, TaskId, TaskState, TlsInfo,
    defaults, template::Values,
};
use malha_runtime::{ContainerInfo, NetworkMode, Runtime, RuntimeError, StdStream, WaitCondition};
use tokio::sync::mpsc;
use tracing::warn;

use super::{
    engine::{host, record::Record},
    network::{NodeNet, WireRequest, Wired},
};
use crate::config::Config;

pub(crate) const TASK_LABEL: &str = "com.docker.swarm.task.id";

pub(crate) struct NodeExecutor {
    pub(crate) node: NodeId,
    pub(crate) config: Arc<Config>,
    pub(crate) runtime: Runtime,
    pub(crate) net: Arc<NodeNet>,
    pub(crate) pulls: image::Pulls,
    /// The swarm's root, shown with the node.
    pub(crate) trust: Option<TlsInfo>,
}

fn failed(e: impl std::fmt::Display) -> TaskError {
    TaskError(e.to_string())
}

impl NodeExecutor {
    fn container_of(&self, task: &TaskId) -> Option<ContainerInfo> {
        self.runtime.labelled(TASK_LABEL, task.as_str())
    }

    fn container(&self, task: &TaskId) -> Result<ContainerInfo, TaskError> {
        self.container_of(task).ok_or_else(|| TaskError(format!("No such container: task {task}")))
    }

    /// The container has ended: its address is free for another. A failure is made good when the task is removed.
    fn give_up_sandbox(&self, task: &TaskId) -> impl Future<Output = ()> + Send + 'static {
        let (net, task) = (self.net.clone(), task.clone());
        async move {
            if let Err(e) = net.unwire(task.as_str()).await {
                warn!(%task, error = %e, "cannot remove the sandbox of a container that has ended");
            }
        }
    }

    async fn create(
        &self,
        task: &Task,
        spec: &ContainerSpec,
        values: &Values,
        wired: Wired,
    ) -> Result<ContainerInfo, TaskError> {
        let mounts = options::expanded_mounts(spec, values).map_err(failed)?;
        let record = Record {
            task: Some(task.id.clone()),
            host_config: host_config::of_task(task, spec, mounts),
            networks: wired.networks,
            ports: wired.ports,
            sandbox_key: wired.sandbox_key,
            ..Record::default()
        };
        let mut options = options::create_options(task, spec, &self.node, values, &record).map_err(failed)?;
        options.network = wired.mode;
        options.files = wired.files;
        host::lend_names(&self.config, &mut options);
        let on_host = options.network == NetworkMode::Host;
        let created = self.runtime.create(options).await.map_err(failed)?;
        // The short id is a host name by default: the hosts file can name it only now.
        if spec.hostname.is_empty() && !on_host {
            let files = self.net.hosts_file(task.id.as_str(), created.short_id(), &spec.hosts);
            self.runtime.set_files(&created.id, files).await.map_err(failed)?;
        }
        Ok(created)
    }
}

fn wire_request(task: &Task, spec: &ContainerSpec, values: &Values) -> Result<WireRequest, TaskError> {
    Ok(WireRequest {
        id: task.id.to_string(),
        task: Some(task.clone()),
        hostname: values.expand(&spec.hostname).map_err(failed)?,
        dns: spec.dns_config.clone(),
        hosts: spec.hosts.clone(),
        ..WireRequest::default()
    })
}

fn status_of(info: &ContainerInfo) -> ContainerStatus {
    ContainerStatus { container_id: info.id.clone(), pid: info.state.pid, exit_code: info.state.exit_code }
}

fn container_spec(task: &Task) -> Result<&ContainerSpec, TaskError> {
    task.spec.container_spec.as_ref().ok_or_else(|| TaskError("task has no container spec".into()))
}

fn check_binds(spec: &ContainerSpec) -> Result<(), TaskError> {
    for mount in spec.mounts.iter().filter(|m| m.kind == "bind") {
        let create = mount.bind_options.as_ref().is_some_and(|o| o.create_mountpoint);
        if !create && !Path::new(&mount.source).exists() {
            let source = &mount.source;
            return Err(TaskError(format!("invalid bind mount source, source path not found: {source}")));
        }
    }
    Ok(())
}

#[async_trait]
impl Executor for NodeExecutor {
    async fn description(&self) -> NodeDescription {
        let routes = self.net.routes().await.unwrap_or_else(|error| {
            warn!(%error, "the managers are not told of the node's routes");
            Vec::new()
        });
        NodeDescription { tls_info: self.trust.clone(), routes, ..host::description(&self.config) }
    }

    async fn apply_networks(&self, networks: Arc<NodeNetworks>) -> Result<(), TaskError> {
        self.net.apply(networks).await.map_err(failed)
    }

    async fn fetch(&self, task: Arc<Task>) -> Result<(), TaskError> {
        let spec = container_spec(&task)?;
        if self.container_of(&task.id).is_some() {
            return Ok(());
        }
        check_binds(spec)?;
        self.pulls.ensure(&self.runtime, &spec.image, task.registry_auth.as_deref()).await
    }

    async fn prepare(&self, task: Arc<Task>) -> Result<ContainerStatus, TaskError> {
        let spec = container_spec(&task)?;
        if let Some(existing) = self.container_of(&task.id) {
            return Ok(status_of(&existing));
        }
        let values = Values::of(&task, &self.node, &host::description(&self.config));
        let wired = self.net.wire(wire_request(&task, spec, &values)?).await.map_err(failed)?;
        match self.create(&task, spec, &values, wired).await {
            Ok(created) => Ok(status_of(&created)),
            Err(e) => {
                if let Err(undo) = self.net.unwire(task.id.as_str()).await {
                    warn!(task = %task.id, error = %undo, "cannot remove the sandbox of a container that failed");
                }
                Err(e)
            }
        }
    }

    async fn start(&self, task: Arc<Task>) -> Result<Started, TaskError> {
        let container = self.container(&task.id)?;
        match self.runtime.start(&container.id).await {
            Ok(()) | Err(RuntimeError::NotModified(_)) => {}
            Err(e) => return Err(failed(e)),
        }
        let info = self.runtime.inspect(&container.id).map_err(failed)?;
        Ok(Started { ports: Record::of(&info).ports, status: status_of(&info) })
    }

    async fn wait(&self, task: TaskId) -> Result<Exit, TaskError> {
        let container = self.container(&task)?;
        // Until its end is known elsewhere, others go on connecting to it.
        let handle = self.runtime.wait(&container.id, WaitCondition::Ended).map_err(failed)?;
        let exit = handle.wait().await.map_err(failed)?;
        // Others learn of the end first; the namespace of a dead process may take its time to go.
        tokio::spawn(self.give_up_sandbox(&task));
        // One that outlived the kill of some child of its has not failed for that.
        let error = (exit.oom_killed && exit.exit_code != 0).then(|| "OOM killed".to_owned());
        Ok(Exit { code: exit.exit_code, error: error.or_else(|| Some(exit.error).filter(|e| !e.is_empty())) })
    }

    async fn stop(&self, task: Arc<Task>) -> Result<(), TaskError> {
        // Without a container there may still be the sandbox of one that was never made.
        let Some(container) = self.container_of(&task.id) else {
            self.give_up_sandbox(&task.id).await;
            return Ok(());
        };
        let grace = task.spec.container_spec.as_ref().and_then(|c| c.stop_grace_period);
        let grace = grace.and_then(|n| u64::try_from(n).ok()).map_or(defaults::STOP_GRACE_PERIOD, Duration::from_nanos);
        match self.runtime.stop(&container.id, Some(grace), None).await {
            Ok(()) | Err(RuntimeError::NotModified(_)) => {}
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(failed(e)),
        }
        self.give_up_sandbox(&task.id).await;
        Ok(())
    }

    async fn remove(&self, task: TaskId) -> Result<(), TaskError> {
        if let Some(container) = self.container_of(&task) {
            match self.runtime.remove(&container.id, true, true).await {
                Ok(()) => {}
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(failed(e)),
            }
        }
        self.net.unwire(task.as_str()).await.map_err(failed)
    }

    async fn found(&self) -> Result<BTreeMap<TaskId, Found>, TaskError> {
        let found = self.runtime.list().into_iter().filter_map(|c| {
            let task = c.options.labels.get(TASK_LABEL)?.as_str().into();
            let status = status_of(&c);
            let found = if c.state.status.is_running() {
                Found::Running(status)
            } else if c.state.started_at.is_zero() {
                Found::Created
            } else {
                Found::Exited(status)
            };
            Some((task, found))
        });
        Ok(found.collect())
    }

    async fn logs(&self, task: Arc<Task>, options: LogOptions, out: mpsc::Sender<LogLine>) -> Result<(), TaskError> {
        let container = self.container(&task.id)?;
        let wanted = malha_runtime::LogOptions {
            stdout: options.stdout,
            stderr: options.stderr,
            follow: options.follow && task.status.state <= TaskState::Running,
            since: options.since,
            until: options.until,
            tail: options.tail,
        };
        let mut lines = self.runtime.logs(&container.id, wanted).await.map_err(failed)?;
        while let Some(line) = lines.next().await {
            let line = line.map_err(failed)?;
            let line = LogLine {
                node: self.node.clone(),
                service: task.service.clone(),
                task: task.id.clone(),
                timestamp: line.time,
                stream: if line.stream == StdStream::Stdout { 1 } else { 2 },
                data: line.bytes.to_vec(),
            };
            if out.send(line).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}
