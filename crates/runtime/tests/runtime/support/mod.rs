//! A containerd and a runtime of a test's own, and the images that it runs.
//!
//! Whatever a test does, also when it fails, everything is taken away again; what is left after that fails the test.

pub(crate) mod image;

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use malha_runtime::*;

pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// In a script: goes on once [`go`] says so.
pub(crate) const UNTIL_GO: &str = "while [ ! -e /go ]; do sleep 0.05; done";

/// To the first process of a container.
pub(crate) fn go(pid: u32) {
    std::fs::write(format!("/proc/{pid}/root/go"), "").unwrap();
}

pub(crate) struct Node {
    pub(crate) dir: PathBuf,
    pub(crate) containerd: PrivateContainerd,
    pub(crate) runtime: Runtime,
    pub(crate) config: RuntimeConfig,
}

/// Runs `test` on a fresh node that has the image `busybox:latest`.
pub(crate) async fn with_node<F, Fut>(test: F)
where
    F: FnOnce(Node) -> Fut,
    Fut: Future<Output = ()>,
{
    let holder = tempfile::Builder::new().prefix("malha-rt-").tempdir_in("/tmp").unwrap();
    let dir = holder.path().canonicalize().unwrap();
    let containerd = PrivateContainerd::find_or_start(&dir.join("ctrd")).await.unwrap();
    let tag = dir.file_name().unwrap().to_string_lossy().to_lowercase();
    let mut config =
        RuntimeConfig::new(containerd.socket(), tag.clone(), dir.join("state"), format!("/malha-test/{tag}"));
    config.log_writer = Some(env!("CARGO_BIN_EXE_malha-test-logger").into());
    let runtime = Runtime::open(config.clone()).await.unwrap();
    let node = Node { dir: dir.clone(), containerd, runtime, config: config.clone() };
    let archive = image::docker_archive(&["busybox:latest"], &image::busybox());
    node.runtime.image_load(std::io::Cursor::new(archive), None).await.unwrap();

    let result = AssertUnwindSafe(test(node)).catch_unwind().await;
    let leftovers = clean_up(&dir, &config).await;
    match result {
        Err(panic) => std::panic::resume_unwind(panic),
        Ok(()) => assert!(leftovers.is_empty(), "left behind: {leftovers:?}"),
    }
}

/// A fresh runtime takes everything away, then containerd goes. Returns what is still there.
async fn clean_up(dir: &Path, config: &RuntimeConfig) -> Vec<String> {
    let mut leftovers = Vec::new();
    let containerd = PrivateContainerd::find_or_start(&dir.join("ctrd")).await.unwrap();
    match Runtime::open(config.clone()).await {
        Ok(runtime) => {
            if let Err(e) = runtime.destroy_everything().await {
                leftovers.push(format!("destroy_everything: {e}"));
            }
        }
        Err(e) => leftovers.push(format!("open: {e}")),
    }
    containerd.stop().await.unwrap();
    let needle = dir.to_string_lossy().into_owned();
    // Shims and log writers take a moment to end.
    for _ in 0..100 {
        if processes(&needle, &config.namespace).is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (pid, line) in processes(&needle, &config.namespace) {
        leftovers.push(format!("process {pid}: {line}"));
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mut points: Vec<&str> =
        mounts.lines().filter_map(|l| l.split(' ').nth(1)).filter(|p| p.starts_with(&needle)).collect();
    points.reverse();
    for point in points {
        leftovers.push(format!("mount {point}"));
        let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
    }
    for root in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let group = root.path().join(config.cgroup_parent.trim_start_matches('/'));
        if group.exists() {
            leftovers.push(format!("cgroup {}", group.display()));
            end_cgroup(&group).await;
        }
        // The parent of all tests goes with the last of them.
        let _ = std::fs::remove_dir(root.path().join("malha-test"));
    }
    leftovers
}

/// Ends what runs in a cgroup and below, then removes it.
async fn end_cgroup(group: &Path) {
    let below: Vec<PathBuf> =
        std::fs::read_dir(group).unwrap().flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    for dir in below.iter().chain([&group.to_owned()]) {
        let procs = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines().filter_map(|l| l.parse().ok()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let _ = std::fs::remove_dir(dir);
    }
}

fn processes(needle: &str, namespace: &str) -> Vec<(i32, String)> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid == own || pid.parse::<i32>().is_err() {
            continue;
        }
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(needle) || (line.contains("shim") && line.contains(namespace)) {
            found.push((pid.parse().unwrap(), line));
        }
    }
    found
}

impl Node {
    /// Lets go of the runtime without any farewell, as a daemon does that is killed, and opens it anew.
    pub(crate) async fn reopen(self) -> Self {
        let Self { dir, containerd, runtime, config } = self;
        drop(runtime);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let runtime = Runtime::open(config.clone()).await.unwrap();
        Self { dir, containerd, runtime, config }
    }

    /// Options that run a shell script.
    pub(crate) fn script(&self, script: &str) -> CreateOptions {
        CreateOptions {
            image: "busybox".into(),
            cmd: Some(vec!["sh".into(), "-c".into(), script.into()]),
            ..CreateOptions::default()
        }
    }

    pub(crate) async fn started(&self, options: CreateOptions) -> String {
        let id = self.runtime.create(options).await.unwrap().id;
        self.runtime.start(&id).await.unwrap();
        id
    }

    /// Runs a script to its end: code, stdout, stderr.
    pub(crate) async fn run(&self, options: CreateOptions) -> (i32, String, String) {
        let id = self.started(options).await;
        let code = self.exit_of(&id).await;
        let out = self.log_text(&id, true, false).await;
        let err = self.log_text(&id, false, true).await;
        self.runtime.remove(&id, false, true).await.unwrap();
        (code, out, err)
    }

    pub(crate) async fn exit_of(&self, id: &str) -> i32 {
        let handle = self.runtime.wait(id, WaitCondition::NotRunning).unwrap();
        tokio::time::timeout(WAIT, handle.wait()).await.unwrap().unwrap().exit_code
    }

    /// Waits until this is in the log.
    pub(crate) async fn until_logged(&self, id: &str, text: &str) {
        let logged = async {
            while !self.log_text(id, true, true).await.contains(text) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(WAIT, logged).await.is_ok(), "never logged: {text:?}");
    }

    pub(crate) async fn log_text(&self, id: &str, stdout: bool, stderr: bool) -> String {
        let options = LogOptions { stdout, stderr, ..LogOptions::default() };
        let lines: Vec<LogLine> = self.runtime.logs(id, options).await.unwrap().map(|l| l.unwrap()).collect().await;
        lines.iter().map(|l| String::from_utf8_lossy(&l.bytes).into_owned()).collect()
    }

    /// Runs an exec to its end: code, stdout, stderr.
    pub(crate) async fn exec(&self, id: &str, options: ExecOptions) -> (i32, String, String) {
        let options = ExecOptions { attach_stdout: true, attach_stderr: true, ..options };
        let exec = self.runtime.exec_create(id, options).await.unwrap();
        let attached = self.runtime.exec_start(&exec, false, None).await.unwrap().unwrap();
        let (out, err) = collect(attached.output).await;
        let code = tokio::time::timeout(WAIT, self.runtime.exec_wait(&exec)).await.unwrap().unwrap();
        (code, out, err)
    }

    pub(crate) async fn exec_sh(&self, id: &str, script: &str) -> (i32, String, String) {
        self.exec(id, ExecOptions { cmd: vec!["sh".into(), "-c".into(), script.into()], ..ExecOptions::default() })
            .await
    }
}

/// Everything until the end: stdout, stderr.
pub(crate) async fn collect(mut stream: OutputStream) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let all = async {
        while let Some(chunk) = stream.next().await {
            match chunk.stream {
                StdStream::Stdout => out.extend_from_slice(&chunk.bytes),
                StdStream::Stderr => err.extend_from_slice(&chunk.bytes),
            }
        }
    };
    tokio::time::timeout(WAIT, all).await.expect("the output does not end");
    (String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned())
}

/// Reads until `text` has been seen.
pub(crate) async fn read_until(stream: &mut OutputStream, text: &str) -> String {
    let mut seen = String::new();
    let reading = async {
        while let Some(chunk) = stream.next().await {
            seen.push_str(&String::from_utf8_lossy(&chunk.bytes));
            if seen.contains(text) {
                return;
            }
        }
    };
    let done = tokio::time::timeout(WAIT, reading).await;
    assert!(done.is_ok() && seen.contains(text), "wanted {text:?}, saw {seen:?}");
    seen
}

/// Waits until `check` holds.
pub(crate) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + WAIT;
    while !check() {
        assert!(std::time::Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
