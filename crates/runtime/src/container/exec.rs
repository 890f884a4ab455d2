//! `docker exec`: a further process in a running container.
//!
//! Its streams are pipes that the daemon itself reads: an exec belongs to whoever started it. One without any streams
//! (detached) runs on without the daemon.

use std::{path::PathBuf, sync::Arc, time::Duration};

use malha_model::Timestamp;
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    sync::{oneshot, watch},
};
use tonic::Code;

use super::{
    exec_options::{ConsoleSize, ExecInfo, ExecOptions},
    exit::exit_code,
    mounts::process_env,
    name,
    process::merge_env,
    spec::{ProcessInput, process_spec},
    start::make_fifo,
    stdin::{self, Target},
    stream::{Attachment, OutputChunk, OutputSender, StdStream},
    table::Container,
    user,
};
use crate::{
    EventKind, Result, Runtime, RuntimeError, cgroup, clock,
    containerd::{
        json_any,
        services::tasks::{DeleteProcessRequest, ExecProcessRequest, StartRequest, WaitRequest},
    },
    rootfs::Rootfs,
    runtime::Inner,
};

const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// How long one that has ended can still be asked about.
const KEEP: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(crate) struct Exec {
    id: String,
    options: ExecOptions,
    state: watch::Sender<ExecState>,
}

#[derive(Clone, Copy, Debug, Default)]
struct ExecState {
    started: bool,
    pid: u32,
    exit: Option<(i32, Timestamp)>,
}

/// Reading ends, opened before the shim opens the writing ones.
#[derive(Default)]
struct ExecIo {
    dir: PathBuf,
    stdin: String,
    stdout: String,
    stderr: String,
    readers: Vec<(StdStream, pipe::Receiver)>,
}

impl Runtime {
    /// Returns the exec's id, 64 hex digits.
    pub async fn exec_create(&self, container: &str, options: ExecOptions) -> Result<String> {
        let container = self.inner.containers.find(container)?;
        if !container.state().status.is_running() {
            return Err(RuntimeError::NotRunning(container.id.clone()));
        }
        if options.cmd.is_empty() || options.cmd[0].is_empty() {
            return Err(RuntimeError::invalid("No exec command specified"));
        }
        let exec = Exec { id: name::random_id(), options, state: watch::Sender::new(ExecState::default()) };
        let (id, command) = (exec.id.clone(), exec.options.cmd.join(" "));
        let stale = clock::now().0.saturating_sub(i64::try_from(KEEP.as_nanos()).unwrap_or(0));
        let mut execs = container.execs.lock();
        execs.retain(|_, e| e.state.borrow().exit.is_none_or(|(_, at)| at.0 > stale));
        execs.insert(id.clone(), Arc::new(exec));
        drop(execs);
        self.inner.emit(&container, EventKind::ExecCreate { exec_id: id.clone(), command });
        Ok(id)
    }

    /// Starts it; `None` where `detach`. Without a `size` the terminal begins with the one that it was created with.
    pub async fn exec_start(&self, exec: &str, detach: bool, size: Option<ConsoleSize>) -> Result<Option<Attachment>> {
        let (container, exec) = self.inner.containers.find_exec(exec)?;
        if !container.state().status.is_running() {
            return Err(RuntimeError::NotRunning(container.id.clone()));
        }
        let first = exec.state.send_if_modified(|s| !std::mem::replace(&mut s.started, true));
        if !first {
            return Err(RuntimeError::ExecAlreadyStarted(exec.id.clone()));
        }
        let started = self.inner.exec_start(&container, &exec, detach, size).await;
        if let Err(error) = &started {
            let code = super::start::start_failure_code(error);
            exec.state.send_modify(|s| s.exit = Some((code, clock::now())));
        }
        started
    }

    pub async fn exec_resize(&self, exec: &str, size: ConsoleSize) -> Result<()> {
        let (container, exec) = self.inner.containers.find_exec(exec)?;
        self.inner.resize_pty(&container.id, &exec.id, size).await
    }

    pub fn exec_inspect(&self, exec: &str) -> Result<ExecInfo> {
        let (container, exec) = self.inner.containers.find_exec(exec)?;
        let state = *exec.state.borrow();
        Ok(ExecInfo {
            id: exec.id.clone(),
            container_id: container.id.clone(),
            options: exec.options.clone(),
            running: state.started && state.exit.is_none(),
            exit_code: state.exit.map(|(code, _)| code),
            pid: state.pid,
        })
    }

    /// Ids of the container's execs that have not ended.
    pub fn exec_ids(&self, container: &str) -> Result<Vec<String>> {
        let container = self.inner.containers.find(container)?;
        let execs = container.execs.lock();
        Ok(execs.values().filter(|e| e.state.borrow().exit.is_none()).map(|e| e.id.clone()).collect())
    }

    /// Waits for the end of an exec.
    pub async fn exec_wait(&self, exec: &str) -> Result<i32> {
        let (_, exec) = self.inner.containers.find_exec(exec)?;
        let mut state = exec.state.subscribe();
        let ended = state.wait_for(|s| s.exit.is_some()).await;
        ended.ok().and_then(|s| s.exit).map(|(code, _)| code).ok_or_else(|| RuntimeError::NoSuchExec(exec.id.clone()))
    }
}

impl Inner {
    async fn exec_start(
        self: &Arc<Self>,
        container: &Arc<Container>,
        exec: &Arc<Exec>,
        detach: bool,
        size: Option<ConsoleSize>,
    ) -> Result<Option<Attachment>> {
        let size = size.or(exec.options.console_size);
        let spec = exec_spec(container, &exec.options, size, self.scratch_dir()).await?;
        let mut io = if detach { ExecIo::default() } else { exec_io(container, exec)? };
        let request = ExecProcessRequest {
            container_id: container.id.clone(),
            exec_id: exec.id.clone(),
            stdin: io.stdin.clone(),
            stdout: io.stdout.clone(),
            stderr: io.stderr.clone(),
            terminal: exec.options.tty,
            spec: Some(json_any(PROCESS_TYPE, &spec)),
        };
        let mut tasks = self.containerd.tasks();
        tasks.exec(request).await.map_err(|s| exec_error(container, &s))?;
        let start = StartRequest { container_id: container.id.clone(), exec_id: exec.id.clone() };
        let started = tasks.start(start).await;
        let pid = match started {
            Ok(response) => response.into_inner().pid,
            Err(status) => {
                self.delete_exec(container, exec).await;
                let _ = std::fs::remove_dir_all(&io.dir);
                return Err(exec_error(container, &status));
            }
        };
        // runc does so by itself; one that does not must not escape the network's programs.
        if let Err(error) = cgroup::ensure_member(pid, &container.cgroup).await {
            tracing::debug!(%error, "the exec has ended already");
        }
        exec.state.send_modify(|s| s.pid = pid);
        let command = exec.options.cmd.join(" ");
        self.emit(container, EventKind::ExecStart { exec_id: exec.id.clone(), command });
        let attachment = (!detach).then(|| self.exec_attachment(container, exec, &mut io));
        self.watch_exec(container, exec, io.dir);
        Ok(attachment)
    }

    fn exec_attachment(self: &Arc<Self>, container: &Container, exec: &Exec, io: &mut ExecIo) -> Attachment {
        let (output, stream) = OutputSender::new();
        for (kind, pipe) in io.readers.drain(..) {
            let output = output.clone();
            let wanted = match kind {
                StdStream::Stdout => exec.options.attach_stdout || exec.options.tty,
                StdStream::Stderr => exec.options.attach_stderr,
            };
            self.tasks.spawn("exec output", copy_output(pipe, kind, output, wanted));
        }
        // A client asks for the exit code as soon as the output ends: it must be known by then.
        let mut state = exec.state.subscribe();
        self.tasks.spawn("exec output end", async move {
            let _ = state.wait_for(|s| s.exit.is_some()).await;
            drop(output);
        });
        let stdin = exec.options.attach_stdin.then(|| {
            let (start, started) = oneshot::channel();
            let _ = start.send(());
            let target = Target {
                fifo: io.dir.join("0"),
                container: container.id.clone(),
                exec: exec.id.clone(),
                close: !exec.options.tty,
            };
            stdin::pump(self, target, started)
        });
        Attachment { stdin, output: stream, tty: exec.options.tty }
    }

    fn watch_exec(self: &Arc<Self>, container: &Arc<Container>, exec: &Arc<Exec>, dir: PathBuf) {
        let (inner, container, exec) = (Arc::clone(self), Arc::clone(container), Arc::clone(exec));
        self.tasks.spawn("exec exit", async move {
            let code = inner.exec_exit(&container, &exec).await;
            exec.state.send_modify(|s| s.exit = Some((code, clock::now())));
            inner.emit(&container, EventKind::ExecDie { exec_id: exec.id.clone(), exit_code: code });
            inner.delete_exec(&container, &exec).await;
            if !dir.as_os_str().is_empty() {
                let _ = std::fs::remove_dir_all(dir);
            }
        });
    }

    async fn exec_exit(&self, container: &Container, exec: &Exec) -> i32 {
        loop {
            let request = WaitRequest { container_id: container.id.clone(), exec_id: exec.id.clone() };
            match self.containerd.tasks().wait(request).await {
                Ok(response) => return exit_code(response.into_inner().exit_status),
                // The container ended and took it along.
                Err(status) if status.code() == Code::NotFound => return 137,
                Err(_) if !container.state().status.is_running() => return 137,
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    async fn delete_exec(&self, container: &Container, exec: &Exec) {
        let request = DeleteProcessRequest { container_id: container.id.clone(), exec_id: exec.id.clone() };
        if let Err(status) = self.containerd.tasks().delete_process(request).await
            && status.code() != Code::NotFound
        {
            tracing::debug!(exec = exec.id, %status, "exec not deleted");
        }
    }
}

async fn exec_spec(
    container: &Container,
    options: &ExecOptions,
    console_size: Option<ConsoleSize>,
    scratch: PathBuf,
) -> Result<serde_json::Value> {
    let record = container.record();
    let user = options.user.clone().filter(|u| !u.is_empty()).unwrap_or_else(|| record.process.user.clone());
    let groups = record.options.group_add.clone();
    let pid = container.state().pid;
    let looked_up = tokio::task::spawn_blocking(move || {
        let root = crate::containerd::types::Mount { source: format!("/proc/{pid}/root"), ..Default::default() };
        user::resolve(&Rootfs::open(&[root], &scratch)?, &user, &groups)
    });
    let identity = looked_up.await.map_err(RuntimeError::internal)??;
    let env = process_env(&record.process.hostname, options.tty, &record.process.env);
    process_spec(
        &record.options,
        &ProcessInput {
            args: &options.cmd,
            env: merge_env(&env, &options.env),
            cwd: options.working_dir.as_deref().filter(|d| !d.is_empty()).unwrap_or(&record.process.working_dir),
            tty: options.tty,
            console_size,
            privileged: options.privileged || record.options.privileged,
            identity: &identity,
        },
    )
}

fn exec_io(container: &Container, exec: &Exec) -> Result<ExecIo> {
    let dir = container.dir.join(format!("exec-{}", &exec.id[..16]));
    std::fs::create_dir_all(&dir).map_err(|e| RuntimeError::io(format!("create {}", dir.display()), e))?;
    let mut io = ExecIo { dir: dir.clone(), ..ExecIo::default() };
    let fifo = |n: &str| {
        let path = dir.join(n);
        make_fifo(&path).map(|()| path.to_string_lossy().into_owned())
    };
    let reader = |path: &str| {
        let opened = pipe::OpenOptions::new().open_receiver(path);
        opened.map_err(|e| RuntimeError::io(format!("open {path}"), e))
    };
    let wanted = &exec.options;
    if !(wanted.attach_stdin || wanted.attach_stdout || wanted.attach_stderr || wanted.tty) {
        return Ok(io);
    }
    if wanted.attach_stdin {
        io.stdin = fifo("0")?;
    }
    // Shims want all outputs or none; what was not asked for is read and dropped. A terminal has one output.
    io.stdout = fifo("1")?;
    io.readers.push((StdStream::Stdout, reader(&io.stdout)?));
    if !wanted.tty {
        io.stderr = fifo("2")?;
        io.readers.push((StdStream::Stderr, reader(&io.stderr)?));
    }
    Ok(io)
}

/// Copies until the process, and whoever inherited the pipe from it, has closed it. Reads on when nobody listens: an
/// exec must not hang on a client that left.
async fn copy_output(mut pipe: pipe::Receiver, stream: StdStream, output: OutputSender, wanted: bool) {
    loop {
        let mut bytes = bytes::BytesMut::with_capacity(32 << 10);
        match pipe.read_buf(&mut bytes).await {
            Ok(n) if n > 0 && !wanted => {}
            Ok(n) if n > 0 => {
                let chunk = OutputChunk { stream, bytes: bytes.freeze() };
                let _ = output.send(chunk, std::future::pending()).await;
            }
            _ => return,
        }
    }
}

fn exec_error(container: &Container, status: &tonic::Status) -> RuntimeError {
    if status.code() == Code::NotFound {
        return RuntimeError::NotRunning(container.id.clone());
    }
    let text = status.message();
    let text = text
        .split_once("OCI runtime exec failed")
        .map_or_else(|| text.to_owned(), |(_, rest)| format!("OCI runtime exec failed{rest}"));
    RuntimeError::InvalidArgument(text)
}
