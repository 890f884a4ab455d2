//! The cluster under measurement, and processes that must not outlive it.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::favour::FIRST;

pub(crate) const NODES: [&str; 3] = ["node1", "node2", "node3"];
pub(crate) const IMAGE: &str = "malha-bench";

pub(crate) struct Cluster {
    malha: PathBuf,
    pub(crate) netload: PathBuf,
    name: String,
    status: Value,
}

/// A process that ends with its owner.
pub(crate) struct Background(Child);

impl Cluster {
    pub(crate) fn up(malha: &str, netload: &str, image: &str) -> Self {
        let name = format!("bench{}", std::process::id());
        let mut cluster = Self { malha: malha.into(), netload: netload.into(), name, status: Value::Null };
        output(&mut cluster.dev(&["up", "--nodes", "3", "--managers", "1"]));
        cluster.status = serde_json::from_str(&output(&mut cluster.dev(&["status", "--json"]))).unwrap();
        for node in NODES {
            cluster.docker(node, &["load", "-q", "-i", image]);
        }
        cluster
    }

    fn dev(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.malha);
        command.args(["dev", "--name", &self.name]).args(args);
        command
    }

    pub(crate) fn node(&self, node: &str) -> &Value {
        let nodes = self.status["nodes"].as_array().unwrap();
        nodes.iter().find(|n| n["name"] == node).unwrap_or_else(|| panic!("no {node}"))
    }

    pub(crate) fn addr(&self, node: &str) -> &str {
        self.node(node)["addr"].as_str().unwrap()
    }

    pub(crate) fn socket(&self, node: &str) -> &str {
        self.node(node)["socket"].as_str().unwrap()
    }

    pub(crate) fn client(&self) -> (&str, &str) {
        (self.status["client"]["addr"].as_str().unwrap(), self.status["client"]["netns"].as_str().unwrap())
    }

    pub(crate) fn docker_command(&self, node: &str) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", format!("unix://{}", self.socket(node)));
        command
    }

    pub(crate) fn docker(&self, node: &str, args: &[&str]) -> String {
        output(self.docker_command(node).args(args))
    }

    /// `netload` in a container.
    pub(crate) fn inside(&self, (node, container): (&str, &str), args: &[&str]) -> Command {
        let mut command = self.docker_command(node);
        command.args(["exec", container]).arg("netload").args(args);
        command
    }

    /// `netload` in a network namespace of the machine.
    pub(crate) fn in_netns(&self, netns: &str, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", netns]).args(FIRST).arg(&self.netload).args(args);
        command
    }

    /// `netload` of the machine that stands in a process's cgroups: as a container, but free to enter network namespaces.
    pub(crate) fn beside(&self, pid: &str, args: &[&str]) -> Command {
        let mut command = Command::new("sh");
        let enter = r#"while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit; shift; done; shift; exec "$@""#;
        command.args(["-c", enter, "sh"]).args(cgroups(pid)).arg("--").arg(&self.netload).args(args);
        command
    }

    pub(crate) fn pid(&self, node: &str, container: &str) -> String {
        self.docker(node, &["inspect", container, "--format", "{{.State.Pid}}"]).trim().to_owned()
    }

    pub(crate) fn container(&self, node: &str, service: &str) -> String {
        let filter = format!("name={service}.");
        let found = self.docker(node, &["ps", "-q", "--no-trunc", "--filter", &filter]);
        found.lines().next().unwrap_or_else(|| panic!("no task of {service} on {node}")).to_owned()
    }

    pub(crate) fn address(&self, node: &str, container: &str, network: &str) -> String {
        let format = format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}");
        self.docker(node, &["inspect", container, "--format", &format]).trim().to_owned()
    }

    /// Ids of the running tasks, with the node's name of each.
    pub(crate) fn tasks(&self, service: &str) -> Vec<(String, String)> {
        let args = ["service", "ps", service, "--no-trunc", "--filter", "desired-state=running"];
        let format = ["--format", "{{.ID}} {{.Node}} {{.CurrentState}}"];
        let list = output(self.docker_command("node1").args(args).args(format));
        let fields = list.lines().map(|l| l.split(' ').collect::<Vec<_>>());
        fields.filter(|f| f[2] == "Running").map(|f| (f[0].to_owned(), f[1].to_owned())).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let out = self.dev(&["down"]).output();
        if !out.as_ref().is_ok_and(|o| o.status.success()) {
            eprintln!("malha dev down: {out:?}");
        }
    }
}

impl Background {
    pub(crate) fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        Self(child.unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }

    /// What it prints until it ends by itself.
    pub(crate) fn finish(mut self, limit: Duration) -> Option<String> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if self.0.try_wait().unwrap().is_some() {
                return std::io::read_to_string(self.0.stdout.take().unwrap()).ok();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Directories of a process, in each hierarchy that has a group of its own for it.
fn cgroups(pid: &str) -> Vec<PathBuf> {
    let listed = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let fields = listed.lines().map(|l| l.splitn(3, ':').collect::<Vec<_>>());
    let own = fields.filter(|f| f[2] != "/");
    own.map(|f| match f[1] {
        "" if Path::new("/sys/fs/cgroup/cgroup.procs").exists() => format!("/sys/fs/cgroup{}", f[2]),
        "" => format!("/sys/fs/cgroup/unified{}", f[2]),
        controllers => format!("/sys/fs/cgroup/{}{}", controllers.trim_start_matches("name="), f[2]),
    })
    .map(PathBuf::from)
    .collect()
}

/// Standard output of a command that must succeed.
pub(crate) fn output(command: &mut Command) -> String {
    let out = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{command:?}: {}{}", text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

pub(crate) fn until<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
