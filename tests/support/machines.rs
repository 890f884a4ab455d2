//! Machines that a test sets up by itself: a network namespace each, and in it a `malha daemon` with flags of its own.
//!
//! What `malha dev` does for its clusters is done by hand here, as on real machines.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use super::{machine, run, text, until};

const MALHA: &str = env!("CARGO_BIN_EXE_malha");

/// Ends what runs under an instance's cgroup, the shims and the containerd of its directory, and removes its places.
const CLEAN: &str = r#"
    instance=$1 dir=$2
    groups=$(awk '$3 ~ /^cgroup/ { print $2 }' /proc/mounts | sed "s|$|/malha/$instance|")
    for _ in $(seq 100); do
        pids=$(find $groups -name cgroup.procs -exec cat {} + 2>/dev/null) || true
        [ -n "$pids" ] || break
        kill -9 $pids 2>/dev/null; sleep 0.02
    done
    for socket in "$dir"/containerd/containerd.sock; do
        for cmd in /proc/[0-9]*/cmdline; do
            if tr '\0' ' ' <"$cmd" 2>/dev/null | grep -q "^[^ ]*containerd-shim-runc-v2 .*$socket "; then
                pid=${cmd#/proc/}; kill -9 "${pid%/cmdline}" 2>/dev/null
            fi
        done
    done
    if [ -e "$dir/containerd/containerd.pid" ]; then
        pid=$(cat "$dir/containerd/containerd.pid")
        grep -qsz "$dir/containerd/config.toml" "/proc/$pid/cmdline" && kill "$pid"
        for _ in $(seq 200); do grep -qs . "/proc/$pid/cmdline" || break; sleep 0.02; done
    fi
    awk -v dir="$dir/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r -n1 umount -l
    for group in $groups; do
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null
        rmdir "${group%/*}" 2>/dev/null
    done
    rm -rf "/sys/fs/bpf/malha/$instance" "$dir""#;

/// Some machines on one network.
pub(crate) struct Machines {
    name: String,
    daemons: BTreeMap<String, Option<Child>>,
    _share: machine::Share,
}

impl Machines {
    /// One for each address; nothing runs on them.
    pub(crate) fn new(label: &str, machines: &[(&str, &str)]) -> Self {
        let share = machine::share();
        let name = format!("{label}{}", std::process::id());
        let all =
            Self { name, daemons: machines.iter().map(|(m, _)| ((*m).to_owned(), None)).collect(), _share: share };
        let net = all.netns("net");
        sh("ip netns add $1 && ip -n $1 link add br0 type bridge forward_delay 0 && ip -n $1 link set br0 up", &[&net]);
        for (machine, addr) in machines {
            let script = "ip netns add $2 && ip -n $2 link set lo up &&
                ip -n $1 link add $3 type veth peer name eth0 netns $2 && ip -n $1 link set $3 master br0 up &&
                ip -n $2 addr add $4/24 dev eth0 && ip -n $2 link set eth0 up";
            sh(script, &[&net, &all.netns(machine), machine, addr]);
            std::fs::create_dir_all(all.dir(machine)).unwrap();
        }
        all
    }

    pub(crate) fn netns(&self, machine: &str) -> String {
        format!("{}-{machine}", self.name)
    }

    /// The machine's disk.
    pub(crate) fn dir(&self, machine: &str) -> PathBuf {
        std::env::temp_dir().join(&self.name).join(machine)
    }

    fn socket(&self, machine: &str) -> PathBuf {
        self.dir(machine).join("api.sock")
    }

    /// The command that a person would type on the machine.
    pub(crate) fn daemon(&self, machine: &str, flags: &[&str]) -> Command {
        let dir = self.dir(machine);
        let mut command = self.on(machine, MALHA);
        command.args(["daemon", "--hostname", machine, "--instance", &self.netns(machine), "--host"]);
        command.arg(format!("unix://{}", self.socket(machine).display()));
        command.arg("--data-root").arg(&dir).arg("--exec-root").arg(dir.join("run")).args(flags);
        command
    }

    /// Starts it and waits for its API.
    pub(crate) fn start(&mut self, machine: &str, flags: &[&str]) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir(machine).join("log")).unwrap();
        let mut command = self.daemon(machine, flags);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.daemons.insert(machine.to_owned(), Some(child));
        until(Duration::from_secs(30), &format!("{machine} answers"), || {
            let daemon = self.daemons.get_mut(machine).unwrap().as_mut().unwrap();
            assert!(daemon.try_wait().unwrap().is_none(), "{machine} ended: {}", self.log(machine));
            self.docker(machine, &["version"]).status.success().then_some(())
        });
    }

    /// `kill -9`
    pub(crate) fn kill(&mut self, machine: &str) {
        let mut child = self.daemons.get_mut(machine).unwrap().take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends it as a service manager would.
    pub(crate) fn stop(&mut self, machine: &str) -> ExitStatus {
        let mut child = self.daemons.get_mut(machine).unwrap().take().unwrap();
        sh("kill $1", &[&child.id().to_string()]);
        child.wait().unwrap()
    }

    pub(crate) fn log(&self, machine: &str) -> String {
        std::fs::read_to_string(self.dir(machine).join("log")).unwrap_or_default()
    }

    /// A program in the machine's network.
    pub(crate) fn on(&self, machine: &str, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns(machine))).arg(program);
        command
    }

    /// What a command on the machine says, which must succeed.
    pub(crate) fn sh(&self, machine: &str, script: &str) -> String {
        let out = run(self.on(machine, "sh").args(["-c", script]));
        assert!(out.status.success(), "{machine}$ {script}: {}{}", text(&out.stdout), text(&out.stderr));
        text(&out.stdout)
    }

    pub(crate) fn docker(&self, machine: &str, args: &[&str]) -> Output {
        run(self.on(machine, "docker").arg("-H").arg(format!("unix://{}", self.socket(machine).display())).args(args))
    }

    /// A docker command line without quoting, which must succeed.
    pub(crate) fn d(&self, machine: &str, line: &str) -> String {
        let out = self.docker(machine, &line.split_whitespace().collect::<Vec<_>>());
        let said = || format!("{}{}\n{}", text(&out.stdout), text(&out.stderr), self.log(machine));
        assert!(out.status.success(), "{machine}$ docker {line}: {}", said());
        text(&out.stdout)
    }

    /// A docker command line that must be refused with `why` in its message.
    pub(crate) fn no(&self, machine: &str, line: &str, why: &str) {
        let out = self.docker(machine, &line.split_whitespace().collect::<Vec<_>>());
        let said = text(&out.stderr);
        assert!(
            !out.status.success() && said.contains(why),
            "{machine}$ docker {line}: expected {why:?} in {said:?}{}",
            text(&out.stdout)
        );
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        let names: Vec<String> = self.daemons.keys().cloned().collect();
        for machine in &names {
            if std::thread::panicking() {
                let log = self.log(machine);
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("--- {machine}\n{}", lines[lines.len().saturating_sub(25)..].join("\n"));
            }
            if let Some(mut daemon) = self.daemons.get_mut(machine).and_then(Option::take) {
                let _ = daemon.kill();
                let _ = daemon.wait();
            }
        }
        for machine in names.iter().rev() {
            let dir = self.dir(machine);
            run(Command::new("bash").args(["-c", CLEAN, "clean", &self.netns(machine)]).arg(dir));
        }
        for ns in names.iter().map(String::as_str).chain(["net"]) {
            run(Command::new("ip").args(["netns", "del", &self.netns(ns)]));
        }
        let _ = std::fs::remove_dir(std::env::temp_dir().join(&self.name));
    }
}

fn sh(script: &str, args: &[&str]) {
    let out = run(Command::new("sh").args(["-ec", script, "sh"]).args(args));
    assert!(out.status.success(), "{script}: {}", text(&out.stderr));
}
