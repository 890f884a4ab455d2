//! How soon a deployment runs and is known by name everywhere, and how soon a dead task is forgotten.
//!
//! All nodes share the machine's clock, so the moments that watchers in their containers print can be compared.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::{
    cluster::{Background, Cluster, IMAGE, NODES, until},
    report::{Floor, Report, millis},
};

const NETWORK: &str = "speed-net";
const RESOLVER: &str = "127.0.0.11:53";
const LIMIT: Duration = Duration::from_secs(60);
const TRIES: usize = 5;
const REPLICAS: &str = "10";

pub(crate) fn run(c: &Cluster, report: &mut Report) {
    c.docker("node1", &["network", "create", "-d", "overlay", NETWORK]);
    let watch = ["service", "create", "-q", "-d", "--name", "watch", "--mode", "global", "--network", NETWORK];
    c.docker("node1", &[&watch[..], &[IMAGE]].concat());
    until(LIMIT, "watchers", || (c.tasks("watch").len() == NODES.len()).then_some(()));
    let watchers: Vec<(&str, String)> = NODES.iter().map(|n| (*n, c.container(n, "watch"))).collect();

    let (mut running, mut named, mut lag) = (Vec::new(), Vec::new(), Vec::new());
    let mut gone = Vec::new();
    for attempt in 0..TRIES {
        let waiting = watch_names(c, &watchers);
        let began = now();
        let create = ["service", "create", "-q", "-d", "--name", "fast", "--replicas", REPLICAS, "--network", NETWORK];
        c.docker("node1", &[&create[..], &[IMAGE]].concat());
        let complete = waiting.into_iter().map(moment).fold(0.0, f64::max);
        until(LIMIT, "ten running", || (c.tasks("fast").len() == 10).then_some(()));
        let last = last_running(c);
        running.push(last - began);
        named.push(complete - began);
        lag.push((complete - last).max(0.0));
        gone.push(kill_one(c, &watchers, attempt));
        c.docker("node1", &["service", "rm", "fast"]);
        until(LIMIT, "its containers gone", || {
            let left = |n: &&str| !c.docker(n, &["ps", "-aq", "--filter", "name=fast."]).trim().is_empty();
            (!NODES.iter().any(left)).then_some(())
        });
    }
    report.section("From `service create --replicas 10`");
    report.figure("until all run", &running, millis, Floor::None);
    report.figure("until named on all nodes", &named, millis, Floor::None);
    report.figure("names complete after the last task runs", &lag, millis, Floor::AtMost(200.0));
    report.section("From the kill of a task");
    report.figure("its address gone from another node's DNS", &gone, millis, Floor::AtMost(100.0));
}

fn watch_names(c: &Cluster, watchers: &[(&str, String)]) -> Vec<Background> {
    let names = ["named", RESOLVER, "tasks.fast", REPLICAS];
    let all = watchers.iter().map(|(node, id)| Background::start(&mut c.inside((node, id), &names))).collect();
    std::thread::sleep(Duration::from_millis(500));
    all
}

/// When the last of the tasks began to run, as its node says.
fn last_running(c: &Cluster) -> f64 {
    let ids: Vec<String> = c.tasks("fast").into_iter().map(|(id, _)| id).collect();
    let mut args = vec!["inspect", "--type", "task"];
    args.extend(ids.iter().map(String::as_str));
    let tasks: Value = serde_json::from_str(&c.docker("node1", &args)).unwrap();
    let times = tasks.as_array().unwrap().iter().map(|t| t["Status"]["Timestamp"].as_str().unwrap());
    times.map(parse_time).fold(0.0, f64::max)
}

/// Milliseconds since the epoch of `2026-01-01T00:00:00.123456789Z`; `date` knows the calendar.
fn parse_time(text: &str) -> f64 {
    let nanos = crate::cluster::output(std::process::Command::new("date").args(["-d", text, "+%s%N"]));
    nanos.trim().parse::<f64>().unwrap() / 1e6
}

/// From the request to kill a task on one node until its address is gone for a container on another.
fn kill_one(c: &Cluster, watchers: &[(&str, String)], attempt: usize) -> f64 {
    let (node, watcher) = (NODES[attempt % NODES.len()], &watchers[(attempt + 1) % NODES.len()]);
    let container = c.container(node, "fast");
    let address = c.address(node, &container, NETWORK);
    let gone = ["gone", RESOLVER, "tasks.fast", &address];
    let waiting = Background::start(&mut c.inside((watcher.0, &watcher.1), &gone));
    std::thread::sleep(Duration::from_millis(500));
    // Over the socket at once: the start of a CLI is not what is measured.
    let mut api = UnixStream::connect(c.socket(node)).unwrap();
    let began = now();
    let request = format!("POST /v1.50/containers/{container}/kill HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n");
    api.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    api.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    moment(waiting) - began
}

/// What a watcher prints, in milliseconds since the epoch.
fn moment(watcher: Background) -> f64 {
    let text = watcher.finish(LIMIT).unwrap_or_else(|| panic!("a name did not become complete within {LIMIT:?}"));
    text.trim().parse::<f64>().unwrap_or_else(|e| panic!("a watcher: {e}: {text}")) / 1e6
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() * 1e3
}
