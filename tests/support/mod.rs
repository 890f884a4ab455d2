//! A real cluster for one test: `malha dev` nodes, driven by the stock docker CLI.
//!
//! Every test has a cluster of its own name, so several run at once; it is removed when the test ends, however it ends.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use serde_json::Value;

pub(crate) mod machine;
pub(crate) mod machines;
pub(crate) mod talk;

const MALHA: &str = env!("CARGO_BIN_EXE_malha");
const REPO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

pub(crate) struct Cluster {
    pub(crate) name: String,
    /// Left standing for a look when set in the environment: `MALHA_KEEP=1`.
    keep: bool,
    _share: machine::Share,
}

impl Cluster {
    /// `nodes` nodes, the first `managers` of them managers, with the test images loaded everywhere.
    pub(crate) fn up(label: &str, nodes: usize, managers: usize) -> Self {
        let cluster = Self::bare(label, nodes, managers, &[]);
        cluster.load_images(nodes);
        cluster
    }

    pub(crate) fn bare(label: &str, nodes: usize, managers: usize, extra: &[&str]) -> Self {
        let cluster = Self::named(label);
        let (nodes, managers) = (nodes.to_string(), managers.to_string());
        let mut args = vec!["up", "--nodes", &nodes, "--managers", &managers];
        args.extend(extra);
        cluster.dev(&args);
        cluster
    }

    /// Only the name, and what `before` makes under it; `dev up` is the test's own.
    pub(crate) fn prepared(label: &str, before: impl FnOnce(&str)) -> Self {
        let cluster = Self::named(label);
        before(&cluster.name);
        cluster
    }

    fn named(label: &str) -> Self {
        let share = machine::share();
        let name = format!("{label}{}", std::process::id());
        Self { name, keep: std::env::var_os("MALHA_KEEP").is_some(), _share: share }
    }

    pub(crate) fn load_images(&self, nodes: usize) {
        for i in 1..=nodes {
            for image in ["alpine", "hello"] {
                let archive = images().join(format!("{image}.tar"));
                self.docker(&format!("node{i}"), &["load", "-q", "-i", archive.to_str().unwrap()]);
            }
        }
    }

    /// `malha dev …`, which must succeed; returns its standard output.
    pub(crate) fn dev(&self, args: &[&str]) -> String {
        let out = self.try_dev(args);
        assert!(out.status.success(), "malha dev {args:?}: {}{}", text(&out.stderr), self.daemon_logs());
        text(&out.stdout)
    }

    pub(crate) fn try_dev(&self, args: &[&str]) -> Output {
        run(Command::new(MALHA).args(["dev", "--name", &self.name]).args(args))
    }

    /// A command in the place of a node (or `client`), which must succeed.
    pub(crate) fn exec(&self, node: &str, command: &[&str]) -> String {
        let out = self.try_exec(node, command);
        assert!(
            out.status.success(),
            "{node}$ {}: {}{}{}",
            command.join(" "),
            text(&out.stdout),
            text(&out.stderr),
            self.daemon_logs()
        );
        text(&out.stdout)
    }

    pub(crate) fn try_exec(&self, node: &str, command: &[&str]) -> Output {
        let mut args = vec!["exec", node];
        args.extend(command);
        self.try_dev(&args)
    }

    /// A command in the place of a node, for who has to do with it while it runs. It is the process itself: killed, it
    /// leaves nothing behind.
    pub(crate) fn command(&self, node: &str, command: &[&str]) -> Command {
        let mut process = Command::new(MALHA);
        process.args(["dev", "--name", &self.name, "exec", node]).args(command);
        process
    }

    /// Output and errors of a command that reads `input`, however it ends.
    pub(crate) fn exec_input(&self, node: &str, input: &str, command: &[&str]) -> String {
        use std::io::Write as _;
        let mut child = self
            .command(node, command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that reads none of it may be gone by now.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let out = child.wait_with_output().unwrap();
        text(&out.stdout) + &text(&out.stderr)
    }

    pub(crate) fn docker(&self, node: &str, args: &[&str]) -> String {
        let mut command = vec!["docker"];
        command.extend(args);
        self.exec(node, &command)
    }

    /// Runs a docker command that is to be refused; returns what it says.
    pub(crate) fn refused(&self, node: &str, args: &[&str]) -> String {
        let mut command = vec!["docker"];
        command.extend(args);
        let out = self.try_exec(node, &command);
        assert!(!out.status.success(), "{node}$ docker {} was not refused: {}", args.join(" "), text(&out.stdout));
        text(&out.stderr)
    }

    /// A docker command line without quoting, which must succeed.
    pub(crate) fn d(&self, node: &str, line: &str) -> String {
        self.docker(node, &line.split_whitespace().collect::<Vec<_>>())
    }

    /// A docker command line that must be refused with all of `why` in its message.
    pub(crate) fn no(&self, node: &str, line: &str, why: &str) {
        let said = self.refused(node, &line.split_whitespace().collect::<Vec<_>>());
        assert!(said.contains(why), "{node}$ docker {line}: expected {why:?} in {said:?}");
    }

    /// What a shell script in a task says on its standard output.
    pub(crate) fn sh(&self, task: &Task, script: &str) -> String {
        text(&self.in_task(task, &["sh", "-c", script]).stdout)
    }

    /// Standard output and error of a command in a container of `service` on `node`.
    pub(crate) fn in_task(&self, task: &Task, command: &[&str]) -> Output {
        let mut args = vec!["docker", "exec", &task.container];
        args.extend(command);
        self.try_exec(&task.node, &args)
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.dev(&["status", "--json"])).unwrap()
    }

    pub(crate) fn addr(&self, node: &str) -> String {
        self.node_field(node, "addr").as_str().unwrap().to_owned()
    }

    pub(crate) fn socket(&self, node: &str) -> PathBuf {
        self.node_field(node, "socket").as_str().unwrap().into()
    }

    pub(crate) fn pid(&self, node: &str) -> i64 {
        self.node_field(node, "pid").as_i64().unwrap()
    }

    fn node_field(&self, node: &str, field: &str) -> Value {
        let status = self.status();
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().find(|n| n["name"] == node).unwrap_or_else(|| panic!("no {node}"))[field].clone()
    }

    pub(crate) fn client_addr(&self) -> String {
        self.status()["client"]["addr"].as_str().unwrap().to_owned()
    }

    pub(crate) fn netns(&self, node: &str) -> String {
        format!("malha-{}-{node}", self.name)
    }

    /// What the node's kernel holds, as `malha inspect PART --json` shows it.
    pub(crate) fn inspect(&self, node: &str, part: &str) -> Value {
        let instance = self.netns(node);
        let out = run(Command::new(MALHA).args(["inspect", "--json", "--instance", &instance, part]));
        assert!(out.status.success(), "malha inspect {part}: {}", text(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    /// Packets that the node has dropped for `reason`.
    pub(crate) fn dropped(&self, node: &str, reason: &str) -> u64 {
        packets(&self.inspect(node, "drops"), reason).unwrap_or_else(|| panic!("no reason {reason}"))
    }

    /// Sandboxes that stand on a node.
    pub(crate) fn sandboxes(&self, node: &str) -> Vec<String> {
        let dir = format!("/run/malha/dev/{}/{node}/netns", self.name);
        let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{dir}: {e}"));
        let mut all: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }

    /// The running tasks of a service, in slot order.
    pub(crate) fn tasks(&self, service: &str) -> Vec<Task> {
        self.tasks_from("node1", service)
    }

    pub(crate) fn tasks_from(&self, manager: &str, service: &str) -> Vec<Task> {
        let format = "{{.ID}} {{.Name}} {{.Node}} {{.CurrentState}}";
        let args = ["service", "ps", service, "--no-trunc", "--filter", "desired-state=running", "--format", format];
        let list = self.docker(manager, &args);
        let mut tasks: Vec<Task> = list
            .lines()
            .filter_map(|line| {
                let f: Vec<&str> = line.split(' ').collect();
                (f[3] == "Running").then(|| self.task(f[0], f[1], f[2]))
            })
            .collect();
        tasks.sort_by(|a, b| a.name.cmp(&b.name));
        tasks
    }

    fn task(&self, id: &str, name: &str, node: &str) -> Task {
        let full = format!("{name}.{id}");
        let filter = format!("name={full}");
        let container = self.docker(node, &["ps", "-q", "--no-trunc", "--filter", &filter]).trim().to_owned();
        let info = if container.is_empty() {
            Value::Null
        } else {
            let info: Value = serde_json::from_str(&self.docker(node, &["inspect", &container])).unwrap();
            info[0].clone()
        };
        Task { id: id.to_owned(), name: full, node: node.to_owned(), container, info }
    }

    /// Waits until `count` tasks of the service run.
    pub(crate) fn wait_running(&self, service: &str, count: usize) -> Vec<Task> {
        until(Duration::from_secs(60), &format!("{count} running tasks of {service}"), || {
            let tasks = self.tasks(service);
            (tasks.len() == count && tasks.iter().all(|t| !t.container.is_empty())).then_some(tasks)
        })
    }

    /// All that a node's daemon has logged.
    pub(crate) fn log(&self, node: &str) -> String {
        std::fs::read_to_string(format!("/var/lib/malha/dev/{}/{node}.log", self.name)).unwrap()
    }

    /// The last lines of every daemon's log, for the message of a failure.
    pub(crate) fn daemon_logs(&self) -> String {
        let mut out = String::new();
        for i in 1..=9 {
            let path = format!("/var/lib/malha/dev/{}/node{i}.log", self.name);
            let Ok(log) = std::fs::read_to_string(&path) else { continue };
            let lines: Vec<&str> = log.lines().collect();
            let _ = writeln!(out, "\n--- node{i}");
            for line in &lines[lines.len().saturating_sub(25)..] {
                let _ = writeln!(out, "{line}");
            }
        }
        out
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.daemon_logs());
        }
        if self.keep {
            eprintln!("cluster {} is left standing", self.name);
            return;
        }
        let out = self.try_dev(&["down"]);
        if !out.status.success() {
            eprintln!("malha dev down: {}", text(&out.stderr));
            assert!(std::thread::panicking(), "the cluster could not be removed");
        }
    }
}

/// A running task and its container.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) id: String,
    /// `service.slot.id`
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) container: String,
    /// `docker inspect`
    pub(crate) info: Value,
}

impl Task {
    /// Its address on a network.
    pub(crate) fn addr(&self, network: &str) -> String {
        self.info["NetworkSettings"]["Networks"][network]["IPAddress"].as_str().unwrap_or_default().to_owned()
    }
}

/// Archives of the test images, built once per test program.
pub(crate) fn images() -> &'static Path {
    static DIR: OnceLock<tempdir::Dir> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let dir = tempdir::Dir::new();
        let out = run(Command::new("bash").arg(format!("{REPO}/scripts/images.sh")).arg(&dir.0));
        assert!(out.status.success(), "images.sh: {}", text(&out.stderr));
        dir
    });
    &dir.0
}

mod tempdir {
    use std::path::PathBuf;

    pub(crate) struct Dir(pub(crate) PathBuf);

    impl Dir {
        pub(crate) fn new() -> Self {
            // Reused by the next run; a few megabytes that are always the same.
            let path = std::env::temp_dir().join(format!("malha-test-images-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            extern "C" fn clean() {
                let path = std::env::temp_dir().join(format!("malha-test-images-{}", std::process::id()));
                let _ = std::fs::remove_dir_all(path);
            }
            // SAFETY: registers a function without arguments to run at exit; statics are not dropped then.
            #[allow(unsafe_code, reason = "statics are not dropped at exit")]
            unsafe {
                libc::atexit(clean);
            }
            Self(path)
        }
    }
}

/// The packets counted under `reason`, wherever in the dump it is.
fn packets(dump: &Value, reason: &str) -> Option<u64> {
    match dump {
        Value::Object(map) => match map.get(reason) {
            Some(Value::Object(count)) => count.get("packets")?.as_u64(),
            Some(count) if count.is_u64() => count.as_u64(),
            _ => map.values().find_map(|v| packets(v, reason)),
        },
        Value::Array(list) => list.iter().find_map(|v| packets(v, reason)),
        _ => None,
    }
}

/// A single ask may take seconds on a busy machine: nobody gives up before this…
const PATIENCE: Duration = Duration::from_secs(20);
/// …nor after fewer than these. What is to be fast is measured and not left to a limit.
const ASKS: usize = 3;

/// Asks until there is an answer.
pub(crate) fn until<T>(limit: Duration, what: &str, ask: impl FnMut() -> Option<T>) -> T {
    let limit = limit.max(PATIENCE);
    patiently(limit, ask).unwrap_or_else(|| panic!("not within {limit:?}: {what}"))
}

/// Asks until the answer is `wanted`; where it never is, tells the last one.
pub(crate) fn until_is<T: PartialEq + std::fmt::Debug>(
    limit: Duration,
    what: &str,
    wanted: &T,
    mut ask: impl FnMut() -> T,
) {
    let limit = limit.max(PATIENCE);
    let mut last = None;
    patiently(limit, || {
        last = Some(ask());
        (last.as_ref() == Some(wanted)).then_some(())
    });
    assert_eq!(last.as_ref(), Some(wanted), "not within {limit:?}: {what}");
}

fn patiently<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let (start, mut asked) = (Instant::now(), 0);
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        asked += 1;
        if asked >= ASKS && start.elapsed() >= limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

pub(crate) fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Addresses in the answer section of `nslookup`.
pub(crate) fn resolved(output: &Output) -> Vec<String> {
    let text = text(&output.stdout);
    let answer = text.split_once("Name:").map_or("", |(_, rest)| rest);
    let mut found: Vec<String> = answer
        .lines()
        .filter_map(|l| l.trim().strip_prefix("Address"))
        .filter_map(|l| l.split_once(':').map(|(_, a)| a.split_whitespace().next().unwrap_or_default().to_owned()))
        .collect();
    found.sort();
    found
}
