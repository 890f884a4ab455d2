//! Comparisons of links: both sides in one process of the load tool (`netload versus`), which is run anew in each round.
//!
//! Where the two ends of a connection run decides more than what is between them, and the scheduler moves them about. So
//! they are held: once both ends on one processor, which counts all work that a packet costs, and once on two, where the
//! ends wait for each other. Both sides of a comparison stand alike.

use std::{fs, process::Command};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    cluster::output,
    report::{Floor, Report, bits, per_second},
    rounds::{Compared, Round, Rounds},
};

/// Mode of the load tool, its name, how its figure is written.
pub(crate) type Kind = (&'static str, &'static str, fn(f64) -> String);
pub(crate) const THROUGHPUT: Kind = ("stream", "throughput", bits);
pub(crate) const EXCHANGES: Kind = ("rr", "request/response", per_second);
pub(crate) const CONNECTIONS: Kind = ("crr", "new connections", per_second);

pub(crate) struct Versus<'a> {
    pub(crate) title: &'a str,
    /// Targets as the load tool takes them: ours, and what it is held against.
    pub(crate) targets: [&'a str; 2],
    /// Processes of the servers, each once.
    pub(crate) servers: &'a [&'a str],
    /// The load tool where both targets can be reached, with these arguments.
    pub(crate) client: &'a dyn Fn(&[&str]) -> Command,
    pub(crate) kinds: &'a [(Kind, Floor)],
}

impl Versus<'_> {
    pub(crate) fn run(&self, rounds: &Rounds, report: &mut Report) {
        report.section(self.title);
        for ((kind, name, unit), floor) in self.kinds {
            for (placement, client, server) in placements() {
                let _held: Vec<Held> = self.servers.iter().map(|pid| Held::new(pid, server)).collect();
                let (secs, client) = (rounds.secs.to_string(), client.to_string());
                let args = ["versus", kind, self.targets[0], self.targets[1], &secs, &client];
                let lines = (0..rounds.count).flat_map(|_| lines(&mut (self.client)(&args))).collect();
                report.compared(&format!("{name}, {placement}"), &Compared(lines), *unit, *floor);
            }
        }
    }
}

/// Name, processor of the client, processor of the server.
fn placements() -> Vec<(&'static str, usize, usize)> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or_default()).collect();
    let last = cpus[cpus.len() - 1];
    let mut all = vec![("one processor", last, last)];
    if cpus.len() > 1 {
        all.push(("two", last, cpus[cpus.len() - 2]));
    }
    all
}

fn lines(command: &mut Command) -> Vec<Round> {
    let text = output(command);
    let line = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{command:?}: {e}: {line}"));
        let [ours, base, ratio] = ["a", "b", "ratio"].map(|key| value[key].as_f64().unwrap());
        Round { ours, base, ratio }
    };
    text.lines().map(line).collect()
}

/// All threads of a process on one processor, until this ends.
struct Held(Vec<(Pid, CpuSet)>);

impl Held {
    fn new(pid: &str, cpu: usize) -> Self {
        let mut set = CpuSet::new();
        set.set(cpu).unwrap();
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let hold = |name: String| {
            let thread = Pid::from_raw(name.parse().unwrap());
            let before = sched_getaffinity(thread).unwrap();
            sched_setaffinity(thread, &set).unwrap();
            (thread, before)
        };
        Self(threads.map(|entry| hold(entry.unwrap().file_name().into_string().unwrap())).collect())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for (thread, before) in &self.0 {
            // A server that is gone needs nothing back.
            let _ = sched_setaffinity(*thread, before);
        }
    }
}
