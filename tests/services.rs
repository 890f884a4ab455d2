//! Services with the stock CLI: what is refused, what their containers get, placement, networks, ports and logs.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::Duration,
};

use serde_json::json;

use crate::support::{Cluster, Task, resolved, text, until, until_is};

/// The CLI itself watches a service for five seconds; `wait_running` is faster.
pub(crate) const CREATE: &str = "service create -d -q --no-resolve-image";

/// Fetches the web page of the test image from a namespace.
fn fetch(c: &Cluster, from: &str, addr: &str, port: u16) -> String {
    let url = format!("http://{addr}:{port}/cgi-bin/index.cgi");
    until(Duration::from_secs(10), &url, || {
        let out = c.try_exec(from, &["curl", "-sS", "-m", "3", &url]);
        out.status.success().then(|| text(&out.stdout))
    })
}

#[test]
fn services_do_what_they_are_told() {
    let c = Cluster::up("svc", 3, 1);
    refusals(&c);
    what_a_container_gets(&c);
    modes_and_placement(&c);
    networks(&c);
    ports(&c);
}

fn refusals(c: &Cluster) {
    c.d("node1", &format!("{CREATE} --name web -p 8080:3000 hello"));
    for (line, why) in [
        ("--name web alpine", "name conflicts with an existing object: service web already exists"),
        ("--name b@d alpine", "name must be valid as a DNS name component"),
        ("--name x -p 8080:80 alpine", "port '8080' is already in use by service 'web'"),
        ("--name x --network nosuch alpine", "network nosuch not found"),
        ("--name x --network ingress alpine", "Service cannot be explicitly attached to the ingress network"),
        (
            "--name x --endpoint-mode dnsrr -p 9000:90 alpine",
            "port published with ingress mode can't be used with dnsrr",
        ),
        ("--name x -p 9000:90 -p 9000:91 alpine", "EndpointSpec: duplicate published ports provided"),
        ("--name x --limit-cpu 0.0001 alpine", "invalid cpu value 0.0001: Must be at least 0.001"),
        ("--name x --limit-memory 1m alpine", "invalid memory value 1048576: Must be at least 4MiB"),
        ("--name x --constraint foo alpine", "constraint expected one operator from ==, !="),
        ("--name x --restart-condition foo alpine", "invalid RestartCondition: \"foo\""),
        ("--name x --health-cmd foo alpine", "a healthcheck of a service is not supported"),
        ("--name x --mode replicated-job alpine", "a job is not supported"),
        ("--name x --init alpine", "an init process (--init) is not supported"),
        ("--name x --hostname {{.Task.Colour}} alpine", "hostname: expanding \"{{.Task.Colour}}\" failed"),
        ("--name x --env A={{if.Node.ID}}b{{end}} alpine", "the template action {{if.Node.ID}} in env"),
        ("--name x --secret foo alpine", "not supported by this version of Malha"),
    ] {
        c.no("node1", &format!("service create -d {line}"), why);
    }
    for (line, why) in [
        ("service ps nosuch", "no such service: nosuch"),
        ("service logs nosuch", "no such task or service: nosuch"),
        ("service inspect nosuch", "no such service: nosuch"),
        ("service rm nosuch", "service nosuch not found"),
        ("service scale nosuch=2", "service nosuch not found"),
        ("service rollback web", "is not supported by this version of Malha"),
        ("service ls --filter foo=bar", "invalid filter 'foo'"),
    ] {
        c.no("node1", line, why);
    }
    c.d("node1", "service rm web");
}

fn cgroup_value(task: &Task, file: &str) -> String {
    let pid = task.info["State"]["Pid"].as_i64().unwrap();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let controller = file.split('.').next().unwrap();
    let found = groups.lines().find_map(|l| {
        let mut f = l.splitn(3, ':').skip(1);
        let (controllers, path) = (f.next()?, f.next()?);
        let base = if controllers.is_empty() {
            Path::new("/sys/fs/cgroup").to_owned()
        } else if controllers.split(',').any(|c| c == controller) {
            Path::new("/sys/fs/cgroup").join(controllers)
        } else {
            return None;
        };
        std::fs::read_to_string(base.join(path.trim_start_matches('/')).join(file)).ok()
    });
    found.unwrap_or_default().trim().to_owned()
}

fn what_a_container_gets(c: &Cluster) {
    c.d("node1", "network create -d overlay back");
    let create: Vec<&str> = [
        "service",
        "create",
        "-d",
        "-q",
        "--no-resolve-image",
        "--name",
        "full",
        "--replicas",
        "2",
        "--network",
        "back",
        "--hostname",
        "{{.Service.Name}}-{{.Task.Slot}}-{{.Node.Hostname}}",
        "--env",
        "WHO={{.Task.Name}}",
        "--env",
        "A=b",
        "--mount",
        "type=volume,src=vol-{{.Task.Slot}},dst=/data",
        "--mount",
        "type=bind,src=/etc/debian_version,dst=/dv,readonly",
        "--mount",
        "type=tmpfs,dst=/t,tmpfs-size=1m",
        "--user",
        "1234:5",
        "--workdir",
        "/tmp",
        "--limit-memory",
        "64m",
        "--limit-cpu",
        "0.5",
        "--limit-pids",
        "50",
        "--ulimit",
        "nofile=100:200",
        "--host",
        "foo:1.2.3.4",
        "--label",
        "sl=1",
        "--container-label",
        "cl=2",
        "--stop-grace-period",
        "1s",
        "--dns-search",
        "exa.mple",
        "--read-only",
        "--cap-add",
        "NET_ADMIN",
        "--cap-drop",
        "CHOWN",
        "--sysctl",
        "kernel.msgmax=9000",
        "--group",
        "77",
        "--stop-signal",
        "SIGINT",
        "--reserve-memory",
        "32m",
        "alpine",
        "sh",
        "-c",
        "echo said by $WHO; sleep 1d",
    ]
    .to_vec();
    c.docker("node1", &create);
    let tasks = c.wait_running("full", 2);
    let task = &tasks[0];
    let script = "hostname; echo $WHO $A; cat /dv; id; pwd; ulimit -Hn; cat /etc/hosts /etc/resolv.conf; df /t; \
                  touch /x 2>&1; mount | grep ' /data '; \
                  cat /proc/sys/kernel/msgmax; grep CapBnd /proc/self/status";
    let said = c.sh(task, script);
    let version = std::fs::read_to_string("/etc/debian_version").unwrap();
    for part in [
        &*format!("full-1-{}", task.node),
        &format!("{} b", task.name),
        &version,
        "uid=1234 gid=5",
        "groups=5,77",
        "/tmp\n200\n",
        "9000\n",
        "CapBnd:\t00000000a80435fa",
        "1.2.3.4\tfoo",
        "search exa.mple",
        "nameserver 127.0.0.11",
        "Read-only file system",
        " /data ",
    ] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    let tmpfs = said.lines().find(|l| l.ends_with("/t")).unwrap_or_default();
    assert_eq!(tmpfs.split_whitespace().nth(1), Some("1024"), "{said}");
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let limits = if v2 {
        [("memory.max", "67108864"), ("cpu.max", "50000 100000"), ("pids.max", "50")]
    } else {
        [("memory.limit_in_bytes", "67108864"), ("cpu.cfs_quota_us", "50000"), ("pids.max", "50")]
    };
    for (file, value) in limits {
        assert_eq!(cgroup_value(task, file), value, "{file}");
    }
    inspected(task);
    assert_eq!(task.info["Config"]["Labels"]["com.docker.swarm.service.name"], "full");
    assert!(c.d(&task.node, "volume ls -q").contains("vol-1"));
    let pretty = c.d("node1", "service inspect --pretty full");
    for part in
        ["Name:\t\tfull", "Replicas:\t2", "sl=1", "CPU:\t\t0.5", "Memory:\t64MiB", "Target:\t/data", "Networks: back"]
    {
        assert!(pretty.contains(part), "{part:?} in {pretty}");
    }

    // Logs of all nodes through the manager.
    let logs = until(Duration::from_secs(10), "the lines of both", || {
        let logs = c.d("node1", "service logs full");
        tasks.iter().all(|t| logs.contains(&format!("said by {}", t.name))).then_some(logs)
    });
    for t in &tasks {
        let line = logs.lines().find(|l| l.ends_with(&format!("said by {}", t.name))).unwrap_or_default();
        assert!(line.contains(&format!("@{}", t.node)), "{logs}");
    }
    assert_eq!(
        c.d("node1", "service logs --raw --tail 1 full").lines().filter(|l| l.starts_with("said by")).count(),
        2
    );
    assert_eq!(c.d("node1", &format!("service logs --raw {}", task.id)).trim(), format!("said by {}", task.name));
    let follower = Follower::start(c, "full");
    let mut first = [follower.line(), follower.line()];
    first.sort();
    assert!(first[0].starts_with("said by full.1.") && first[1].starts_with("said by full.2."), "{first:?}");
    follower.goes_on_in_silence();
    // a task that comes while somebody follows tells its lines too
    c.d("node1", "service scale -d full=3");
    let third = follower.line();
    assert!(third.starts_with("said by full.3."), "{third}");
    follower.goes_on_in_silence();
    drop(follower);
    let said = c.refused("node1", &["service", "logs", "--tail", "some", "full"]);
    assert!(said.contains("tail value must be a positive integer or \"all\""), "{said}");
    c.d("node1", "service rm full");
}

/// `docker service logs -f`, and its lines as they come.
struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    fn start(c: &Cluster, service: &str) -> Self {
        let mut command = c.command("node1", &["docker", "service", "logs", "-f", "--raw", service]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (told, lines) = mpsc::channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| told.send(line)));
        Self { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(30)).unwrap()
    }

    fn goes_on_in_silence(&self) {
        assert_eq!(self.lines.recv_timeout(Duration::from_secs(1)), Err(RecvTimeoutError::Timeout));
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `docker inspect` of the task's container tells what the service asked for.
fn inspected(task: &Task) {
    let (config, host) = (&task.info["Config"], &task.info["HostConfig"]);
    assert_eq!(config["Labels"]["cl"], "2");
    assert_eq!((&config["User"], &config["WorkingDir"]), (&json!("1234:5"), &json!("/tmp")));
    assert_eq!(config["Hostname"], json!(format!("full-1-{}", task.node)));
    for (key, value) in [
        ("Memory", json!(64 << 20)),
        ("MemoryReservation", json!(32 << 20)),
        ("NanoCpus", json!(500_000_000)),
        ("PidsLimit", json!(50)),
        ("CapAdd", json!(["CAP_NET_ADMIN"])),
        ("CapDrop", json!(["CAP_CHOWN"])),
        ("ReadonlyRootfs", json!(true)),
        ("ExtraHosts", json!(["foo:1.2.3.4"])),
        ("DnsSearch", json!(["exa.mple"])),
        ("GroupAdd", json!(["77"])),
        ("Sysctls", json!({"kernel.msgmax": "9000"})),
        ("Ulimits", json!([{"Name": "nofile", "Hard": 200, "Soft": 100}])),
    ] {
        assert_eq!(host[key], value, "{key} in {host}");
    }
    let mounts: Vec<&str> = host["Mounts"].as_array().unwrap().iter().filter_map(|m| m["Source"].as_str()).collect();
    assert_eq!(mounts, ["vol-1", "/etc/debian_version"]);
}

fn modes_and_placement(c: &Cluster) {
    c.d("node1", &format!("{CREATE} --name all --mode global --stop-grace-period 1s alpine sleep 1d"));
    let mut nodes: Vec<String> = c.wait_running("all", 3).into_iter().map(|t| t.node).collect();
    nodes.sort();
    assert_eq!(nodes, ["node1", "node2", "node3"]);
    assert_eq!(c.d("node1", "service ls --filter mode=global --format {{.Mode}}/{{.Replicas}}").trim(), "global/3/3");
    c.d("node1", "node update --label-add disk=fast node3");
    let here = "--constraint node.labels.disk==fast --constraint node.role==worker";
    c.d("node1", &format!("{CREATE} --name con {here} --replicas 2 --stop-grace-period 1s alpine sleep 1d"));
    assert!(c.wait_running("con", 2).iter().all(|t| t.node == "node3"));
    // Spread over what a label says first: the one node that has it gets as many as all others together.
    let spread = "--placement-pref spread=node.labels.disk --replicas 4 --stop-grace-period 1s";
    c.d("node1", &format!("{CREATE} --name pref {spread} alpine sleep 1d"));
    let fast = c.wait_running("pref", 4).iter().filter(|t| t.node == "node3").count();
    assert_eq!(fast, 2, "two of four on the only fast node");
    c.no("node1", "service create -d --placement-pref spread=node.role alpine", "invalid spread descriptor");
    c.d("node1", &format!("{CREATE} --name nowhere --constraint node.role==nope alpine"));
    until(Duration::from_secs(10), "says why it does not run", || {
        let ps = c.d("node1", "service ps --no-trunc nowhere");
        ps.contains("no suitable node (scheduling constraints not satisfied on 3 nodes)").then_some(())
    });
    // A drained node is left; spread brings the tasks to others.
    c.d("node1", &format!("{CREATE} --name spread --replicas 3 --stop-grace-period 1s alpine sleep 1d"));
    let mut on: Vec<String> = c.wait_running("spread", 3).into_iter().map(|t| t.node).collect();
    on.sort();
    assert_eq!(on, ["node1", "node2", "node3"]);
    c.d("node1", "node update --availability drain node2");
    until(Duration::from_secs(20), "nothing runs on the drained node", || {
        let tasks = c.tasks("spread");
        (tasks.len() == 3 && tasks.iter().all(|t| t.node != "node2")).then_some(())
    });
    c.d("node1", "node update --availability active node2");
    c.d("node1", "service scale -d spread=1");
    c.wait_running("spread", 1);
    c.d("node1", "service rm all con pref nowhere spread");
    assert_eq!(c.d("node1", "service ls -q"), "");
}

fn networks(c: &Cluster) {
    let sleep = "--stop-grace-period 1s alpine sleep 1d";
    // One virtual address under every name, or every task's own.
    c.d("node1", &format!("{CREATE} --name vip --network name=back,alias=other --replicas 2 {sleep}"));
    c.d("node1", &format!("{CREATE} --name rr --network back --endpoint-mode dnsrr --replicas 2 {sleep}"));
    let (vip, rr) = (c.wait_running("vip", 2), c.wait_running("rr", 2));
    let asked = |name: &str| resolved(&c.in_task(&vip[0], &["nslookup", name]));
    let virtual_ip =
        c.docker("node1", &["service", "inspect", "--format", "{{(index .Endpoint.VirtualIPs 0).Addr}}", "vip"]);
    let virtual_ip = virtual_ip.trim().split('/').next().unwrap_or_default().to_owned();
    let mut each: Vec<String> = rr.iter().map(|t| t.addr("back")).collect();
    each.sort();
    let one = vec![virtual_ip];
    for (name, addrs) in [("rr", &each), ("vip", &one), ("other", &one)] {
        until_is(Duration::from_secs(10), name, addrs, || asked(name));
    }
    until(Duration::from_secs(10), "the tasks of the other", || (asked("tasks.vip").len() == 2).then_some(()));
    assert_eq!(c.d("node1", "service inspect --format {{.Endpoint.VirtualIPs}} rr").trim(), "[]");
    c.d("node1", "service update -q -d --endpoint-mode vip rr");
    until(Duration::from_secs(5), "a virtual address from now on", || (asked("rr").len() == 1).then_some(()));
    // Another network while it runs.
    c.d("node1", "network create -d overlay front");
    c.d("node1", "service update -q --network-add front --network-rm back --update-monitor 100ms vip");
    let moved = c.wait_running("vip", 2);
    assert!(moved.iter().all(|t| !t.addr("front").is_empty() && t.addr("back").is_empty()), "{moved:?}");
    c.d("node1", "service rm vip rr");

    // The node's own network, and none but the way out.
    let on = "--constraint node.hostname==node2";
    c.d("node1", &format!("{CREATE} --name onhost --network host {on} {sleep}"));
    let task = c.wait_running("onhost", 1).remove(0);
    assert!(c.sh(&task, "ip -4 addr").contains(&c.addr("node2")));
    assert_eq!(task.info["HostConfig"]["NetworkMode"], "host");
    assert_eq!((&task.info["Config"]["Hostname"], c.sh(&task, "hostname").trim()), (&json!("node2"), "node2"));
    c.no("node1", "service create -d --network host --network back alpine", "cannot be connected to any other network");
    c.d("node1", &format!("{CREATE} --name onbridge --network bridge {on} {sleep}"));
    let task = c.wait_running("onbridge", 1).remove(0);
    let addrs = c.sh(&task, "ip -4 addr; ip route");
    assert!(addrs.contains("172.18.") && !addrs.contains("10.0.") && addrs.contains("default via 172.18."), "{addrs}");
    assert!(c.in_task(&task, &["ping", "-c1", "-w5", &c.client_addr()]).status.success());
    c.d("node1", "service rm onhost onbridge");
}

fn ports(c: &Cluster) {
    c.d("node1", &format!("{CREATE} --name web -p 7000-7001:3000-3001 -p published=7005,target=3000 -p 3000 hello"));
    c.wait_running("web", 1);
    let list = c.d("node1", "service ls --format {{.Ports}}");
    assert!(list.contains("*:7000-7001->3000-3001/tcp") && list.contains("*:30000->3000/tcp"), "{list}");
    for (node, port) in [("node1", 7000), ("node2", 7005), ("node3", 30000)] {
        let said = fetch(c, "client", &c.addr(node), port);
        assert!(said.contains(&format!("to {}", c.client_addr())), "{said}");
    }
    assert!(fetch(c, "node2", "127.0.0.1", 7000).contains("HI"), "on the node itself");

    // Host mode: only where a task is, on the node's own port.
    let host = "-p published=8091,target=3000,mode=host --constraint node.hostname==node2";
    c.d("node1", &format!("{CREATE} --name host {host} hello"));
    c.wait_running("host", 1);
    assert!(c.d("node1", "service ps host --format {{.Ports}}").contains("*:8091->3000/tcp"));
    assert!(fetch(c, "client", &c.addr("node2"), 8091).contains("HI"));
    let elsewhere = c.try_exec("client", &["curl", "-sS", "-m", "2", &format!("http://{}:8091/", c.addr("node3"))]);
    assert!(!elsewhere.status.success());

    // UDP; the server is a program of the machine, in the container with the libraries it needs.
    let echo = "$s = IO::Socket::INET->new(LocalPort => 5300, Proto => 'udp') or die; \
                while (1) { $s->recv($m, 99); $s->send('pong') }";
    let mut create: Vec<&str> = CREATE.split(' ').collect();
    create.extend(["--name", "udp", "-p", "5300:5300/udp"]);
    for mount in ["src=/usr,dst=/usr", "src=/usr/lib,dst=/lib", "src=/usr/lib64,dst=/lib64"] {
        create.extend(["--mount", mount]);
    }
    let create: Vec<String> = create
        .iter()
        .map(|w| if w.starts_with("src=") { format!("type=bind,readonly,{w}") } else { (*w).to_owned() })
        .collect();
    let mut create: Vec<&str> = create.iter().map(String::as_str).collect();
    create.extend(["alpine", "perl", "-MIO::Socket::INET", "-e", echo]);
    c.docker("node1", &create);
    c.wait_running("udp", 1);
    assert!(c.d("node1", "service inspect --format {{.Endpoint.Ports|json}} udp").contains("\"Protocol\":\"udp\""));
    for node in ["node1", "node2", "node3"] {
        let ask = format!(
            "$s = IO::Socket::INET->new(PeerAddr => '{}:5300', Proto => 'udp'); $s->send('ping'); alarm 3; $s->recv($m, 99); print $m",
            c.addr(node)
        );
        until(Duration::from_secs(15), "a datagram through the mesh", || {
            let out = c.try_exec("client", &["perl", "-MIO::Socket::INET", "-e", &ask]);
            (text(&out.stdout) == "pong").then_some(())
        });
    }
    c.d("node1", "service update -q -d --publish-rm 3000 --publish-add 7010:3000 web");
    assert!(fetch(c, "client", &c.addr("node3"), 7010).contains("HI"), "after an update of the ports");
    c.d("node1", "service rm web host udp");
}
