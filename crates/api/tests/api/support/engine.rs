//! An engine of one container, whose execs are real processes of this machine.

use std::{
    collections::BTreeMap,
    process::Stdio as Std,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use malha_api::backend::*;
use malha_kit::{Clock, SystemClock};
use malha_model::{ApiError, ApiResult, Code, IpamConfig, IpamSpec, LogOptions, NetworkView, Timestamp};
use tokio::{io::AsyncRead, process::Command, sync::watch};
use tokio_util::io::ReaderStream;

use super::cluster::NODE;

pub(crate) const ID: &str = "b4a62e7d09585ad6e1ef6b6287494634dd807579adb93604e15d2e283ba40665";

#[derive(Default)]
pub(crate) struct State {
    pub(crate) execs: BTreeMap<String, Exec>,
    pub(crate) created: Vec<CreateContainer>,
    pub(crate) running: bool,
    pub(crate) loaded: usize,
    /// Its image has no names any more.
    pub(crate) untagged: bool,
    pub(crate) resized: Option<TerminalSize>,
    /// That an exec was started with.
    pub(crate) first_size: Option<TerminalSize>,
    pub(crate) connected: Vec<(String, ConnectNetwork)>,
}

pub(crate) struct FakeEngine {
    state: Arc<Mutex<State>>,
    exit: watch::Sender<Option<i64>>,
}

impl Default for FakeEngine {
    fn default() -> Self {
        let state = State { running: true, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), exit: watch::Sender::new(None) }
    }
}

impl FakeEngine {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn the_container(&self) -> Container {
        let now = SystemClock.now();
        let running = self.state().running;
        let endpoint =
            EndpointSettings { ip_address: "10.0.1.4".into(), ip_prefix_len: 24, ..EndpointSettings::default() };
        Container {
            id: ID.into(),
            name: "web.1.xyz".into(),
            created: now,
            image: "bench:1".into(),
            image_id: format!("sha256:{}", "1".repeat(64)),
            config: ContainerConfig {
                image: "bench:1".into(),
                cmd: Some(vec!["sleep".into(), "50m".into()]),
                open_stdin: true,
                stdin_once: true,
                labels: [("com.docker.swarm.task.id".to_owned(), "xyz".to_owned())].into(),
                ..ContainerConfig::default()
            },
            state: ContainerState {
                status: if running { ContainerStatus::Running } else { ContainerStatus::Exited },
                pid: 42,
                started_at: now,
                ..ContainerState::default()
            },
            networks: [("my-overlay".to_owned(), endpoint)].into(),
            ..Container::default()
        }
    }

    /// Runs `argv` on this machine; its output ends when it does.
    fn start(&self, argv: &[String], done: impl FnOnce(i32) + Send + 'static, tty: bool) -> Stdio {
        let mut child = Command::new(&argv[0])
            .args(&argv[1..])
            .stdin(Std::piped())
            .stdout(Std::piped())
            .stderr(Std::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let of = |r: Box<dyn AsyncRead + Send + Unpin>, stream: OutputStream| {
            ReaderStream::new(r).map(move |b| b.map(|data| OutputChunk { stream, data }))
        };
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let both = stream::select(of(Box::new(out), OutputStream::Stdout), of(Box::new(err), OutputStream::Stderr));
        let end = stream::once(async move {
            let status = child.wait().await.unwrap();
            done(status.code().unwrap_or(137));
            Ok(OutputChunk { stream: OutputStream::Stdout, data: Bytes::new() })
        });
        let output = both.chain(end).filter(|c| std::future::ready(c.as_ref().is_ok_and(|c| !c.data.is_empty())));
        Stdio { tty, output: output.boxed(), input: Some(Box::pin(input)) }
    }
}

fn none<T>(what: &str, name: &str) -> ApiResult<T> {
    Err(ApiError::plain(Code::NotFound, format!("No such {what}: {name}")))
}

fn local(id: &str, name: &str, driver: &str, scope: &str) -> LocalNetwork {
    let config = IpamConfig { subnet: "172.18.0.0/16".parse().ok(), ..IpamConfig::default() };
    LocalNetwork {
        id: id.into(),
        name: name.into(),
        driver: driver.into(),
        scope: scope.into(),
        enable_ipv4: true,
        ipam: IpamSpec { driver: "default".into(), options: None, config: vec![config] },
        ..LocalNetwork::default()
    }
}

/// One of each kind, ten seconds ago.
fn past_events() -> Vec<Event> {
    vec![
        past("local", "image", "pull", "bench:1", &[("name", "bench"), ("image", "a label")]),
        past("local", "volume", "create", "data", &[("driver", "local")]),
        past("local", "network", "connect", "net1", &[("container", ID), ("name", "my-overlay"), ("type", "overlay")]),
        past("local", "container", "start", ID, &[("image", "bench:1"), ("name", "web.1.xyz"), ("tier", "db")]),
        past("swarm", "network", "create", "net1", &[("name", "my-overlay")]),
        past("swarm", "service", "update", "svc1", &[("name", "web"), ("replicas.new", "2"), ("replicas.old", "1")]),
        past("swarm", "node", "update", NODE, &[("name", "node1"), ("state.new", "ready"), ("state.old", "down")]),
    ]
}

fn past(scope: &str, kind: &str, action: &str, id: &str, attributes: &[(&str, &str)]) -> Event {
    let attributes = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let time = Timestamp(SystemClock.now().0 - 10_000_000_000);
    let event = Event::local(kind, action, id, attributes, time);
    Event { scope: scope.into(), ..event }
}

#[async_trait::async_trait]
impl Engine for FakeEngine {
    async fn host_info(&self) -> ApiResult<HostInfo> {
        Ok(HostInfo {
            id: "engine-1".into(),
            name: "node1".into(),
            storage_driver: "overlayfs".into(),
            kernel_version: "6.18".into(),
            cpus: 2,
            memory_bytes: 1 << 30,
            containerd_version: "1.6.20".into(),
            registry: RegistrySettings { mirrors: vec![], insecure: vec!["10.0.0.0/8".into(), "reg:5000".into()] },
            ..HostInfo::default()
        })
    }

    fn version(&self) -> EngineVersion {
        EngineVersion { version: "0.1.0".into(), arch: "amd64".into(), ..EngineVersion::default() }
    }

    async fn events(&self, _: Option<Timestamp>) -> ApiResult<EventStream> {
        Ok(stream::iter(past_events()).chain(stream::pending()).boxed())
    }

    async fn containers(&self) -> ApiResult<Vec<Container>> {
        Ok(vec![self.the_container()])
    }

    async fn container(&self, reference: &str) -> ApiResult<Container> {
        assert_ne!(reference, "panic", "planted");
        let c = self.the_container();
        if c.id.starts_with(reference) || c.name == reference { Ok(c) } else { none("container", reference) }
    }

    async fn container_size(&self, _: &str) -> ApiResult<ContainerSize> {
        Ok(ContainerSize { rw: 2_000, root_fs: 5_000_000 })
    }

    async fn create_container(&self, request: CreateContainer) -> ApiResult<CreatedContainer> {
        if request.config.image != "bench:1" {
            return none("image", &request.config.image);
        }
        self.state().created.push(request);
        self.state().running = false;
        self.exit.send_replace(None);
        Ok(CreatedContainer { id: ID.into(), warnings: vec![] })
    }

    async fn start_container(&self, _: &str) -> ApiResult<bool> {
        Ok(!std::mem::replace(&mut self.state().running, true))
    }

    async fn stop_container(&self, _: &str, options: StopOptions) -> ApiResult<bool> {
        if options.timeout.is_some() {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        Ok(std::mem::replace(&mut self.state().running, false))
    }

    async fn restart_container(&self, _: &str, _: StopOptions) -> ApiResult<()> {
        Ok(())
    }

    async fn kill_container(&self, _: &str, signal: &str) -> ApiResult<()> {
        if signal == "NOPE" {
            return Err(ApiError::plain(Code::InvalidArgument, "Invalid signal: NOPE"));
        }
        Ok(())
    }

    async fn rename_container(&self, _: &str, _: &str) -> ApiResult<()> {
        Ok(())
    }

    async fn remove_container(&self, reference: &str, options: RemoveContainer) -> ApiResult<()> {
        let c = self.container(reference).await?;
        if c.state.status == ContainerStatus::Running && !options.force {
            let text = format!(
                "cannot remove container \"{reference}\": container is running: stop the container before removing or force remove"
            );
            return Err(ApiError::plain(Code::AlreadyExists, text));
        }
        Ok(())
    }

    async fn wait_container(&self, _: &str, _: WaitCondition) -> ApiResult<Wait> {
        let mut exit = self.exit.subscribe();
        Ok(Box::pin(async move {
            let code = exit.wait_for(Option::is_some).await.map(|v| v.unwrap_or_default());
            Ok(Exit { code: code.unwrap_or(137), error: None })
        }))
    }

    async fn attach_container(&self, _: &str, _: AttachOptions) -> ApiResult<Stdio> {
        let (argv, tty) = match self.state().created.last() {
            Some(c) => (c.config.cmd.clone().unwrap_or_default(), c.config.tty),
            None => (vec!["cat".to_owned()], false),
        };
        let exit = self.exit.clone();
        Ok(self.start(&argv, move |code| _ = exit.send_replace(Some(i64::from(code))), tty))
    }

    async fn resize_container(&self, _: &str, size: TerminalSize) -> ApiResult<()> {
        self.state().resized = Some(size);
        Ok(())
    }

    async fn container_logs(&self, _: &str, options: LogOptions) -> ApiResult<ContainerLogs> {
        let line = |n: usize, stream, text: String| {
            Ok(ContainerLogLine {
                timestamp: Timestamp(1_763_757_975_000_000_000 + n as i64),
                stream,
                data: text.into(),
            })
        };
        let lines = [line(1, OutputStream::Stdout, "out 1\n".into()), line(2, OutputStream::Stderr, "err 2\n".into())];
        let first = stream::iter(lines);
        if !options.follow {
            return Ok(first.boxed());
        }
        let later = stream::iter(3..).then(move |n| async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            line(n, OutputStream::Stdout, format!("out {n}\n"))
        });
        Ok(first.chain(later.take(3)).boxed())
    }

    async fn create_exec(&self, container: &str, config: ExecConfig) -> ApiResult<String> {
        let container_id = self.container(container).await?.id;
        let mut s = self.state();
        let id = format!("{:064x}", s.execs.len() + 1);
        s.execs.insert(id.clone(), Exec { id: id.clone(), container_id, config, ..Exec::default() });
        Ok(id)
    }

    async fn exec(&self, id: &str) -> ApiResult<Exec> {
        self.state().execs.get(id).cloned().map_or_else(|| none("exec instance", id), Ok)
    }

    async fn start_exec(&self, id: &str, detach: bool, size: Option<TerminalSize>) -> ApiResult<Option<Stdio>> {
        let exec = self.exec(id).await?;
        self.state().first_size = size;
        if detach {
            return Ok(None);
        }
        let (state, of) = (self.state.clone(), exec.id.clone());
        let ended = move |code| state.lock().unwrap().execs.get_mut(&of).unwrap().exit_code = Some(code);
        let stdio = self.start(&exec.config.cmd, ended, exec.config.tty);
        let input = if exec.config.attach_stdin { stdio.input } else { None };
        Ok(Some(Stdio { tty: stdio.tty, output: stdio.output, input }))
    }

    async fn resize_exec(&self, _: &str, size: TerminalSize) -> ApiResult<()> {
        self.state().resized = Some(size);
        Ok(())
    }

    async fn images(&self) -> ApiResult<Vec<Image>> {
        Ok(vec![self.image("bench:1").await?])
    }

    async fn image(&self, reference: &str) -> ApiResult<Image> {
        if self.state().untagged || reference != "bench:1" && reference != "reg:5000/a/b:1" {
            return none("image", reference);
        }
        Ok(Image {
            id: format!("sha256:{}", "1".repeat(64)),
            repo_tags: vec!["bench:1".into(), "reg:5000/a/b:1".into()],
            architecture: "amd64".into(),
            os: "linux".into(),
            size: 4_200_000,
            ..Image::default()
        })
    }

    async fn image_history(&self, _: &str) -> ApiResult<Vec<ImageHistory>> {
        Ok(vec![ImageHistory { created_by: "ADD busybox /".into(), ..ImageHistory::default() }])
    }

    async fn pull_image(&self, request: ImagePull) -> ApiResult<ProgressStream> {
        if request.image.name.contains("missing") {
            return none("image", &request.image.name);
        }
        let step = |status: &str, current, total| {
            Ok(Progress::Status { id: "abcdef123456".into(), status: status.into(), current, total })
        };
        if request.image.tag == "denied" {
            let denied = ApiError::plain(Code::NotFound, "pull access denied for reg:5000/a/b");
            return Ok(stream::iter([Err(denied)]).boxed());
        }
        let failed = Err(ApiError::internal("the disk is full"));
        let steps = [step("Downloading", Some(1), Some(2)), step("Pull complete", None, None)];
        let last = (request.image.tag == "broken").then_some(failed);
        Ok(stream::iter(steps.into_iter().chain(last)).boxed())
    }

    async fn load_images(&self, mut archive: ByteStream) -> ApiResult<ProgressStream> {
        let mut size = 0;
        while let Some(bytes) = archive.next().await {
            size += bytes.map_err(ApiError::internal)?.len();
        }
        self.state().loaded = size;
        Ok(stream::iter([Ok(Progress::Line("Loaded image: bench:1\n".into()))]).boxed())
    }

    async fn import_image(&self, request: ImageImport, archive: ByteStream) -> ApiResult<ProgressStream> {
        drop(self.load_images(archive).await?);
        let status = format!("sha256:{} {}:{}", "2".repeat(64), request.image.name, request.image.tag);
        Ok(stream::iter([Ok(Progress::Status { id: String::new(), status, current: None, total: None })]).boxed())
    }

    async fn tag_image(&self, reference: &str, target: ImageReference) -> ApiResult<()> {
        assert_eq!((target.name.as_str(), target.tag.as_str()), ("reg:5000/c/d", "2"));
        self.image(reference).await.map(drop)
    }

    async fn remove_image(&self, reference: &str, _: bool) -> ApiResult<Vec<RemovedImage>> {
        self.image(reference).await?;
        Ok(vec![RemovedImage::Untagged(reference.into()), RemovedImage::Deleted("sha256:11".into())])
    }

    async fn distribution(&self, reference: &str, _: Option<String>) -> ApiResult<Distribution> {
        none("image", reference)
    }

    async fn volumes(&self) -> ApiResult<Vec<Volume>> {
        Ok(vec![Volume { name: "data".into(), driver: "local".into(), ..Volume::default() }])
    }

    async fn volume(&self, name: &str) -> ApiResult<Volume> {
        if name == "data" { Ok(self.volumes().await?.remove(0)) } else { none("volume", name) }
    }

    async fn create_volume(&self, request: CreateVolume) -> ApiResult<Volume> {
        Ok(Volume { name: request.name, driver: "local".into(), labels: request.labels, ..Volume::default() })
    }

    async fn remove_volume(&self, name: &str, _: bool) -> ApiResult<()> {
        self.volume(name).await.map(drop)
    }

    async fn networks(&self) -> ApiResult<Vec<LocalNetwork>> {
        let mut gwbridge = local(&"c".repeat(64), "docker_gwbridge", "bridge", "local");
        gwbridge.containers.insert(ID.into(), LocalEndpoint { name: "gateway_1".into(), ..LocalEndpoint::default() });
        Ok(vec![
            local(&"8".repeat(64), "bridge", "bridge", "local"),
            gwbridge,
            local(&"4".repeat(64), "host", "host", "local"),
            local(&"3".repeat(64), "none", "null", "local"),
        ])
    }

    async fn network_view(&self, _: &str) -> Option<NetworkView> {
        None
    }

    async fn connect_network(&self, network: &str, request: ConnectNetwork) -> ApiResult<()> {
        self.state().connected.push((network.into(), request));
        Ok(())
    }

    async fn disconnect_network(&self, _: &str, request: DisconnectNetwork) -> ApiResult<()> {
        self.container(&request.container).await.map(drop)
    }
}
