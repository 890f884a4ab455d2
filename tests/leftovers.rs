//! What a cluster made is gone with it, and what a node's membership made with the membership.
//!
//! Everything of one cluster carries its name, or hangs on a kernel object that does; what is found is counted before,
//! while it stands, and after. Other clusters on this machine may come and go meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::support::{Cluster, run, talk::Place, text, until};

fn bpftool(what: &str) -> Vec<Value> {
    // Objects that end while they are listed make it fail.
    until(Duration::from_secs(30), "bpftool's list", || {
        let out = run(Command::new("bpftool").args(["-f", "-j", what, "show"]));
        serde_json::from_slice(&out.stdout).ok()
    })
}

fn pinned_by(object: &Value, name: &str) -> bool {
    let prefix = format!("/sys/fs/bpf/malha/malha-{name}-");
    object["pinned"].as_array().into_iter().flatten().any(|p| p.as_str().is_some_and(|p| p.starts_with(&prefix)))
}

/// Ids of the kernel's maps, programs and links that belong to a cluster, pinned or held by what is.
fn bpf_objects(name: &str) -> BTreeMap<&'static str, BTreeSet<u64>> {
    let ids = |list: &[Value], mine: &dyn Fn(&Value) -> bool| -> BTreeSet<u64> {
        list.iter().filter(|o| mine(o)).filter_map(|o| o["id"].as_u64()).collect()
    };
    let maps = ids(&bpftool("map"), &|m| pinned_by(m, name));
    let uses_ours =
        |p: &Value| p["map_ids"].as_array().into_iter().flatten().any(|i| maps.contains(&i.as_u64().unwrap()));
    let programs = ids(&bpftool("prog"), &|p| pinned_by(p, name) || uses_ours(p));
    let links =
        ids(&bpftool("link"), &|l| pinned_by(l, name) || l["prog_id"].as_u64().is_some_and(|p| programs.contains(&p)));
    [("map", maps), ("prog", programs), ("link", links)].into()
}

/// Entries of `dir` that carry the cluster's name.
fn entries(dir: &str, name: &str) -> Vec<String> {
    let all = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mine = |n: &String| n == name || n.starts_with(&format!("malha-{name}-"));
    all.filter_map(|e| e.file_name().into_string().ok()).filter(mine).map(|n| format!("{dir}/{n}")).collect()
}

/// Processes of the cluster: by command line, or by the network namespace they stand in.
fn processes(name: &str) -> Vec<String> {
    let spaces: BTreeSet<u64> = entries("/run/netns", name).iter().filter_map(|p| inode(p)).collect();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|p| p.parse::<u32>().ok()) else { continue };
        let command = text(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).replace('\0', " ");
        let named = [format!("/dev/{name}/"), format!("malha-{name}-")].iter().any(|n| command.contains(n.as_str()));
        if named || inode(&format!("/proc/{pid}/ns/net")).is_some_and(|i| spaces.contains(&i)) {
            found.push(format!("process {pid} {command}"));
        }
    }
    found
}

fn inode(path: &str) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|m| m.ino())
}

/// Everything that is of this cluster, one line each.
fn holdings(name: &str) -> Vec<String> {
    let mut all = entries("/run/netns", name);
    all.extend(entries("/sys/fs/bpf/malha", name));
    all.extend(entries("/run/malha/dev", name));
    all.extend(entries("/var/lib/malha/dev", name));
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let places: Vec<&str> = mounts.lines().filter_map(|l| l.split(' ').nth(1)).collect();
    all.extend(
        places
            .iter()
            .filter(|m| m.contains(&format!("/dev/{name}/")) || m.contains(&format!("malha-{name}-")))
            .map(|m| format!("mount {m}")),
    );
    all.extend(
        places.iter().filter(|m| m.starts_with("/sys/fs/cgroup")).flat_map(|m| entries(&format!("{m}/malha"), name)),
    );
    let links = text(&run(Command::new("ip").args(["-o", "link"])).stdout);
    all.extend(links.lines().filter(|l| l.contains(name)).map(|l| format!("link {l}")));
    all.extend(processes(name));
    all
}

fn assert_gone(name: &str, bpf: &BTreeMap<&'static str, BTreeSet<u64>>) {
    assert_eq!(holdings(name), Vec::<String>::new(), "left behind by {name}");
    // The kernel frees what nobody holds a moment later.
    until(Duration::from_secs(30), "programs, maps and links to go", || {
        let left: Vec<String> = bpf
            .iter()
            .flat_map(|(kind, ids)| {
                let now: BTreeSet<u64> = bpftool(kind).iter().filter_map(|o| o["id"].as_u64()).collect();
                ids.intersection(&now).map(|id| format!("{kind} {id}")).collect::<Vec<_>>()
            })
            .collect();
        if !left.is_empty() {
            eprintln!("still there: {left:?}");
        }
        left.is_empty().then_some(())
    });
}

/// What one node holds in its own namespace and elsewhere.
#[derive(Debug, PartialEq, Eq)]
struct OfNode {
    links: Vec<String>,
    sandboxes: Vec<String>,
    rules: String,
    pins: usize,
    cgroups: usize,
    mounts: usize,
}

fn of_node(c: &Cluster, node: &str) -> OfNode {
    let netns = c.netns(node);
    let links = text(&run(Command::new("ip").args(["-n", &netns, "-br", "link"])).stdout);
    let below = |dir: &Path| {
        let out = run(Command::new("find").arg(dir).args(["-mindepth", "1"]));
        text(&out.stdout).lines().filter(|l| !l.contains("cgroup.")).count()
    };
    let top = text(&run(Command::new("awk").args(["$3 == \"cgroup2\" { print $2; exit }", "/proc/mounts"])).stdout);
    let cgroup = Path::new(top.trim()).join("malha").join(&netns);
    let dirs = text(&run(Command::new("find").arg(&cgroup).args(["-mindepth", "1", "-type", "d"])).stdout);
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    OfNode {
        links: links.lines().filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect(),
        sandboxes: std::fs::read_dir(format!("/run/malha/dev/{}/{node}/netns", c.name))
            .map(|d| d.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
            .unwrap_or_default(),
        rules: text(&run(Command::new("ip").args(["netns", "exec", &netns, "nft", "list", "ruleset"])).stdout),
        pins: below(&Path::new("/sys/fs/bpf/malha").join(&netns)),
        cgroups: dirs.lines().count(),
        mounts: mounts.lines().filter(|l| l.contains(&format!("/dev/{}/{node}/", c.name))).count(),
    }
}

fn deploy(c: &Cluster, replicas: &str) {
    c.docker("node1", &["network", "create", "-d", "overlay", "net"]);
    let args = [
        "service",
        "create",
        "-q",
        "--detach",
        "--name",
        "web",
        "--network",
        "net",
        "-p",
        "8080:3000",
        "--replicas",
        replicas,
        "hello",
    ];
    c.docker("node1", &args);
}

fn serves(c: &Cluster) -> bool {
    Place::client(c).get(&format!("http://{}:8080/cgi-bin/index.cgi", c.addr("node2"))).is_ok()
}

#[test]
fn a_cluster_leaves_nothing_and_its_neighbour_alone() {
    let stays = Cluster::up("stays", 2, 1);
    deploy(&stays, "2");
    stays.wait_running("web", 2);
    let goes = Cluster::bare("goes", 2, 1, &["--no-swarm"]);
    goes.load_images(2);
    let before_join = of_node(&goes, "node2");

    goes.dev(&["up", "--nodes", "2"]);
    let (pids, spaces) = ((goes.pid("node1"), goes.pid("node2")), entries("/run/netns", &goes.name));
    let links = of_node(&goes, "node1").links;
    let bpf = bpf_objects(&goes.name);
    assert!(bpf["map"].len() > 10 && bpf["prog"].len() > 10 && bpf["link"].len() > 10, "{bpf:?}");
    goes.dev(&["up", "--nodes", "2"]);
    assert_eq!((goes.pid("node1"), goes.pid("node2")), pids, "up again starts nothing twice");
    assert_eq!(entries("/run/netns", &goes.name), spaces);
    assert_eq!(of_node(&goes, "node1").links, links);
    assert_eq!(bpf_objects(&goes.name), bpf, "up again loads nothing");

    deploy(&goes, "4");
    let tasks = goes.wait_running("web", 4);
    assert!(tasks.iter().any(|t| t.node == "node2"));
    assert!(of_node(&goes, "node2").links.len() > before_join.links.len());
    goes.docker("node2", &["swarm", "leave"]);
    assert_eq!(goes.docker("node2", &["ps", "-aq"]), "", "containers of tasks are gone");
    let after_leave = until(Duration::from_secs(5), "the node as before it joined", || {
        let now = of_node(&goes, "node2");
        (now == before_join).then_some(now)
    });
    assert_eq!(after_leave, before_join);

    let token = goes.docker("node1", &["swarm", "join-token", "-q", "worker"]);
    goes.docker("node2", &["swarm", "join", "--token", token.trim(), &format!("{}:2377", goes.addr("node1"))]);
    // in the middle of a deployment, with containers in every state
    goes.docker("node1", &["service", "scale", "-d", "web=24"]);
    std::thread::sleep(Duration::from_millis(1500));
    let bpf = bpf_objects(&goes.name);
    goes.dev(&["down"]);
    assert_gone(&goes.name, &bpf);
    goes.dev(&["down"]);

    assert_eq!(stays.wait_running("web", 2).len(), 2);
    until(Duration::from_secs(10), "the cluster beside it serves on", || serves(&stays).then_some(()));
    let bpf = bpf_objects(&stays.name);
    stays.dev(&["down"]);
    assert_gone(&stays.name, &bpf);
}
