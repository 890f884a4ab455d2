//! A served API in a directory of its own, and ways to talk to it.

pub(crate) mod cluster;
pub(crate) mod engine;

use std::{
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use malha_api::{Api, bind_unix, serve_unix};
use malha_kit::{CancellationToken, SystemClock};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::Command,
    task::JoinHandle,
    time::timeout,
};

use self::{cluster::FakeCluster, engine::FakeEngine};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One server; gone with its directory when dropped.
pub(crate) struct Host {
    pub(crate) dir: TempDir,
    pub(crate) cluster: Arc<FakeCluster>,
    pub(crate) engine: Arc<FakeEngine>,
    token: CancellationToken,
    served: Option<JoinHandle<()>>,
}

impl Host {
    pub(crate) async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let (cluster, engine) = (Arc::new(FakeCluster::default()), Arc::new(FakeEngine::default()));
        let token = CancellationToken::new();
        let listener = bind_unix(&dir.path().join("docker.sock")).await.unwrap();
        let mut host = Self { dir, cluster, engine, token, served: None };
        host.served = Some(tokio::spawn(serve_unix(listener, host.api(), host.token.clone())));
        host
    }

    /// A host that is a manager already.
    pub(crate) async fn manager() -> Self {
        let host = Self::start().await;
        host.cluster.found();
        host
    }

    pub(crate) fn api(&self) -> Api {
        Api::new(self.cluster.clone(), self.engine.clone(), Arc::new(SystemClock))
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.dir.path())
            .env("DOCKER_HOST", format!("unix://{}/docker.sock", self.dir.path().display()))
            .kill_on_drop(true);
        command
    }

    pub(crate) async fn run(&self, mut command: Command, input: &[u8]) -> Done {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        tokio::spawn(async move {
            let _ = stdin.write_all(&input).await;
        });
        timeout(PATIENCE, child.wait_with_output()).await.expect("the command did not end").unwrap().into()
    }

    /// `docker <args>`; what it printed and how it ended.
    pub(crate) async fn docker(&self, args: &[&str]) -> Done {
        self.docker_with(args, b"").await
    }

    pub(crate) async fn docker_with(&self, args: &[&str], input: &[u8]) -> Done {
        let mut command = self.command("docker");
        command.args(args);
        self.run(command, input).await
    }

    /// `docker <args>` that has to succeed; its output without the last newline.
    pub(crate) async fn ok(&self, args: &[&str]) -> String {
        let done = self.docker(args).await;
        assert_eq!(done.code, 0, "docker {args:?}: {}{}", done.stdout, done.stderr);
        done.stdout.trim_end().to_owned()
    }

    /// Sends bytes as they are and reads until the server closes.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.dir.path().join("docker.sock")).await.unwrap();
        // A server that answers early may not read all.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("no end of the answer").ok();
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub(crate) async fn request(&self, head: &str, body: &str) -> String {
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let length = body.len();
        self.raw(
            format!("{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{kind}Content-Length: {length}\r\n\r\n{body}")
                .as_bytes(),
        )
        .await
    }

    /// Ends the server and waits for it.
    pub(crate) async fn stop(&mut self) {
        self.token.cancel();
        timeout(Duration::from_secs(10), self.served.take().unwrap()).await.expect("the server did not end").unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Done {
    fn from(o: Output) -> Self {
        Self {
            code: o.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&o.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&o.stderr).into_owned(),
        }
    }
}

/// The body of a raw answer.
pub(crate) fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, b)| b)
}
