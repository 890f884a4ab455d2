//! Overlay networks with the stock CLI: every option, every refusal, and who sees what where.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Cluster, until};

const CREATE: &str = "network create -d overlay";

fn names(c: &Cluster, node: &str, filter: &str) -> Vec<String> {
    let list = c.d(node, &format!("network ls --format {{{{.Name}}}} {filter}"));
    list.lines().map(str::to_owned).collect()
}

fn inspect(c: &Cluster, node: &str, flags: &str, network: &str) -> Value {
    let list: Value = serde_json::from_str(&c.d(node, &format!("network inspect {flags} {network}"))).unwrap();
    list[0].clone()
}

#[test]
fn networks_do_what_they_are_told() {
    let c = Cluster::up("net", 2, 1);
    refusals(&c);
    options(&c);
    filters(&c);
    internal_has_no_way_out(&c);
    lazy_on_workers(&c);
    exhaustion(&c);
    another_ingress(&c);
    prune(&c);
    ways_of_nodes(&c);
}

fn refusals(c: &Cluster) {
    let underlay = format!("{}.0/25", c.addr("node1").rsplit_once('.').unwrap().0);
    for (line, why) in [
        ("--subnet 10.0.9.1/24 x", "invalid network config:\ninvalid subnet 10.0.9.1/24: it should be 10.0.9.0/24"),
        ("--subnet 10.0.9.0/33 x", "invalid subnet 10.0.9.0/33"),
        ("--subnet 10.9.0.0/24 --gateway 10.8.0.1 x", "no matching subnet for gateway 10.8.0.1"),
        ("--subnet 10.9.0.0/24 --ip-range 10.8.0.0/28 x", "no matching subnet for range 10.8.0.0/28"),
        ("--subnet 10.9.0.0/24 --aux-address h=10.8.0.9 x", "no matching subnet for aux-address 10.8.0.9"),
        ("--opt com.docker.network.driver.mtu=abc x", "invalid value \"abc\" for option com.docker.network.driver.mtu"),
        ("--opt com.docker.network.driver.overlay.vxlanid_list=abc x", "invalid vxlan id value \"abc\" passed"),
        ("--opt com.docker.network.driver.overlay.vxlanid_list=4096 x", "vxlan id 4096 is already in use"),
        ("--opt encrypted x", "an encrypted overlay network is not supported"),
        ("--ipv6 --subnet fd00::/64 x", "IPv6 on overlay networks is not supported"),
        ("--ipam-driver foo x", "the IPAM driver \"foo\" is not supported"),
        ("--scope local x", "cannot downgrade network scope for overlay networks"),
        ("--ingress --attachable x", "ingress network cannot be attachable"),
        ("--ingress x", "is already present"),
        ("--label com.docker.swarm.predefined=1 x", "cannot be applied by users"),
        ("--subnet 10.0.0.0/25 x", "Pool overlaps with other one on this address space"),
        ("bridge", "bridge is a pre-defined network and cannot be created"),
        ("ingress", "network with name ingress already exists"),
        ("--config-only x", "is not supported by this version of Malha"),
        (&format!("--subnet {underlay} x"), "holds the address"),
        ("--subnet 172.18.7.0/24 x", "172.18.7.0/24 overlaps the route 172.18.0.0/16 (docker_gwbridge) of node node"),
    ] {
        c.no("node1", &format!("{CREATE} {line}"), why);
    }
    c.no("node1", "network create -d nosuch x", "plugin \"nosuch\" not found");
    c.no("node2", &format!("{CREATE} x"), "Cannot create a multi-host network from a worker node.");
    c.no("node1", "network rm nosuch", "network nosuch not found");
    c.no("node1", "network rm bridge", "bridge is a pre-defined network and cannot be removed");
    c.no("node1", "network inspect nosuch", "network nosuch not found");
    assert_eq!(names(c, "node1", "--filter type=custom --filter driver=overlay"), ["ingress"], "nothing was left");
}

fn options(c: &Cluster) {
    c.d(
        "node1",
        "network create -d overlay --subnet 10.9.0.0/24 --gateway 10.9.0.254 --ip-range 10.9.0.128/29
         --aux-address h=10.9.0.129 --attachable --label a=b --opt com.docker.network.driver.mtu=1400
         --opt com.docker.network.driver.overlay.vxlanid_list=5000 full",
    );
    c.no("node1", &format!("{CREATE} full"), "network with name full already exists");
    let n = inspect(c, "node1", "", "full");
    let config = &n["IPAM"]["Config"][0];
    assert_eq!((&config["Subnet"], &config["IPRange"]), (&"10.9.0.0/24".into(), &"10.9.0.128/29".into()));
    assert_eq!((&config["Gateway"], &config["AuxiliaryAddresses"]["h"]), (&"10.9.0.254".into(), &"10.9.0.129".into()));
    assert_eq!((&n["Attachable"], &n["Internal"], &n["Ingress"]), (&true.into(), &false.into(), &false.into()));
    assert_eq!(n["Labels"]["a"], "b");
    assert_eq!(n["Scope"], "swarm");

    c.d("node1", "service create -d -q --no-resolve-image --name opt --network full alpine sleep 1d");
    let tasks = c.wait_running("opt", 1);
    let host: u8 = tasks[0].addr("full").rsplit_once('.').unwrap().1.parse().unwrap();
    assert!((130..=135).contains(&host), "within the range and not the auxiliary address: {host}");
    let link = c.sh(&tasks[0], "ip link show eth0; ip -4 route");
    assert!(link.contains("mtu 1350"), "1400 less the tunnel's headers: {link}");
    assert!(link.contains("default via 172.18."), "{link}");
    let pinged = c.in_task(&tasks[0], &["ping", "-c1", "-w3", "10.9.0.254"]);
    assert!(pinged.status.success(), "the gateway answers");

    let verbose = inspect(c, "node1", "--verbose", "full");
    let service = &verbose["Services"]["opt"];
    assert!(service["VIP"].as_str().is_some_and(|v| v.starts_with("10.9.0.13")), "{verbose}");
    assert_eq!(service["Tasks"][0]["EndpointIP"], Value::from(tasks[0].addr("full")), "{verbose}");
    assert_eq!(service["Tasks"][0]["Info"]["Host IP"], Value::from(c.addr(&tasks[0].node)), "{verbose}");
    let id = n["Id"].as_str().unwrap().to_owned();
    c.no("node1", "network rm full", &format!("network {id} is in use by service"));
    c.d("node1", "service rm opt");
    c.d("node1", "network rm full");
    c.d("node1", "network create -d overlay --subnet 10.50.0.0/24 --subnet 10.51.0.0/24 full");
    assert_eq!(inspect(c, "node1", "", "full")["IPAM"]["Config"].as_array().unwrap().len(), 2);
}

fn filters(c: &Cluster) {
    c.d("node1", "network create -d overlay --label tier=db labelled");
    assert_eq!(names(c, "node1", "--filter label=tier"), ["labelled"]);
    assert_eq!(names(c, "node1", "--filter label=tier=db"), ["labelled"]);
    assert!(names(c, "node1", "--filter label=tier=web").is_empty());
    assert_eq!(names(c, "node1", "--filter name=abell"), ["labelled"]);
    assert_eq!(names(c, "node1", "--filter type=builtin"), ["bridge", "host", "none"]);
    assert_eq!(names(c, "node1", "--filter scope=swarm"), ["full", "ingress", "labelled"]);
    assert_eq!(names(c, "node1", "--filter dangling=true --filter driver=overlay"), ["full", "labelled"]);
    let id = c.d("node1", "network inspect --format {{.Id}} labelled");
    assert_eq!(names(c, "node1", &format!("--filter id={}", &id[..9])), ["labelled"]);
    assert_eq!(c.d("node1", &format!("network inspect --format {{{{.Name}}}} {}", &id[..9])).trim(), "labelled");
    assert_eq!(c.d("node1", "network ls -q --no-trunc --filter name=labelled"), id);
    c.no("node1", "network ls --filter foo=bar", "invalid filter 'foo'");
}

fn internal_has_no_way_out(c: &Cluster) {
    c.d("node1", "network create -d overlay --internal inner");
    c.d("node1", "service create -d -q --no-resolve-image --name inn --mode global --network inner alpine sleep 1d");
    let tasks = c.wait_running("inn", 2);
    let routes = c.sh(&tasks[0], "ip -4 route; ip -4 addr");
    assert!(!routes.contains("default") && !routes.contains("172.18."), "{routes}");
    let ping = |addr: &str| c.sh(&tasks[0], &format!("ping -c1 -w5 {addr} >/dev/null 2>&1 && echo yes"));
    assert_eq!(ping(&c.client_addr()), "", "an internal network reaches nothing outside");
    assert_eq!(ping(&tasks[1].addr("inner")), "yes\n", "but its own, on the other node");
    c.d("node1", "service rm inn");
}

fn lazy_on_workers(c: &Cluster) {
    c.d("node1", "network create -d overlay --attachable lazy");
    assert!(!names(c, "node2", "").contains(&"lazy".to_owned()));
    c.no("node2", "network inspect lazy", "network lazy not found");
    let line = "service create -d -q --no-resolve-image --name lz --network lazy --constraint node.hostname==node2
                --stop-grace-period 1s alpine sleep 1d";
    c.d("node1", line);
    c.wait_running("lz", 1);
    assert!(names(c, "node2", "").contains(&"lazy".to_owned()));
    c.d("node1", "service rm lz");
    until(Duration::from_secs(15), "the network leaves the worker", || {
        (!names(c, "node2", "").contains(&"lazy".to_owned())).then_some(())
    });
    // The address of a container is given back before its removal is answered.
    c.d("node2", "run -d --name held --network lazy alpine sleep 1d");
    let asked = Instant::now();
    c.d("node2", "rm -f held");
    if asked.elapsed() < Duration::from_secs(1) {
        c.d("node1", "network rm lazy");
    } else {
        // Nobody waits longer than a second for that.
        until(Duration::from_secs(10), "the address is given back", || {
            c.try_exec("node1", &["docker", "network", "rm", "lazy"]).status.success().then_some(())
        });
    }
    // Not attachable: refused by name, and nothing stays behind.
    for (network, why) in [("inner", "network inner not manually attachable"), ("nosuch", "network nosuch not found")] {
        c.no("node2", &format!("run --rm --name left --network {network} alpine true"), why);
        assert_eq!(c.d("node2", "ps -aq --filter name=left"), "");
    }
}

fn exhaustion(c: &Cluster) {
    c.d("node1", "network create -d overlay --subnet 10.77.0.0/29 tiny");
    c.d("node1", "service create -q --no-resolve-image -d --name many --replicas 9 --network tiny alpine sleep 1d");
    let said = until(Duration::from_secs(15), "a task says why it waits", || {
        let errors = c.d("node1", "service ps many --no-trunc --format {{.Error}}");
        errors.contains("no free addresses").then_some(errors)
    });
    assert!(said.contains("tiny"), "{said}");
    c.d("node1", "service rm many");
}

fn another_ingress(c: &Cluster) {
    c.d("node1", "service create -q --no-resolve-image -d --name pub -p 8080:3000 hello");
    let said = c.exec_input("node1", "y\n", &["docker", "network", "rm", "ingress"]);
    assert!(said.contains("ingress network cannot be removed because service"), "{said}");
    c.wait_running("pub", 1);
    c.d("node1", "service rm pub");
    until(Duration::from_secs(20), "the ingress network is free", || {
        let said = c.exec_input("node1", "y\n", &["docker", "network", "rm", "ingress"]);
        (!said.contains("rror")).then_some(())
    });
    c.no("node1", "service create -d --name pub -p 8080:3000 hello", "service needs ingress network, but no ingress");
    until(Duration::from_secs(20), "its successor", || {
        let line =
            "network create -d overlay --ingress --subnet 10.66.0.0/24 --opt com.docker.network.driver.mtu=1300 my-in";
        let words: Vec<&str> = std::iter::once("docker").chain(line.split(' ')).collect();
        c.try_exec("node1", &words).status.success().then_some(())
    });
    c.d("node1", "service create -d -q --no-resolve-image --name pub -p 8080:3000 hello");
    c.wait_running("pub", 1);
    for node in ["node1", "node2"] {
        let url = format!("http://{}:8080/cgi-bin/index.cgi", c.addr(node));
        let said = until(Duration::from_secs(10), "the mesh answers again", || {
            let out = c.try_exec("client", &["curl", "-sS", "-m", "3", &url]);
            out.status.success().then(|| crate::support::text(&out.stdout))
        });
        assert!(said.contains("HI"), "{said}");
    }
    c.d("node1", "service rm pub");
}

fn prune(c: &Cluster) {
    c.d("node1", "network create -d overlay kept");
    c.d("node1", "service create -q --no-resolve-image -d --name user --network kept alpine sleep 1d");
    let pruned = c.d("node1", "network prune -f");
    assert!(pruned.contains("labelled") && !pruned.contains("kept") && !pruned.contains("my-in"), "{pruned}");
    assert!(names(c, "node1", "").contains(&"kept".to_owned()));
}

/// No network is made where any node has a way of its own to; one that is there already is warned of.
fn ways_of_nodes(c: &Cluster) {
    let create = |network: &str| {
        c.d("node1", &format!("{CREATE} {network}"));
        inspect(c, "node1", "", network)["IPAM"]["Config"][0]["Subnet"].as_str().unwrap().to_owned()
    };
    let warnings = |node: &str| crate::support::text(&c.try_exec(node, &["docker", "info"]).stderr);
    let before = create("before");
    let next = create("probe");
    c.d("node1", "network rm probe");
    c.d("node1", "service create -d -q --no-resolve-image --name there --network before --mode global alpine sleep 1d");
    c.wait_running("there", 2);
    assert!(!warnings("node2").contains("overlaps"), "{}", warnings("node2"));
    // The last one is what the leader tells of: by then it knows the others.
    for route in ["10.200.0.0/16", &next, &before] {
        c.exec("node2", &["ip", "route", "add", route, "via", &c.client_addr()]);
    }
    until(Duration::from_secs(20), "the leader says what it can no longer refuse", || {
        c.log("node1").contains("a network overlaps a route of a node").then_some(())
    });
    let why = "10.200.1.0/24 overlaps the route 10.200.0.0/16 (eth0) of node node2";
    c.no("node1", &format!("{CREATE} --subnet 10.200.1.0/24 x"), why);
    assert_ne!(create("after"), next, "beside the worker's route");
    let warning = format!("WARNING: network before ({before}) overlaps the route {before} (eth0) of this node");
    assert!(warnings("node2").contains(&warning), "{}", warnings("node2"));
}
