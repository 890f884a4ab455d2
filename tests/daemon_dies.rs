//! `kill -9` of a node's daemon under traffic: what runs goes on, and its return doubles and loses nothing.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use crate::support::{
    Cluster, Task, resolved, run,
    talk::{Place, Talk},
    text, until, until_is,
};

const NODE: &str = "node2";
/// The container ends with a code of its own once it is told to.
const ENDS_WHEN_TOLD: &str = "while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 7";

/// Containers of services on a node, by task.
fn containers(c: &Cluster) -> BTreeSet<String> {
    c.docker(NODE, &["ps", "-q", "--no-trunc"]).lines().map(str::to_owned).collect()
}

fn task_on(tasks: Vec<Task>, node: &str) -> Task {
    tasks.into_iter().find(|t| t.node == node).unwrap()
}

fn vip(c: &Cluster, service: &str) -> String {
    let format = "{{range .Endpoint.VirtualIPs}}{{.Addr}} {{end}}";
    let all = c.docker("node1", &["service", "inspect", "-f", format, service]);
    let vip = all.split_whitespace().find(|a| a.starts_with("10.0.1.")).unwrap_or_else(|| panic!("{all}"));
    vip.split('/').next().unwrap().to_owned()
}

/// Links of the node and tasks that hold a sandbox.
fn holdings(c: &Cluster) -> (usize, Vec<String>) {
    let links = text(&run(std::process::Command::new("ip").args(["-n", &c.netns(NODE), "-o", "link"])).stdout);
    (links.lines().count(), c.sandboxes(NODE))
}

/// A sandbox in which no container stands, as one that was killed halfway leaves it.
fn stray_sandbox(c: &Cluster) -> String {
    let id = "strayofnobody";
    let path = format!("/run/malha/dev/{}/{NODE}/netns/{id}", c.name);
    std::fs::write(&path, "").unwrap();
    let made = run(std::process::Command::new("unshare").args([&format!("--net={path}"), "true"]));
    assert!(made.status.success(), "{}", text(&made.stderr));
    id.to_owned()
}

#[test]
fn a_daemon_dies_and_returns() {
    let c = Cluster::up("dies", 3, 1);
    c.docker("node1", &["network", "create", "-d", "overlay", "net"]);
    let create = |args: &[&str]| {
        c.docker("node1", &[&["service", "create", "-q", "--detach", "--network", "net"], args].concat());
    };
    create(&["--name", "web", "--mode", "global", "-p", "8080:3000", "hello"]);
    create(&["--name", "cli", "--mode", "global", "alpine", "sleep", "1h"]);
    create(&[
        "--name",
        "echo",
        "--constraint",
        "node.hostname==node3",
        "-p",
        "7000:7000",
        "alpine",
        "nc",
        "-ll",
        "-p",
        "7000",
        "-e",
        "cat",
    ]);
    create(&[
        "--name",
        "ends",
        "--constraint",
        "node.hostname==node2",
        "--restart-delay",
        "500ms",
        "alpine",
        "sh",
        "-c",
        ENDS_WHEN_TOLD,
    ]);
    c.wait_running("echo", 1);
    let ends = c.wait_running("ends", 1).remove(0);
    let web = c.wait_running("web", 3);
    let cli = task_on(c.wait_running("cli", 3), NODE);
    let (web_vip, echo_vip) = (vip(&c, "web"), vip(&c, "echo"));
    let (inside, outside) = (Place::task(&cli), Place::client(&c));
    let node_addr = c.addr(NODE);
    let published = format!("http://{node_addr}:8080/cgi-bin/index.cgi");
    let virtual_ip = format!("http://{web_vip}:3000/cgi-bin/index.cgi");

    for (place, addr) in [(&inside, &echo_vip), (&outside, &node_addr)] {
        until(Duration::from_secs(5), &format!("the echo by {addr}"), || place.connects(addr, 7000).then_some(()));
    }
    let mut by_vip = Talk::open(&inside, &echo_vip, 7000);
    let mut by_ingress = Talk::open(&outside, &node_addr, 7000);
    until(Duration::from_secs(5), "web by VIP and port", || {
        (inside.get(&virtual_ip).is_ok() && outside.get(&published).is_ok()).then_some(())
    });
    let before = (containers(&c), holdings(&c));
    let web_before: BTreeSet<String> = web.iter().map(|t| t.id.clone()).collect();

    c.dev(&["kill", NODE]);
    let died = Instant::now();
    let mut served = BTreeSet::new();
    for round in 0..12 {
        let line = format!("round {round}");
        assert!(by_vip.answers(&line), "the connection through the VIP broke in round {round}");
        assert!(by_ingress.answers(&line), "the connection through the published port broke in round {round}");
        served.insert(
            inside.get(&virtual_ip).unwrap_or_else(|e| panic!("new connection to the VIP, round {round}: {e}")),
        );
        outside.get(&published).unwrap_or_else(|e| panic!("new connection to the published port, round {round}: {e}"));
    }
    assert!(served.len() >= 3, "new connections still reach all tasks: {served:?}");
    let ends_pid = ends.info["State"]["Pid"].as_i64().unwrap();
    std::fs::write(format!("/proc/{ends_pid}/root/tmp/go"), "").unwrap();
    until(Duration::from_secs(3), "the end of a container", || {
        (!Path::new(&format!("/proc/{ends_pid}")).exists()).then_some(())
    });
    let stray = stray_sandbox(&c);
    eprintln!("away for {:?}", died.elapsed());

    let start = Instant::now();
    c.dev(&["start", NODE]);
    eprintln!("the API answers again after {:?}", start.elapsed());
    until(Duration::from_secs(5), "names again", || {
        let found = resolved(&c.in_task(&cli, &["nslookup", "web"]));
        (found == [web_vip.clone()]).then_some(())
    });
    eprintln!("names answer again after {:?}", start.elapsed());
    assert!(by_vip.answers("back") && by_ingress.answers("back"), "connections outlive the return");
    let out = c.in_task(&cli, &["sh", "-c", "echo in; exit 3"]);
    assert_eq!((text(&out.stdout).as_str(), out.status.code()), ("in\n", Some(3)), "exec: {}", text(&out.stderr));

    let history = until(Duration::from_secs(10), "the end that nobody saw, and another start", || {
        let format = "{{.ID}} {{.CurrentState}} {{.Error}}";
        let list = c.docker("node1", &["service", "ps", "ends", "--no-trunc", "--format", format]);
        let reported = list.lines().any(|l| l.starts_with(&ends.id) && l.contains("Failed") && l.contains("(7)"));
        let again = list.lines().any(|l| !l.starts_with(&ends.id) && l.contains("Running"));
        (reported && again).then_some(list)
    });
    assert_eq!(history.lines().count(), 2, "started again once: {history}");

    let web_after: BTreeSet<String> = c.wait_running("web", 3).into_iter().map(|t| t.id).collect();
    assert_eq!(web_after, web_before, "no task was replaced");
    let mut expected = before.0.clone();
    expected.remove(&ends.container);
    let (now, ends_again) = (containers(&c), c.wait_running("ends", 1).remove(0));
    expected.insert(ends_again.container.clone());
    assert_eq!(now, expected, "the same containers as before");
    let (links, mut sandboxes) = before.1;
    sandboxes.retain(|s| *s != ends.id);
    sandboxes.push(ends_again.id);
    sandboxes.sort();
    until(Duration::from_secs(5), "the sandbox without a container removed", || {
        (!c.sandboxes(NODE).contains(&stray)).then_some(())
    });
    until_is(Duration::from_secs(10), "links and sandboxes as before", &(links, sandboxes), || holdings(&c));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", c.pid(NODE))).unwrap();
    let files: Vec<&str> =
        limits.lines().find(|l| l.starts_with("Max open files")).unwrap().split_whitespace().collect();
    assert_eq!(files[3], files[4], "soft limit of open files raised to the hard one");
    // ingress: gateway, balancer, 2 VIPs, 4 tasks; net: gateway, balancer, 4 VIPs, 8 tasks
    until_is(Duration::from_secs(10), "endpoints, none twice and none too many", &(22, 22), || {
        let endpoints = c.inspect(NODE, "endpoints")["maps"].clone();
        let rows: Vec<String> = endpoints[0]["rows"].as_array().unwrap().iter().map(|r| r[0].to_string()).collect();
        let distinct: BTreeSet<&String> = rows.iter().collect();
        (rows.len(), distinct.len())
    });
}

/// The resolver finds no TCP port in a container: that keeps it from names for now, and not from its network.
#[test]
fn what_cannot_be_taken_over_keeps_its_network() {
    let c = Cluster::up("retry", 2, 1);
    c.docker("node1", &["network", "create", "-d", "overlay", "net"]);
    let cli = ["--name", "cli", "--mode", "global", "--network", "net", "alpine", "sleep", "1h"];
    c.docker("node1", &[&["service", "create", "-q", "--detach"], &cli[..]].concat());
    let all = c.wait_running("cli", 2);
    let (other, cli) = (all.iter().find(|t| t.node != NODE).unwrap().addr("net"), task_on(all, NODE));
    let inside = Place::task(&cli);
    let other_answers = || inside.run("ping -c 1 -W 2 $1", &[&other]).status.success();
    until(Duration::from_secs(5), "the other container", || other_answers().then_some(()));
    let before = holdings(&c);

    c.dev(&["kill", NODE]);
    let range = |ports: &str| {
        let out = inside.run("echo $1 >/proc/sys/net/ipv4/ip_local_port_range", &[ports]);
        assert!(out.status.success(), "{}", text(&out.stderr));
    };
    range("65053 65053");
    let mut holder = inside.bash("exec busybox nc -ll -p 65053 -e cat", &[]).spawn().unwrap();
    until(Duration::from_secs(10), "the port is taken", || {
        (!inside.run("exec ss -Htln sport = :65053", &[]).stdout.is_empty()).then_some(())
    });
    c.dev(&["start", NODE]);
    until(Duration::from_secs(10), "the attempt", || c.log(NODE).contains("cannot take over").then_some(()));
    assert!(other_answers(), "the container is cut off");
    assert_eq!(holdings(&c), before);

    holder.kill().unwrap();
    holder.wait().unwrap();
    range("32768 60999");
    c.docker("node1", &["service", "create", "-q", "--detach", "--name", "late", "--network", "net", "hello"]);
    until(Duration::from_secs(10), "names again", || {
        (resolved(&c.in_task(&cli, &["nslookup", "late"])).len() == 1).then_some(())
    });
    assert!(other_answers());
}

#[test]
fn stand_alone_containers_are_taken_over_and_outlive_the_membership() {
    let c = Cluster::up("alone", 2, 1);
    c.docker("node1", &["network", "create", "-d", "overlay", "--attachable", "net"]);
    let start = |args: &[&str]| c.docker(NODE, &[&["run", "-d"], args].concat()).trim().to_owned();
    let attached = start(&["--name", "attached", "--network", "net", "alpine", "sleep", "1h"]);
    let ends = start(&["--name", "ends", "--network", "net", "alpine", "sh", "-c", ENDS_WHEN_TOLD]);
    let server = start(&["--name", "server", "-p", "9090:3000", "hello"]);
    let names = || resolved(&c.try_exec(NODE, &["docker", "exec", "attached", "nslookup", "attached"]));
    let addr = until(Duration::from_secs(5), "its own name", || Some(names()).filter(|a| a.len() == 1));
    let (outside, url) = (Place::client(&c), format!("http://{}:9090/cgi-bin/index.cgi", c.addr(NODE)));
    until(Duration::from_secs(10), "the server", || outside.get(&url).ok());
    let pid = c.docker(NODE, &["inspect", "-f", "{{.State.Pid}}", &ends]);

    c.dev(&["kill", NODE]);
    outside.get(&url).unwrap();
    std::fs::write(format!("/proc/{}/root/tmp/go", pid.trim()), "").unwrap();
    until(Duration::from_secs(3), "the end of a container", || {
        (!Path::new(&format!("/proc/{}", pid.trim())).exists()).then_some(())
    });
    c.dev(&["start", NODE]);
    until(Duration::from_secs(5), "the same names again", || (names() == addr).then_some(()));
    let code = c.docker(NODE, &["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", &ends]);
    assert_eq!(code.trim(), "exited 7");
    let mut standing = vec![attached.clone(), server.clone()];
    standing.sort();
    until_is(Duration::from_secs(10), "the sandboxes of what runs, and no other", &standing, || c.sandboxes(NODE));
    outside.get(&url).unwrap();

    // What is still to be given back when the daemon dies is given back by the next one.
    c.docker("node1", &["network", "create", "-d", "overlay", "--attachable", "held"]);
    start(&["--name", "gone", "--network", "held", "alpine", "sleep", "1h"]);
    c.dev(&["kill", "node1"]);
    c.docker(NODE, &["rm", "-f", "gone"]);
    c.dev(&["kill", NODE]);
    c.dev(&["start", "node1"]);
    c.dev(&["start", NODE]);
    until(Duration::from_secs(40), "the network is free", || {
        c.try_exec("node1", &["docker", "network", "rm", "held"]).status.success().then_some(())
    });
    outside.get(&url).unwrap();

    c.docker(NODE, &["rm", "-f", "attached"]);
    assert_eq!(c.sandboxes(NODE), [server.as_str()]);
    let left = start(&["--name", "left", "--network", "net", "alpine", "sleep", "1h"]);
    let networks =
        || c.docker(NODE, &["inspect", "-f", "{{json .NetworkSettings.Networks}}", "left"]).trim().to_owned();
    assert!(networks().contains("10.0."), "{}", networks());
    c.docker(NODE, &["swarm", "leave"]);
    outside.get(&url).expect("a container that has nothing to do with the swarm serves on");
    assert_eq!(c.sandboxes(NODE), [server.as_str()]);
    // One that was attached runs on without its network, and is not shown with it.
    let without = || {
        assert_eq!(networks(), "{}");
        assert_eq!(c.docker(NODE, &["inspect", "-f", "{{.State.Status}}", &left]).trim(), "running");
    };
    without();
    let log = std::fs::read_to_string(format!("/var/lib/malha/dev/{}/{NODE}.log", c.name)).unwrap();
    assert!(log.contains("run on without a network"), "{log}");
    c.docker(NODE, &["rm", "-f", "server"]);
    assert_eq!(c.sandboxes(NODE), Vec::<String>::new());

    // Outside a swarm: what ends while no daemon looks leaves its port to others, and what runs is left alone.
    let stays = start(&["--name", "stays", "-p", "9092:3000", "hello"]);
    let ends = start(&["-p", "9091:3000", "alpine", "sh", "-c", ENDS_WHEN_TOLD]);
    let pid = c.docker(NODE, &["inspect", "-f", "{{.State.Pid}}", &ends]);
    c.dev(&["kill", NODE]);
    std::fs::write(format!("/proc/{}/root/tmp/go", pid.trim()), "").unwrap();
    until(Duration::from_secs(3), "the end of a container", || {
        (!Path::new(&format!("/proc/{}", pid.trim())).exists()).then_some(())
    });
    c.dev(&["start", NODE]);
    until_is(Duration::from_secs(10), "the sandbox of what runs, and no other", &vec![stays], || c.sandboxes(NODE));
    start(&["-p", "9091:3000", "hello"]);
    until(Duration::from_secs(5), "it is still without", || (networks() == "{}").then_some(()));
    without();
    outside.get(&format!("http://{}:9092/cgi-bin/index.cgi", c.addr(NODE))).unwrap();
}
