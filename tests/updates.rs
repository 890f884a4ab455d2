//! What becomes of services with the stock CLI: updates that succeed and fail, scaling, the history that they leave, and
//! tasks that are tried again.

use std::time::{Duration, Instant};

use crate::{
    services::CREATE,
    support::{Cluster, Task, text, until},
};

#[test]
fn services_are_updated_and_restarted() {
    let c = Cluster::up("updated", 3, 1);
    updates(&c);
    failing_updates(&c);
    history(&c);
    restarts(&c);
}

fn replicas(c: &Cluster, service: &str) -> String {
    c.d("node1", &format!("service ls --filter name={service} --format {{{{.Replicas}}}}")).trim().to_owned()
}

fn update_state(c: &Cluster, service: &str) -> String {
    c.d("node1", &format!("service inspect --format {{{{.UpdateStatus.State}}}} {service}")).trim().to_owned()
}

/// Runs an update to its end; the fewest tasks that ran at any moment of it, by the times that their nodes reported.
fn update(c: &Cluster, service: &str, line: &str) -> usize {
    let before = c.tasks(service);
    c.d("node1", &format!("service update -d -q {line} {service}"));
    until(Duration::from_secs(30), "the update ends", || (update_state(c, service) == "completed").then_some(()));
    let after = c.tasks(service);
    assert!(after.iter().all(|t| before.iter().all(|b| b.id != t.id)), "every task is new");
    let status = |task: &Task, state: &str| {
        let format = "{{.Status.State}} {{.Status.Timestamp.UnixNano}}";
        // the update may end while tasks that were replaced still have their grace period
        until(Duration::from_secs(20), state, || {
            let said = c.d("node1", &format!("inspect --type task -f {} {}", format.replace(' ', "/"), task.id));
            let (is, at) = said.trim().split_once('/').unwrap();
            (is == state).then(|| at.parse::<u64>().unwrap())
        })
    };
    let ends = before.iter().map(|t| (status(t, "shutdown"), -1));
    let starts = after.iter().map(|t| (status(t, "running"), 1));
    let mut moments: Vec<(u64, i32)> = ends.chain(starts).collect();
    moments.sort_unstable();
    let mut run = i32::try_from(before.len()).unwrap();
    let counts = moments.iter().map(|(_, change)| {
        run += change;
        run
    });
    counts.min().unwrap().try_into().unwrap()
}

fn updates(c: &Cluster) {
    let how = "--update-parallelism 2 --update-delay 2s --update-monitor 300ms --stop-grace-period 1s";
    let said = c.d(
        "node1",
        &format!("service create --no-resolve-image --name up {how} --replicas 4 --env V=1 alpine sleep 1d"),
    );
    assert!(said.contains("overall progress: 4 out of 4 tasks") && said.contains("converged"), "{said}");
    let begin = Instant::now();
    let fewest = update(c, "up", "--env-add V=2");
    assert!(begin.elapsed() > Duration::from_secs(2), "a pause between the two batches");
    assert!((2..4).contains(&fewest), "two at a time: {fewest} of 4 ran");
    let after = c.wait_running("up", 4);
    assert!(c.sh(&after[0], "echo $V").contains('2'));
    let history = c.d("node1", "service ps up");
    assert_eq!(history.matches("Shutdown").count(), 8, "four that are told to be, and are: {history}");

    // Start-first: never fewer than wanted.
    let fewest = update(c, "up", "--update-order start-first --update-delay 0s --env-add V=3");
    assert!(fewest >= 4, "{fewest} of 4 ran");
    // The CLI follows an update to its end.
    let said = c.d("node1", "service update --update-parallelism 0 --update-monitor 1s --env-add V=4 up");
    assert!(said.contains("overall progress: 4 out of 4 tasks") && said.contains("converged"), "{said}");
    let said = c.d("node1", "service scale up=5");
    assert!(said.contains("up scaled to 5") && said.contains("overall progress: 5 out of 5 tasks"), "{said}");
    c.d("node1", "service scale -d up=4");
    c.no("node1", "service scale up=x", "invalid replicas value x");
    // Labels alone replace nothing.
    let ids: Vec<String> = c.wait_running("up", 4).into_iter().map(|t| t.id).collect();
    c.d("node1", "service update -d -q --label-add x=y up");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(c.tasks("up").into_iter().map(|t| t.id).collect::<Vec<_>>(), ids);
    stale_update(c, "up");
    c.d("node1", "service rm up");
}

/// Written by somebody who has not read what it is by now: refused.
fn stale_update(c: &Cluster, service: &str) {
    let said = c.d("node1", &format!("service inspect {service}"));
    let read: serde_json::Value = serde_json::from_str(&said).unwrap();
    let (id, version) = (read[0]["ID"].as_str().unwrap(), read[0]["Version"]["Index"].as_u64().unwrap());
    let socket = c.socket("node1").to_str().unwrap().to_owned();
    let url = format!("http://d/v1.50/services/{id}/update?version={}", version - 1);
    let spec = read[0]["Spec"].to_string();
    let said = c.exec_input("node1", &spec, &["curl", "-sS", "--unix-socket", &socket, "--json", "@-", &url]);
    assert!(said.contains("update out of sequence"), "{said}");
}

/// An update that fails stops where it is, and says so.
fn failing_updates(c: &Cluster) {
    let how = "--update-monitor 2s --restart-condition none --stop-grace-period 1s";
    c.d("node1", &format!("{CREATE} --name fail --replicas 3 {how} alpine sleep 1d"));
    // Never running: where it ran for a moment, the next one may have had its turn before its end is known.
    let out = c.try_exec("node1", &["docker", "service", "update", "--args", "/nosuch", "fail"]);
    let said = text(&out.stdout) + &text(&out.stderr);
    let why = "service update paused: update paused due to failure or early termination of task";
    assert!(!out.status.success() && said.contains(why), "{said}");
    assert_eq!(update_state(c, "fail"), "paused");
    assert_eq!(replicas(c, "fail"), "2/3", "the others run as before");
    let pretty = c.d("node1", "service inspect --pretty fail");
    assert!(pretty.contains("State:\t\tpaused") && pretty.contains("On failure:\tpause"), "{pretty}");
    c.d("node1", "service update -q --args top fail");
    c.wait_running("fail", 3);
    assert_eq!(update_state(c, "fail"), "completed");
    c.d("node1", "service rm fail");
}

fn history(c: &Cluster) {
    let how = "--update-monitor 100ms --stop-grace-period 0s";
    c.d("node1", &format!("{CREATE} --name hist {how} alpine sleep 1d"));
    for limit in [5, 2] {
        c.d("node1", &format!("swarm update --task-history-limit {limit}"));
        for _ in 0..limit {
            c.d("node1", "service update -q --force hist");
        }
        let ps = c.d("node1", "service ps hist --format {{.Name}}/{{.DesiredState}}");
        let lines: Vec<&str> = ps.lines().collect();
        assert_eq!(lines.len(), limit, "{ps}");
        assert!(lines[0] == "hist.1/Running" && lines[1..].iter().all(|l| *l == "hist.1/Shutdown"), "{ps}");
    }
    assert!(c.d("node1", "service ps hist").contains("\\_ hist.1"));
    assert_eq!(c.d("node1", "service ps -q --filter desired-state=running hist").lines().count(), 1);
    assert!(c.d("node1", "node ps --filter name=hist self node2 node3").contains("hist.1"));
    c.d("node1", "service rm hist");
    c.d("node1", "swarm update --task-history-limit 5");
}

fn restarts(c: &Cluster) {
    c.docker(
        "node1",
        &[
            "service",
            "create",
            "-q",
            "-d",
            "--no-resolve-image",
            "--name",
            "crash",
            "--restart-condition",
            "on-failure",
            "--restart-delay",
            "500ms",
            "--restart-max-attempts",
            "2",
            "alpine",
            "sh",
            "-c",
            "exit 3",
        ],
    );
    until(Duration::from_secs(20), "three tries", || {
        (c.d("node1", "service ps crash").matches("task: non-zero exit (3)").count() == 3).then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(c.d("node1", "service ps -q crash").lines().count(), 3, "and no more");
    c.d("node1", &format!("{CREATE} --name once --restart-condition none alpine true"));
    until(Duration::from_secs(10), "it completes", || {
        c.d("node1", "service ps once").contains("Complete").then_some(())
    });
    assert_eq!(c.d("node1", "service ps -q once").lines().count(), 1);
    // What can never start is tried at the policy's pace, not as fast as it fails.
    let begin = Instant::now();
    c.d("node1", &format!("{CREATE} --name bad --restart-delay 2s nosuch.invalid/image"));
    // a refusal takes as long as a name server does
    let (tries, took) = until(Duration::from_secs(60), "three tries that are rejected", || {
        let tries = c.d("node1", "service ps bad").matches("Rejected").count();
        (tries >= 3).then(|| (tries, begin.elapsed()))
    });
    // the next one gets ready, which fails, while the delay before it passes
    let most = 2 + took.as_secs() as usize / 2;
    assert!(tries <= most, "{tries} tries within {took:?} at one in 2 s");
    c.d("node1", "service rm crash once bad");
}
