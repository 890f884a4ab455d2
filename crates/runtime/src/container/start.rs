//! `docker start`: from a prepared container to a running process.

use std::{path::Path, process::Stdio, sync::Arc};

use nix::{sys::stat::Mode, unistd::mkfifo};
use prost::Message;
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
    sync::oneshot,
};
use tonic::Code;

use super::{
    exit,
    info::ContainerStatus,
    spec::{self, SpecInput},
    table::{Container, Record},
    user::{self, Identity},
};
use crate::{
    EventKind, Result, Runtime, RuntimeError, cgroup, clock,
    containerd::{
        json_any, runc,
        services::{
            containers::{self, CreateContainerRequest, DeleteContainerRequest},
            tasks::{CreateTaskRequest, DeleteTaskRequest, KillRequest, StartRequest},
        },
    },
    daemon::own_session,
    log::{FROM_FIFOS, STDERR_FIFO, STDOUT_FIFO, SUBCOMMAND},
    rootfs::Rootfs,
    runtime::Inner,
};

const RUNTIME: &str = "io.containerd.runc.v2";
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
const OPTIONS_TYPE: &str = "containerd.runc.v1.Options";

impl Runtime {
    /// `NotModified` where it runs. Comes to its end also where the caller does not wait for it.
    pub async fn start(&self, container: &str) -> Result<()> {
        self.inner.start(&self.inner.containers.find(container)?).await
    }
}

impl Inner {
    /// In a task of its own: broken off half-way, it would leave a process that nobody knows of.
    pub(crate) async fn start(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        // Taken here: from now on, a stop waits for the start.
        let changing = Arc::clone(&container.changing).lock_owned().await;
        let (inner, container) = (Arc::clone(self), Arc::clone(container));
        let (tell, told) = oneshot::channel();
        self.tasks.spawn("start", async move {
            let started = inner.start_held(&container).await;
            drop(changing);
            // The caller may be gone.
            let _ = tell.send(started);
        });
        told.await.unwrap_or_else(|_| Err(RuntimeError::internal("the start was broken off")))
    }

    /// The caller holds `changing`.
    async fn start_held(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        container.still_there()?;
        let state = container.state();
        if state.status.is_running() {
            return Err(RuntimeError::NotModified(container.id.clone()));
        }
        if matches!(state.status, ContainerStatus::Removing | ContainerStatus::Dead) {
            return Err(RuntimeError::Conflict("container is marked for removal and cannot be started".to_owned()));
        }
        let mut logger = None;
        let started = self.run_task(container, &mut logger).await;
        if let Err(error) = &started {
            self.undo_start(container, logger).await;
            let code = start_failure_code(error);
            container.live.send_modify(|live| {
                live.state.exit_code = code;
                live.state.error = error.to_string();
                live.exits += 1;
                live.last_exit.exit_code = code;
                live.last_exit.error = error.to_string();
            });
            container.pending_attaches.lock().clear();
            let _ = container.save_state().await;
        }
        started
    }

    async fn run_task(self: &Arc<Self>, container: &Arc<Container>, logger: &mut Option<Child>) -> Result<()> {
        let record = container.record();
        let identity = self.identity(&record).await?;
        let paths = container.paths();
        let spec =
            spec::build(&SpecInput { record: &record, paths: &paths, identity: &identity, cgroup: &container.cgroup })?;
        self.register(container, &record, &spec).await?;
        let pid = self.create_task(container, &record, logger).await?;
        cgroup::ensure_member(pid, &container.cgroup).await?;
        container.execs.lock().clear();
        self.connect_pending(container).await?;
        // Whatever happens from here on, the exit is seen.
        let mut tasks = self.containerd.tasks();
        let start = StartRequest { container_id: container.id.clone(), ..StartRequest::default() };
        tasks.start(start).await.map_err(task_error)?;

        container.live.send_modify(|live| {
            live.state.status = ContainerStatus::Running;
            live.state.pid = pid;
            live.state.exit_code = 0;
            live.state.error.clear();
            live.state.oom_killed = false;
            live.state.started_at = clock::now();
            live.starts += 1;
        });
        exit::watch(self, container);
        self.emit(container, EventKind::Start);
        // It runs: a disk that is full now must not make that a failure. Adoption reads the truth from containerd.
        if let Err(error) = container.save_state().await {
            tracing::warn!(container = container.id, %error, "state not saved");
        }
        Ok(())
    }

    async fn identity(&self, record: &Record) -> Result<Identity> {
        let mounts = self.snapshot_mounts(record).await?;
        let (user, groups) = (record.process.user.clone(), record.options.group_add.clone());
        let scratch = self.scratch_dir();
        let looked_up =
            tokio::task::spawn_blocking(move || user::resolve(&Rootfs::open(&mounts, &scratch)?, &user, &groups));
        looked_up.await.map_err(RuntimeError::internal)?
    }

    /// Makes containerd's record, in place of one that an earlier run left.
    async fn register(&self, container: &Container, record: &Record, spec: &serde_json::Value) -> Result<()> {
        self.unregister(&container.id).await?;
        let options = self.config.oci_runtime.as_ref().map(|binary| {
            let options = runc::v1::Options {
                binary_name: binary.to_string_lossy().into_owned(),
                ..runc::v1::Options::default()
            };
            prost_types::Any { type_url: OPTIONS_TYPE.into(), value: options.encode_to_vec() }
        });
        let made = containers::Container {
            id: container.id.clone(),
            image: record.options.image.clone(),
            runtime: Some(containers::container::Runtime { name: RUNTIME.into(), options }),
            spec: Some(json_any(SPEC_TYPE, spec)),
            snapshotter: record.snapshotter.clone(),
            snapshot_key: container.id.clone(),
            ..containers::Container::default()
        };
        self.containerd.containers().create(CreateContainerRequest { container: Some(made) }).await?;
        Ok(())
    }

    pub(crate) async fn unregister(&self, id: &str) -> Result<()> {
        match self.containerd.containers().delete(DeleteContainerRequest { id: id.into() }).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(status.into()),
        }
    }

    async fn create_task(&self, container: &Container, record: &Record, logger: &mut Option<Child>) -> Result<u32> {
        let io = self.task_io(container, record, logger).await?;
        let request = CreateTaskRequest {
            container_id: container.id.clone(),
            rootfs: self.snapshot_mounts(record).await?,
            stdin: io.stdin,
            stdout: io.stdout,
            stderr: io.stderr,
            terminal: record.options.tty,
            ..CreateTaskRequest::default()
        };
        let mut tasks = self.containerd.tasks();
        let created = match tasks.create(request.clone()).await {
            // A task of a run that this daemon did not see to its end.
            Err(status) if status.code() == Code::AlreadyExists => {
                self.delete_task(&container.id).await;
                tasks.create(request).await
            }
            other => other,
        };
        Ok(created.map_err(task_error)?.into_inner().pid)
    }

    /// How the process's streams are wired.
    ///
    /// The shim starts the log writer by itself, except where there is stdin without a terminal: shims connect stdin
    /// only to pipes, so then all three are pipes, and the daemon starts the writer.
    async fn task_io(&self, container: &Container, record: &Record, logger: &mut Option<Child>) -> Result<TaskIo> {
        let dir = &container.dir;
        let name = |file: &str| dir.join(file).to_string_lossy().into_owned();
        let mut io = TaskIo::default();
        if record.options.open_stdin {
            make_fifo(&dir.join(super::stdin::FIFO))?;
            io.stdin = name(super::stdin::FIFO);
        }
        if record.options.open_stdin && !record.options.tty {
            make_fifo(&dir.join(STDOUT_FIFO))?;
            make_fifo(&dir.join(STDERR_FIFO))?;
            (io.stdout, io.stderr) = (name(STDOUT_FIFO), name(STDERR_FIFO));
            *logger = Some(self.start_logger(dir).await?);
            return Ok(io);
        }
        let writer = percent_encode(&self.log_writer.to_string_lossy(), "/");
        let uri = format!("binary://{writer}?{SUBCOMMAND}={}", percent_encode(&dir.to_string_lossy(), ""));
        io.stderr = if record.options.tty { String::new() } else { uri.clone() };
        io.stdout = uri;
        Ok(io)
    }

    /// Starts the log writer as a process that outlives this one, and waits until it listens.
    async fn start_logger(&self, dir: &Path) -> Result<Child> {
        let fail = |e: std::io::Error| RuntimeError::io("start the log writer", e);
        let mut command = Command::new(&self.log_writer);
        command.arg(SUBCOMMAND).arg(FROM_FIFOS).arg(dir).stdin(Stdio::null()).stdout(Stdio::piped());
        own_session(&mut command);
        let mut child = command.spawn().map_err(fail)?;
        let mut ready = [0; 6];
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_exact(&mut ready).await.map_err(fail)?;
        }
        Ok(child)
    }

    async fn undo_start(&self, container: &Container, logger: Option<Child>) {
        self.delete_task(&container.id).await;
        if let Some(mut logger) = logger {
            let _ = logger.kill().await;
        }
        if let Err(error) = self.unregister(&container.id).await {
            tracing::warn!(container = container.id, %error, "containerd keeps the container of a failed start");
        }
        cgroup::remove(&container.cgroup).await;
    }

    /// Makes sure that there is no task, whatever state one is in.
    pub(crate) async fn delete_task(&self, id: &str) {
        let mut tasks = self.containerd.tasks();
        let mut last = None;
        for _ in 0..100 {
            match tasks.delete(DeleteTaskRequest { container_id: id.into() }).await {
                Ok(_) => return self.remove_shim_socket(id),
                Err(status) if status.code() == Code::NotFound => return self.remove_shim_socket(id),
                Err(status) => last = Some(status),
            }
            // It runs, then; shims say so in text only.
            let kill = KillRequest { container_id: id.into(), signal: 9, all: true, ..KillRequest::default() };
            let _ = tasks.kill(kill).await;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        tracing::warn!(container = id, error = ?last, "task not deleted");
    }
}

#[derive(Debug, Default)]
struct TaskIo {
    stdin: String,
    stdout: String,
    stderr: String,
}

pub(crate) fn make_fifo(path: &Path) -> Result<()> {
    // A fresh one: what an earlier run left in it is nobody's.
    let _ = std::fs::remove_file(path);
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| RuntimeError::io(format!("create {}", path.display()), e))
}

/// As a URI wants it; `keep` holds further characters that stay.
fn percent_encode(text: &str, keep: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b) || keep.as_bytes().contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Docker's words, and its distinction: what the user got wrong is no internal error.
fn task_error(status: tonic::Status) -> RuntimeError {
    if status.code() == Code::Unavailable {
        return status.into();
    }
    let text = format!("failed to create task for container: {}", status.message());
    match start_code(status.message()) {
        Some(_) => RuntimeError::InvalidArgument(text),
        None => RuntimeError::Internal(text),
    }
}

/// What a shell would return.
fn start_code(message: &str) -> Option<i32> {
    let says = |words: &[&str]| words.iter().any(|w| message.contains(w));
    if says(&["executable file not found", "no such file or directory", "system cannot find the file specified"]) {
        Some(127)
    } else if says(&["permission denied", "not a directory", "is a directory", "exec format error"]) {
        Some(126)
    } else {
        None
    }
}

pub(crate) fn start_failure_code(error: &RuntimeError) -> i32 {
    start_code(&error.to_string()).unwrap_or(128)
}
