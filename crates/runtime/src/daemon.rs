//! A containerd of our own, for machines that have none running.
//!
//! It lives in its own session, so neither a crash nor a stop of this process takes it (or the containers under it)
//! along; it is found again by the pid file and the socket in its directory. Several nodes may share one.

use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{process::Command, time::Instant};

use crate::{Result, RuntimeError, containerd::Containerd};

/// How long containerd may take to answer after its start, or to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(20);

/// A containerd whose directory is ours.
#[derive(Clone, Debug)]
pub struct PrivateContainerd {
    dir: PathBuf,
    socket: PathBuf,
    pid: u32,
}

impl PrivateContainerd {
    /// Finds the one that runs under `dir`, or starts it (`dir/root`, `dir/state`, `dir/containerd.sock`).
    pub async fn find_or_start(dir: &Path) -> Result<Self> {
        Self::find_or_start_binary(dir, Path::new("containerd")).await
    }

    /// The same with a certain executable.
    pub async fn find_or_start_binary(dir: &Path, binary: &Path) -> Result<Self> {
        let dir = dir.to_owned();
        let fail = |e: std::io::Error| RuntimeError::io(format!("prepare {}", dir.display()), e);
        fs::create_dir_all(&dir).map_err(fail)?;
        let dir = dir.canonicalize().map_err(fail)?;
        // Of two that start at once, the second finds what the first started.
        let _lock = lock(&dir).await?;
        if let Some(found) = Self::find(&dir).await? {
            return Ok(found);
        }
        Self::start(&dir, binary).await
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends containerd. Containers that still run are not touched.
    pub async fn stop(self) -> Result<()> {
        signal(self.pid, Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while is_ours(self.pid, &self.dir) {
            if Instant::now() > deadline {
                signal(self.pid, Signal::SIGKILL);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for file in [pid_file(&self.dir), self.socket.clone(), self.dir.join("containerd.sock.ttrpc")] {
            let _ = fs::remove_file(file);
        }
        Ok(())
    }

    async fn find(dir: &Path) -> Result<Option<Self>> {
        let Some(pid) = fs::read_to_string(pid_file(dir)).ok().and_then(|t| t.trim().parse().ok()) else {
            return Ok(None);
        };
        if !is_ours(pid, dir) {
            return Ok(None);
        }
        let found = Self { dir: dir.to_owned(), socket: socket_file(dir), pid };
        found.wait_until_it_answers(|| is_ours(pid, dir)).await?;
        Ok(Some(found))
    }

    async fn start(dir: &Path, binary: &Path) -> Result<Self> {
        let fail = |e: std::io::Error| RuntimeError::io(format!("start containerd under {}", dir.display()), e);
        let config = config_file(dir);
        fs::write(&config, config_toml(dir)).map_err(fail)?;
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(dir.join("containerd.log"))
            .map_err(fail)?;
        let mut command = Command::new(binary);
        command.arg("--config").arg(&config).stdin(Stdio::null()).stderr(log.try_clone().map_err(fail)?).stdout(log);
        own_session(&mut command);
        let mut child = command.spawn().map_err(fail)?;
        let pid = child.id().ok_or_else(|| RuntimeError::internal("containerd ended at once"))?;
        fs::write(pid_file(dir), pid.to_string()).map_err(fail)?;
        let started = Self { dir: dir.to_owned(), socket: socket_file(dir), pid };
        // Its command line would not do: at first it may still be empty.
        started.wait_until_it_answers(|| matches!(child.try_wait(), Ok(None))).await?;
        // Dropping the handle leaves the process alone; tokio reaps it should it end before us.
        Ok(started)
    }

    async fn wait_until_it_answers(&self, mut lives: impl FnMut() -> bool) -> Result<()> {
        let client = Containerd::new(&self.socket, "malha")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = tokio::time::timeout(Duration::from_secs(2), client.server_version()).await;
            if matches!(answer, Ok(Ok(_))) {
                return Ok(());
            }
            if !lives() || Instant::now() > deadline {
                let log = self.dir.join("containerd.log");
                return Err(RuntimeError::Unavailable(format!("it did not come up; see {}", log.display())));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A new session: no terminal's and no process group's signals reach it.
#[allow(unsafe_code, reason = "setsid is async-signal-safe and all that runs between fork and exec")]
pub(crate) fn own_session(command: &mut Command) {
    // SAFETY: the closure calls setsid(2) only.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into));
    }
}

async fn lock(dir: &Path) -> Result<Flock<fs::File>> {
    let path = dir.join("lock");
    let fail = |e: std::io::Error| RuntimeError::io(format!("lock {}", path.display()), e);
    let mut file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(fail)?;
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, errno)) if Instant::now() > deadline => return Err(fail(errno.into())),
            Err((back, _)) => file = back,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn pid_file(dir: &Path) -> PathBuf {
    dir.join("containerd.pid")
}

fn socket_file(dir: &Path) -> PathBuf {
    dir.join("containerd.sock")
}

fn config_file(dir: &Path) -> PathBuf {
    dir.join("config.toml")
}

/// Whether `pid` is alive and runs from `dir`: a pid file may be older than the machine's uptime.
fn is_ours(pid: u32, dir: &Path) -> bool {
    let Ok(cmdline) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let config = config_file(dir);
    cmdline.split(|b| *b == 0).any(|arg| arg == config.as_os_str().as_encoded_bytes())
}

fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// No Kubernetes, no plugins that probe for file systems we do not use.
fn config_toml(dir: &Path) -> String {
    let quoted = |path: PathBuf| serde_json::Value::from(path.to_string_lossy()).to_string();
    format!(
        r#"version = 2
root = {root}
state = {state}
oom_score = -500
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.blockfile",
]

[grpc]
  address = {socket}

[debug]
  level = "warn"
"#,
        root = quoted(dir.join("root")),
        state = quoted(dir.join("state")),
        socket = quoted(socket_file(dir)),
    )
}
