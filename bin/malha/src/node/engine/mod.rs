//! The engine behind the Docker API: this machine's containers, images, volumes and networks.

mod events;
pub(crate) mod host;
pub(crate) mod images;
pub(crate) mod local_networks;
pub(crate) mod mounts;
mod owed;
pub(crate) mod record;
mod release;
mod remove;
mod rename;
mod restarts;
mod standalone;
mod streams;
mod user_gateway;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::FutureExt;
use malha_api::backend::{
    AttachOptions, ByteStream, ConnectNetwork, Container, ContainerLogs, ContainerSize, CreateContainer, CreateNetwork,
    CreateVolume, CreatedContainer, DisconnectNetwork, Distribution, Engine, EngineVersion, EventStream, Exec,
    ExecConfig, Exit, HostInfo, Image, ImageHistory, ImageImport, ImagePull, ImageReference, LocalNetwork,
    ProgressStream, RemoveContainer, RemovedImage, Stdio, StopOptions, TerminalSize, Volume, Wait, WaitCondition,
};
use malha_kit::{Clock, SystemClock};
use malha_model::{ApiError, ApiResult, LogOptions, NetworkView, TaskId, Timestamp};
use malha_runtime::{
    ConsoleSize, ContainerEvent, ContainerInfo, ErrorKind, EventKind, ExecOptions, Runtime, RuntimeError, RuntimeEvent,
    VolumeInfo,
};
use parking_lot::Mutex;

use self::{local_networks::LocalNetworks, owed::Owed, record::Record, restarts::Restarts};
use super::{events::EventLog, network::NodeNet, swarm::Swarm, turns::Turns};
use crate::config::Config;

pub(crate) struct LocalEngine {
    pub(crate) config: Arc<Config>,
    pub(crate) runtime: Runtime,
    pub(crate) net: Arc<NodeNet>,
    pub(crate) swarm: Arc<Swarm>,
    pub(crate) local: LocalNetworks,
    events: Arc<EventLog>,
    /// Swarm attachments of the stand-alone containers that this daemon has wired, or found wired.
    attached: Mutex<BTreeMap<String, Vec<TaskId>>>,
    owed: Owed,
    restarts: Restarts,
    /// Of one container one at a time, so that the managers hear of its last name last.
    renames: Turns,
    /// Starts of stand-alone containers, and the release of what they held.
    turns: Turns,
    /// Changes of a container's record.
    records: Turns,
}

impl LocalEngine {
    pub(crate) fn new(
        config: Arc<Config>,
        runtime: Runtime,
        net: Arc<NodeNet>,
        swarm: Arc<Swarm>,
        local: LocalNetworks,
        events: Arc<EventLog>,
    ) -> Arc<Self> {
        let (attached, owed) = (Mutex::default(), Owed::default());
        let (restarts, renames) = (Restarts::default(), Turns::default());
        let (turns, records) = (Turns::default(), Turns::default());
        Arc::new(Self { config, runtime, net, swarm, local, events, attached, owed, restarts, renames, turns, records })
    }

    /// Follows the runtime's events for as long as the daemon lives: tells them on, releases what ended containers held.
    pub(crate) async fn follow(self: Arc<Self>) {
        // Before the look at what has ended: no end falls in between.
        let mut events = self.runtime.events();
        self.catch_up();
        loop {
            match events.recv().await {
                Ok(RuntimeEvent::Container(event)) => self.follow_container(&event),
                Ok(RuntimeEvent::Image(event)) => self.events.push(events::of_image(event)),
                Ok(RuntimeEvent::Volume(event)) => self.events.push(events::of_volume(&event)),
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => self.catch_up(),
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn follow_container(self: &Arc<Self>, event: &ContainerEvent) {
        for told in events::of_container(event, |name| self.local.own_id(name).map(str::to_owned)) {
            self.events.push(told);
        }
        if matches!(event.kind, EventKind::Die { .. }) {
            self.ended(event.id.clone());
        }
    }

    /// Beside the events: neither they nor the ends of other containers wait for the kernel, or for a start under way.
    fn ended(self: &Arc<Self>, container: String) {
        let engine = self.clone();
        tokio::spawn(async move {
            engine.release(&container).await;
            engine.restart_ended(&container);
        });
    }
}

/// Docker's 304: true where something was done.
fn modified(result: Result<(), RuntimeError>) -> ApiResult<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotModified => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn grace(options: &StopOptions) -> Option<Duration> {
    // Docker waits for ever on a negative time.
    const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
    options.timeout.map(|n| u64::try_from(n).map_or(FOR_EVER, Duration::from_secs))
}

fn signal(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn console(size: TerminalSize) -> ConsoleSize {
    ConsoleSize { width: size.width, height: size.height }
}

/// Docker has rows before columns.
fn console_size([height, width]: [u16; 2]) -> ConsoleSize {
    ConsoleSize { width, height }
}

#[async_trait]
impl Engine for LocalEngine {
    async fn host_info(&self) -> ApiResult<HostInfo> {
        let containerd = self.runtime.containerd_version().await.unwrap_or_default();
        let info = host::info(&self.config, self.local.engine_id(), self.runtime.snapshotter(), containerd);
        Ok(HostInfo { warnings: self.net.warnings().await, ..info })
    }

    fn version(&self) -> EngineVersion {
        host::version()
    }

    async fn events(&self, since: Option<Timestamp>) -> ApiResult<EventStream> {
        Ok(self.events.stream(since))
    }

    async fn containers(&self) -> ApiResult<Vec<Container>> {
        Ok(self.runtime.list().iter().map(|c| self.shown(c)).collect())
    }

    async fn container(&self, reference: &str) -> ApiResult<Container> {
        Ok(self.shown(&self.runtime.inspect(reference)?))
    }

    async fn container_size(&self, reference: &str) -> ApiResult<ContainerSize> {
        let size = self.runtime.size(reference).await?;
        Ok(ContainerSize { rw: size.written, root_fs: size.whole })
    }

    async fn create_container(&self, request: CreateContainer) -> ApiResult<CreatedContainer> {
        self.create_standalone(request).await
    }

    async fn start_container(&self, reference: &str) -> ApiResult<bool> {
        let info = self.runtime.inspect(reference)?;
        if info.state.status.is_running() {
            return Ok(false);
        }
        if Record::of(&info).task.is_some() {
            return modified(self.runtime.start(&info.id).await);
        }
        let started = self.start_standalone(&info.id, self.user_starts(&info)).await;
        self.restarts.end_start(&info.id);
        if started.is_err() {
            self.leave_to_user(&info).await;
        }
        if started.is_err() && info.options.auto_remove {
            // Who asked for it waits for its removal; somebody else may have had more luck with it.
            if let Err(e) = self.runtime.remove(&info.id, false, true).await {
                tracing::warn!(container = info.id, error = %e, "cannot remove a container that did not start");
            }
        }
        started
    }

    async fn stop_container(&self, reference: &str, options: StopOptions) -> ApiResult<bool> {
        let (info, called_off) = self.user_ends(reference).await?;
        let stopped = self.runtime.stop(&info.id, grace(&options), signal(&options.signal)).await;
        let stopped = modified(self.unless_refused(&info, stopped).await)?;
        if stopped {
            self.release_now(&info).await;
        }
        Ok(stopped || called_off)
    }

    async fn restart_container(&self, reference: &str, options: StopOptions) -> ApiResult<()> {
        let info = self.runtime.inspect(reference)?;
        self.user_restarts(&info);
        let restarted = match self.end_run(&info, &options).await {
            // The end gives back the network; the start asks for it again.
            Ok(()) => self.start_container(&info.id).await.map(drop),
            Err(e) => Err(e),
        };
        self.restarts.unhold(&info.id);
        if restarted.is_ok() {
            self.runtime.tell_restarted(&info.id);
        }
        restarted
    }

    async fn kill_container(&self, reference: &str, name: &str) -> ApiResult<()> {
        let (info, called_off) = self.user_ends(reference).await?;
        let killed = self.runtime.kill(&info.id, signal(name)).await;
        match self.unless_refused(&info, killed).await {
            // Between two runs there is nothing to kill, and the next one is called off.
            Err(RuntimeError::NotRunning(_)) if called_off => Ok(()),
            killed => Ok(killed?),
        }
    }

    async fn rename_container(&self, reference: &str, name: &str) -> ApiResult<()> {
        self.rename(reference, name).await
    }

    async fn remove_container(&self, reference: &str, options: RemoveContainer) -> ApiResult<()> {
        self.remove(reference, options).await
    }

    async fn wait_container(&self, reference: &str, condition: WaitCondition) -> ApiResult<Wait> {
        let condition = match condition {
            WaitCondition::NotRunning => malha_runtime::WaitCondition::NotRunning,
            WaitCondition::NextExit => malha_runtime::WaitCondition::NextExit,
            WaitCondition::Removed => malha_runtime::WaitCondition::Removed,
        };
        let handle = self.runtime.wait(reference, condition)?;
        let wait = async move {
            let exit = handle.wait().await?;
            Ok(Exit { code: exit.exit_code.into(), error: Some(exit.error).filter(|e| !e.is_empty()) })
        };
        Ok(wait.boxed())
    }

    async fn attach_container(&self, reference: &str, options: AttachOptions) -> ApiResult<Stdio> {
        let options = malha_runtime::AttachOptions {
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr,
            logs: options.logs,
            stream: options.stream,
        };
        Ok(streams::stdio(self.runtime.attach(reference, options).await?))
    }

    async fn resize_container(&self, reference: &str, size: TerminalSize) -> ApiResult<()> {
        Ok(self.runtime.resize(reference, console(size)).await?)
    }

    async fn container_logs(&self, reference: &str, options: LogOptions) -> ApiResult<ContainerLogs> {
        let options = malha_runtime::LogOptions {
            stdout: options.stdout,
            stderr: options.stderr,
            follow: options.follow,
            since: options.since,
            until: options.until,
            tail: options.tail,
        };
        Ok(streams::logs(self.runtime.logs(reference, options).await?))
    }

    async fn create_exec(&self, container: &str, config: ExecConfig) -> ApiResult<String> {
        let info = self.runtime.inspect(container)?;
        self.refuse_restarting(&info)?;
        let text = |s: String| (!s.is_empty()).then_some(s);
        let options = ExecOptions {
            cmd: config.cmd,
            env: config.env,
            working_dir: text(config.working_dir),
            user: text(config.user),
            tty: config.tty,
            attach_stdin: config.attach_stdin,
            attach_stdout: config.attach_stdout,
            attach_stderr: config.attach_stderr,
            privileged: config.privileged,
            console_size: config.console_size.map(console_size),
        };
        Ok(self.runtime.exec_create(&info.id, options).await?)
    }

    async fn exec(&self, id: &str) -> ApiResult<Exec> {
        let info = self.runtime.exec_inspect(id)?;
        let o = info.options;
        Ok(Exec {
            id: info.id,
            container_id: info.container_id,
            config: ExecConfig {
                user: o.user.unwrap_or_default(),
                privileged: o.privileged,
                tty: o.tty,
                attach_stdin: o.attach_stdin,
                attach_stdout: o.attach_stdout,
                attach_stderr: o.attach_stderr,
                env: o.env,
                working_dir: o.working_dir.unwrap_or_default(),
                cmd: o.cmd,
                console_size: o.console_size.map(|s| [s.height, s.width]),
                ..ExecConfig::default()
            },
            running: info.running,
            exit_code: info.exit_code,
            pid: info.pid,
        })
    }

    async fn start_exec(&self, id: &str, detach: bool, size: Option<TerminalSize>) -> ApiResult<Option<Stdio>> {
        Ok(self.runtime.exec_start(id, detach, size.map(console)).await?.map(streams::stdio))
    }

    async fn resize_exec(&self, id: &str, size: TerminalSize) -> ApiResult<()> {
        Ok(self.runtime.exec_resize(id, console(size)).await?)
    }

    async fn images(&self) -> ApiResult<Vec<Image>> {
        images::list(&self.runtime).await
    }

    async fn image(&self, reference: &str) -> ApiResult<Image> {
        Ok(images::to_api(&self.runtime.image_inspect(reference).await?))
    }

    async fn image_history(&self, reference: &str) -> ApiResult<Vec<ImageHistory>> {
        Ok(images::history(&self.runtime.image_inspect(reference).await?))
    }

    async fn pull_image(&self, request: ImagePull) -> ApiResult<ProgressStream> {
        images::pull(&self.runtime, request)
    }

    async fn load_images(&self, archive: ByteStream) -> ApiResult<ProgressStream> {
        Ok(images::load(&self.runtime, archive))
    }

    async fn import_image(&self, request: ImageImport, archive: ByteStream) -> ApiResult<ProgressStream> {
        Ok(images::import(&self.runtime, request, archive))
    }

    async fn tag_image(&self, reference: &str, target: ImageReference) -> ApiResult<()> {
        Ok(self.runtime.image_tag(reference, &images::full_name(&target)).await?)
    }

    async fn remove_image(&self, reference: &str, force: bool) -> ApiResult<Vec<RemovedImage>> {
        images::remove(&self.runtime, reference, force).await
    }

    async fn distribution(&self, reference: &str, registry_auth: Option<String>) -> ApiResult<Distribution> {
        images::distribution(&self.runtime, reference, registry_auth.as_deref()).await
    }

    async fn volumes(&self) -> ApiResult<Vec<Volume>> {
        let users = self.volume_users();
        Ok(self.runtime.volume_list().await?.into_iter().map(|v| volume(v, &users)).collect())
    }

    async fn volume(&self, name: &str) -> ApiResult<Volume> {
        Ok(volume(self.runtime.volume_inspect(name).await?, &self.volume_users()))
    }

    async fn create_volume(&self, request: CreateVolume) -> ApiResult<Volume> {
        if !matches!(request.driver.as_str(), "" | "local") {
            return Err(ApiError::unsupported(format!("volume driver {}", request.driver)));
        }
        let made = self.runtime.volume_create(&request.name, request.labels, request.driver_opts).await?;
        Ok(volume(made, &BTreeMap::new()))
    }

    async fn remove_volume(&self, name: &str, force: bool) -> ApiResult<()> {
        Ok(self.runtime.volume_remove(name, force).await?)
    }

    async fn networks(&self) -> ApiResult<Vec<LocalNetwork>> {
        Ok(self.local.list(&self.runtime, &self.net).await)
    }

    async fn network_view(&self, id: &str) -> Option<NetworkView> {
        self.net.current().views.get(id).map(|v| (**v).clone())
    }

    async fn create_network(&self, request: CreateNetwork) -> ApiResult<String> {
        let now = SystemClock.now();
        let id = self.local.create(&self.net, request, now).await?;
        self.events.push(events::of_gateway("create", &id, now));
        Ok(id)
    }

    async fn remove_network(&self, id: &str) -> ApiResult<()> {
        self.local.remove(&self.net).await?;
        self.events.push(events::of_gateway("destroy", id, SystemClock.now()));
        Ok(())
    }

    async fn connect_network(&self, _network: &str, _request: ConnectNetwork) -> ApiResult<()> {
        Err(ApiError::unsupported("docker network connect"))
    }

    async fn disconnect_network(&self, _network: &str, _request: DisconnectNetwork) -> ApiResult<()> {
        Err(ApiError::unsupported("docker network disconnect"))
    }
}

impl LocalEngine {
    /// Writes down what the next daemon must know. Each change begins with what the last one left.
    async fn change_record(
        &self,
        container: &str,
        change: impl FnOnce(Record) -> Record,
    ) -> Result<ContainerInfo, RuntimeError> {
        let _turn = self.records.take(container).await;
        let info = self.runtime.inspect(container)?;
        let data = change(Record::of(&info)).to_value();
        if data == info.options.caller_data {
            return Ok(info);
        }
        self.runtime.set_caller_data(container, data).await?;
        self.runtime.inspect(container)
    }

    /// For a start that follows: a container that removes itself when it exits does not do so this time.
    async fn end_run(&self, info: &ContainerInfo, options: &StopOptions) -> ApiResult<()> {
        let removes_itself = info.options.auto_remove;
        if removes_itself {
            self.runtime.keep(&info.id, true).await?;
        }
        let ended = modified(self.runtime.stop(&info.id, grace(options), signal(&options.signal)).await);
        if removes_itself {
            self.runtime.keep(&info.id, false).await?;
        }
        ended.map(drop)
    }

    /// Containers by the volume that they mount.
    fn volume_users(&self) -> BTreeMap<String, Vec<String>> {
        let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for c in self.runtime.list() {
            for m in c.mounts.iter().filter(|m| m.kind == "volume") {
                users.entry(m.name.clone()).or_default().push(c.id.clone());
            }
        }
        users
    }
}

fn volume(v: VolumeInfo, users: &BTreeMap<String, Vec<String>>) -> Volume {
    Volume {
        used_by: users.get(&v.name).cloned().unwrap_or_default(),
        name: v.name,
        driver: "local".into(),
        mountpoint: v.mountpoint.display().to_string(),
        created: v.created,
        labels: v.labels,
        options: v.options,
    }
}
