//! Long-lived and short TCP conversations from a container's or a node's place, that need no daemon.
//!
//! A conversation stands in the container's network namespace and cgroup, so that it takes the container's way through
//! the kernel, and goes on while the node's daemon is dead: `docker exec` could not.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
};

use super::{Cluster, Task, run};

/// Where a conversation starts.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// Network namespace of a node or of `client`.
    Netns(String),
    /// Process in whose network namespace and cgroup to stand.
    Container(i64),
}

impl Place {
    pub(crate) fn client(c: &Cluster) -> Self {
        Self::Netns(c.netns("client"))
    }

    pub(crate) fn task(task: &Task) -> Self {
        Self::Container(task.info["State"]["Pid"].as_i64().unwrap())
    }

    /// `bash -c script args…` there.
    pub(crate) fn bash(&self, script: &str, args: &[&str]) -> Command {
        let mut command;
        match self {
            Self::Netns(name) => {
                command = Command::new("ip");
                command.args(["netns", "exec", name, "bash", "-c", script, "bash"]);
            }
            Self::Container(pid) => {
                let enter = r#"
                    at=$(sed -n 's/^0:://p' "/proc/$1/cgroup")
                    top=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
                    echo $$ > "$top$at/cgroup.procs" && exec nsenter -t "$1" -n bash -c "${@:2}""#;
                command = Command::new("bash");
                command.args(["-c", enter, "bash", &pid.to_string(), script, "bash"]);
            }
        }
        command.args(args);
        command
    }

    pub(crate) fn run(&self, script: &str, args: &[&str]) -> Output {
        run(&mut self.bash(script, args))
    }

    /// Whether a connection comes about. One to an address that leads nowhere yet would be tried for minutes.
    pub(crate) fn connects(&self, addr: &str, port: u16) -> bool {
        let script = r#"exec timeout 3 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$1" "$2""#;
        self.run(script, &[addr, &port.to_string()]).status.success()
    }

    /// One new connection, one HTTP answer.
    pub(crate) fn get(&self, url: &str) -> Result<String, String> {
        let out = self.run("exec curl -sS -m 10 \"$1\"", &[url]);
        let (answer, error) = (super::text(&out.stdout), super::text(&out.stderr));
        if out.status.success() && answer.contains("HI from") { Ok(answer) } else { Err(format!("{answer}{error}")) }
    }
}

/// An established connection to something that echoes lines.
pub(crate) struct Talk {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

const TALK: &str = r#"
    exec 3<>"/dev/tcp/$1/$2" || exit 1
    while read -r line; do
        echo "$line" >&3 || break
        IFS= read -r -t 5 got <&3 || got=LOST
        echo "$got"
    done"#;

impl Talk {
    pub(crate) fn open(place: &Place, addr: &str, port: u16) -> Self {
        let mut child =
            place.bash(TALK, &[addr, &port.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut talk = Self { child, input, output };
        assert!(talk.answers("first"), "no conversation from {place:?} with {addr}:{port}");
        talk
    }

    /// Says a line on the connection; true where it comes back.
    pub(crate) fn answers(&mut self, line: &str) -> bool {
        let mut got = String::new();
        let said = writeln!(self.input, "{line}").and_then(|()| self.output.read_line(&mut got));
        said.is_ok() && got.trim_end() == line
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
