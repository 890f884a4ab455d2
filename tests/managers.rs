//! Three managers and two workers: the leader is killed under writes, then all managers are.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use crate::support::{
    Cluster,
    machine::{self, Stalls},
    resolved, run,
    talk::Place,
    text, until,
};

const MANAGERS: [&str; 3] = ["node1", "node2", "node3"];

/// Asks again and again in the background, and keeps what failed.
struct Probe {
    what: String,
    child: Child,
}

impl Probe {
    /// `script` is one attempt; what it prints is told where it fails.
    fn start(place: &Place, what: &str, script: &str) -> Self {
        let body = format!(
            "try() {{ {script}\n}}\nwhile :; do got=$(try 2>&1) && echo ok || echo \"FAIL $(date +%T.%N) $got\" | tr '\\n' ' '; echo; sleep 0.1; done"
        );
        let child = place.bash(&body, &[]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        Self { what: what.to_owned(), child }
    }

    /// Ends it; the number of answers. `stood` is how long the machine stood still meanwhile: what fails then says
    /// nothing.
    fn end(mut self, stood: Duration) -> usize {
        self.child.kill().unwrap();
        let lines: Vec<String> =
            BufReader::new(self.child.stdout.take().unwrap()).lines().map_while(Result::ok).collect();
        self.child.wait().unwrap();
        let failed: Vec<&String> = lines.iter().filter(|l| l.starts_with("FAIL")).collect();
        let good = lines.iter().filter(|l| *l == "ok").count();
        let told = format!("{}: {good} answers, {} missing {failed:#?}", self.what, failed.len());
        assert!(failed.is_empty() || stood >= Duration::from_secs(1), "{told}");
        eprintln!("{told}");
        good
    }
}

fn get(url: &str) -> String {
    format!("curl -sS -m 2 {url} | grep 'HI from'")
}

/// Requests of every kind, from a task and from outside.
fn probes(inside: &Place, outside: &Place, vip: &str, workers: &[String]) -> Vec<Probe> {
    let mut all = vec![
        Probe::start(inside, "DNS", &format!("busybox nslookup web 127.0.0.11 | grep -F {vip}")),
        Probe::start(inside, "VIP", &get(&format!("http://{vip}:3000/cgi-bin/index.cgi"))),
    ];
    for addr in workers {
        all.push(Probe::start(
            outside,
            &format!("ingress at {addr}"),
            &get(&format!("http://{addr}:8080/cgi-bin/index.cgi")),
        ));
    }
    all
}

fn leader(c: &Cluster, by: &str) -> Option<String> {
    let out = c.try_exec(by, &["docker", "node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"]);
    text(&out.stdout).lines().find_map(|l| l.strip_suffix(" Leader").map(str::to_owned))
}

fn services(c: &Cluster, by: &str) -> BTreeSet<String> {
    let out = c.try_exec(by, &["docker", "service", "ls", "--format", "{{.Name}}"]);
    text(&out.stdout).lines().map(str::to_owned).collect()
}

/// Creates services through `by` until `enough`; the acknowledged ones, each with the time it took from the start.
fn create_loop(
    c: &Cluster,
    by: &str,
    prefix: &str,
    mut enough: impl FnMut(&[(String, Duration)]) -> bool,
) -> Vec<(String, Duration)> {
    let start = Instant::now();
    let mut done = Vec::new();
    for i in 0.. {
        let name = format!("{prefix}{i}");
        let args = [
            "docker",
            "service",
            "create",
            "-q",
            "--detach",
            "--name",
            &name,
            "--replicas",
            "0",
            "--no-resolve-image",
            "alpine",
        ];
        let out = c.try_exec(by, &args);
        if out.status.success() {
            done.push((name, start.elapsed()));
        } else {
            eprintln!("refused after {:?}: {}", start.elapsed(), text(&out.stderr).trim());
        }
        assert!(start.elapsed() < Duration::from_secs(15), "only {done:?}");
        if enough(&done) {
            break;
        }
    }
    done
}

#[test]
fn managers_die_and_nothing_stops() {
    let _machine = machine::alone();
    let c = Cluster::bare("mgrs", 5, 3, &[]);
    let images = crate::support::images();
    for node in ["node4", "node5"] {
        for image in ["alpine", "hello"] {
            c.docker(node, &["load", "-q", "-i", images.join(format!("{image}.tar")).to_str().unwrap()]);
        }
    }
    c.docker("node1", &["network", "create", "-d", "overlay", "net"]);
    let create = |args: &[&str]| {
        let common = [
            "service",
            "create",
            "-q",
            "--detach",
            "--no-resolve-image",
            "--network",
            "net",
            "--constraint",
            "node.role==worker",
        ];
        c.docker("node1", &[&common, args].concat());
    };
    create(&["--name", "web", "--replicas", "2", "-p", "8080:3000", "hello"]);
    create(&["--name", "cli", "--mode", "global", "alpine", "sleep", "1h"]);
    let web: BTreeSet<String> = c.wait_running("web", 2).into_iter().map(|t| t.container).collect();
    let cli = c.wait_running("cli", 2).remove(0);
    let vip = until(Duration::from_secs(5), "web's name", || resolved(&c.in_task(&cli, &["nslookup", "web"])).pop());
    let workers = ["node4", "node5"].map(|n| c.addr(n));
    let (inside, outside) = (Place::task(&cli), Place::client(&c));
    until(Duration::from_secs(5), "web by VIP and ports", || {
        let url = |a: &str, p: u16| format!("http://{a}:{p}/cgi-bin/index.cgi");
        let all = inside.get(&url(&vip, 3000)).is_ok() && workers.iter().all(|w| outside.get(&url(w, 8080)).is_ok());
        all.then_some(())
    });

    let stalls = Stalls::watch();
    let probing = probes(&inside, &outside, &vip, &workers);
    let mut acknowledged: BTreeSet<String> = services(&c, "node1");
    let dead = leader(&c, "node1").unwrap();
    let others: Vec<&str> = MANAGERS.into_iter().filter(|m| *m != dead).collect();
    acknowledged.extend(create_loop(&c, others[0], "before", |d| d.len() >= 4).into_iter().map(|(n, _)| n));

    let pid = c.pid(&dead).to_string();
    let (killed, before) = (Instant::now(), stalls.lost());
    // while a request is under way
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(150));
        run(std::process::Command::new("kill").args(["-9", &pid]))
    });
    let mut after_kill = None;
    let made = create_loop(&c, others[0], "during", |d| {
        if after_kill.is_none() && killer.is_finished() {
            after_kill = Some(d.len());
        }
        after_kill.is_some_and(|n| d.len() >= n + 4)
    });
    let gaps: Vec<Duration> = std::iter::once(Duration::from_millis(150))
        .chain(made.iter().map(|(_, t)| *t))
        .collect::<Vec<_>>()
        .windows(2)
        .map(|w| w[1].saturating_sub(w[0]))
        .collect();
    let pause = gaps.iter().max().unwrap();
    let (whole, stood) = (killed.elapsed(), stalls.lost() - before);
    eprintln!("longest time without an accepted write: {pause:?} (whole loop {whole:?}, the machine stood {stood:?})");
    assert!(*pause <= Duration::from_secs(3) + stood, "writes accepted again after {pause:?}");
    acknowledged.extend(made.into_iter().map(|(n, _)| n));
    acknowledged.extend(create_loop(&c, others[1], "other", |d| d.len() >= 2).into_iter().map(|(n, _)| n));

    let new_leader = leader(&c, others[1]).unwrap();
    assert_ne!(new_leader, dead);
    until(Duration::from_secs(5), "a manager tells who leads", || {
        let told = c.d(others[1], "events --since 1h --until 0s --filter type=node");
        told.contains("leader.new=true, leader.old=false").then_some(())
    });
    c.dev(&["start", &dead]);
    let back = Instant::now();
    until(Duration::from_secs(15), "the killed manager to be reachable", || {
        let out = c.try_exec(others[1], &["docker", "node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"]);
        text(&out.stdout).contains(&format!("{dead} Reachable")).then_some(())
    });
    until(Duration::from_secs(5), "everything acknowledged, through the killed manager", || {
        services(&c, &dead).is_superset(&acknowledged).then_some(())
    });
    eprintln!("the killed manager has caught up {:?} after its start", back.elapsed());

    for manager in MANAGERS {
        c.dev(&["kill", manager]);
    }
    std::thread::sleep(Duration::from_secs(8));
    for probe in probing {
        assert!(probe.end(stalls.lost()) > 20);
    }

    for manager in MANAGERS {
        c.dev(&["start", manager]);
    }
    until(Duration::from_secs(15), "all that was acknowledged, after all managers died", || {
        services(&c, "node1").is_superset(&acknowledged).then_some(())
    });
    let now: BTreeSet<String> = c.wait_running("web", 2).into_iter().map(|t| t.container).collect();
    assert_eq!(now, web, "containers outlive all managers");
}
