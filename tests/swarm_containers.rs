//! Containers and images where the swarm comes in, with the stock CLI: attached to its networks, made for its tasks, events
//! that its managers tell, and images that its nodes pull from a registry.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};

use crate::support::{Cluster, images, resolved, text, until};

#[test]
fn containers_and_images_of_a_swarm_behave() {
    // The third node has no image but those that it pulls.
    let c = Cluster::bare("swarmed", 3, 1, &["--daemon-arg=--insecure-registry=192.168.77.200:5000"]);
    c.load_images(2);
    attached_to_a_swarm_network(&c);
    containers_of_tasks(&c);
    told_afterwards(&c);
    registry(&c);
}

fn attached_to_a_swarm_network(c: &Cluster) {
    c.d("node1", "network create -d overlay --attachable att");
    c.d("node1", "service create -d -q --no-resolve-image --name svc --network att --constraint node.hostname==node1 alpine sleep 1d");
    let task = c.wait_running("svc", 1).remove(0);
    c.d("node2", "run -d --name solo --network att --network-alias other --hostname lone alpine sleep 1d");
    let out = c.try_exec("node2", &["docker", "exec", "solo", "ping", "-c1", "-w5", "svc"]);
    assert!(
        out.status.success(),
        "the service's name from a worker that had never seen the network: {}",
        text(&out.stdout)
    );
    let addr = c.d("node2", "inspect --format {{.NetworkSettings.Networks.att.IPAddress}} solo").trim().to_owned();
    for name in ["solo", "other", "lone"] {
        until(Duration::from_secs(5), name, || {
            (resolved(&c.in_task(&task, &["nslookup", name])) == [addr.clone()]).then_some(())
        });
    }
    assert!(c.in_task(&task, &["ping", "-c1", "-w5", "solo"]).status.success());
    // Renamed, it is found by its new name alone, from everywhere and by its address.
    c.d("node2", "rename solo duo");
    until(Duration::from_secs(5), "the new name", || {
        (resolved(&c.in_task(&task, &["nslookup", "duo"])) == [addr.clone()]).then_some(())
    });
    let back = text(&c.in_task(&task, &["nslookup", &addr]).stdout);
    assert!(back.contains("duo.att"), "{back}");
    assert!(!c.d("node1", "network inspect --verbose att").contains("solo"));
    c.d("node2", "rename duo solo");
    // Stopped, it has no address to show, and is on the network again when it starts.
    let endpoint = || -> Value {
        let shown = c.d("node2", "inspect --format {{.NetworkSettings.Networks.att|json}} solo");
        serde_json::from_str(&shown).unwrap()
    };
    let wired = endpoint();
    let short = c.d("node2", "ps -q --filter name=solo").trim().to_owned();
    assert_eq!((&wired["Aliases"], &wired["DNSNames"]), (&json!(["other"]), &json!(["solo", "other", short, "lone"])));
    let of_task = &task.info["NetworkSettings"]["Networks"]["att"];
    assert_eq!((&of_task["Aliases"], &of_task["DNSNames"]), (&Value::Null, &json!([task.name, task.container[..12]])));
    c.d("node2", "stop -t 1 solo");
    let stopped = endpoint();
    for key in ["IPAddress", "MacAddress", "EndpointID"] {
        assert!(wired[key] != "" && stopped[key] == "", "{key}: {wired} {stopped}");
    }
    assert_eq!(
        (&stopped["IPPrefixLen"], &stopped["IPAMConfig"]["IPv4Address"]),
        (&json!(0), &Value::Null),
        "{stopped}"
    );
    assert_eq!(stopped["NetworkID"], wired["NetworkID"]);
    assert_eq!(c.d("node2", "inspect --format {{.NetworkSettings.SandboxKey}} solo").trim(), "");
    c.d("node2", "start solo");
    assert!(endpoint()["IPAddress"].as_str().is_some_and(|a| a.starts_with("10.0.")), "{}", endpoint());
    assert!(c.d("node2", "ps --filter network=att --format {{.Names}}").contains("solo"));
    // without a leader the container goes all the same, and its address is given back as soon as there is one
    c.dev(&["kill", "node1"]);
    c.d("node2", "rm -f solo");
    assert_eq!(c.d("node2", "run --rm alpine echo on").trim(), "on");
    std::thread::sleep(Duration::from_secs(12));
    c.dev(&["start", "node1"]);
    until(Duration::from_secs(40), "the network leaves with its last container", || {
        (!c.d("node2", "network ls --format {{.Name}}").lines().any(|n| n == "att")).then_some(())
    });
}

fn containers_of_tasks(c: &Cluster) {
    let task = c.wait_running("svc", 1).remove(0);
    c.d(&task.node, &format!("rm -f {}", task.container));
    let next = until(Duration::from_secs(20), "another in its place", || {
        c.tasks("svc").into_iter().find(|t| t.id != task.id && !t.container.is_empty())
    });
    c.d(&next.node, &format!("kill {}", next.container));
    until(Duration::from_secs(20), "another in place of the killed one", || {
        c.tasks("svc").into_iter().find(|t| t.id != next.id && !t.container.is_empty())
    });
    assert!(c.d("node1", "service ps svc").contains("task: non-zero exit (137)"));
    c.d("node1", "service rm svc");
}

/// `docker events` of what is over: on each node what happened there, on the manager what became of the swarm as well.
fn told_afterwards(c: &Cluster) {
    let now = || c.exec("node1", &["date", "+%s.%N"]).trim().to_owned();
    let since = now();
    let events = |node: &str, more: &str| c.d(node, &format!("events --since {since} --until {} {more}", now()));
    for line in [
        "network create -d overlay --attachable told",
        "run -d --name told --network told -v told:/x alpine sleep 1d",
        "restart -t 0 told",
        "rm -f told",
        "volume rm told",
        "tag alpine told:1",
        "rmi told:1",
        "service create -d -q --no-resolve-image --name told --replicas 0 --constraint node.labels.no==where alpine",
        "service update -d -q --no-resolve-image --image hello --replicas 3 told",
        "node update --availability pause node3",
        "node update --availability active node3",
        "service rm told",
        "network rm told",
    ] {
        c.d("node1", line);
    }
    let mut told = events("node1", "");
    for (what, how) in [
        (" network create ", "(name=told)"),
        (" volume create told ", "(driver=local)"),
        (" network connect ", "name=told, type=overlay)"),
        (" volume mount told ", "destination=/x, driver=local"),
        (" container start ", "name=told"),
        (" container restart ", "name=told"),
        (" container die ", "execDuration="),
        (" network disconnect ", "name=told, type=overlay)"),
        (" volume unmount told ", "driver=local)"),
        (" volume destroy told ", "(driver=local)"),
        (" image tag sha256:", "name=told:1"),
        (" image untag sha256:", "name=told:1"),
        (" service create ", "(name=told)"),
        (" service update ", "image.new=hello"),
        (" service update ", "name=told, replicas.new=3, replicas.old=0"),
        (" node update ", "availability.new=pause, availability.old=active, name=node3)"),
        (" service remove ", "(name=told)"),
        (" network remove ", "(name=told)"),
    ] {
        let is_told = |told: &str| told.lines().any(|l| l.contains(what) && l.contains(how));
        until(Duration::from_secs(10), &format!("{what}… {how}"), || {
            if !is_told(&told) {
                told = events("node1", "");
            }
            is_told(&told).then_some(())
        });
    }
    let networks = events("node1", "--filter scope=swarm --filter network=told --format {{.Action}}");
    assert_eq!(networks, "create\nremove\n");
    assert_eq!(events("node2", "--filter scope=swarm"), "", "a worker is told nothing of it");
}

/// Debian's registry in the client's namespace; ended with the test.
struct Registry(std::process::Child, std::path::PathBuf);

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

impl Registry {
    fn start(c: &Cluster) -> Self {
        let dir = std::env::temp_dir().join(format!("{}-registry", c.name));
        std::fs::create_dir_all(&dir).unwrap();
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete: {{enabled: true}}\nhttp:\n  addr: 0.0.0.0:5000\n",
            dir.display()
        );
        std::fs::write(dir.join("config.yml"), config).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &c.netns("client"), "docker-registry", "serve"])
            .arg(dir.join("config.yml"))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        Self(child, dir)
    }
}

/// Puts the archive that `docker load` takes into the registry as `test:1`, by the registry's own protocol; says its digest.
const PUSH: &str = r#"set -eu
base=http://127.0.0.1:5000/v2/test
dir=$(mktemp -d); trap 'rm -rf $dir' EXIT
tar -C $dir -xf $1
config=$(jq -r '.[0].Config' $dir/manifest.json)
mv $dir/$config $dir/config.json
put() {
	digest=sha256:$(sha256sum $1 | cut -d' ' -f1)
	url=$(curl -sS -X POST -D - -o /dev/null $base/blobs/uploads/ | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
	curl -sS -f -X PUT -H 'Content-Type: application/octet-stream' --data-binary @$1 "$url&digest=$digest" >&2
	echo $digest $(stat -c %s $1)
}
set -- $(put $dir/config.json) $(put $dir/layer.tar)
type=application/vnd.docker.distribution.manifest.v2+json
jq -nc --arg c $1 --argjson cs $2 --arg l $3 --argjson ls $4 --arg t $type '{schemaVersion: 2, mediaType: $t,
	config: {mediaType: "application/vnd.docker.container.image.v1+json", digest: $c, size: $cs},
	layers: [{mediaType: "application/vnd.docker.image.rootfs.diff.tar", digest: $l, size: $ls}]}' >$dir/m.json
curl -sS -f -X PUT -H "Content-Type: $type" --data-binary @$dir/m.json $base/manifests/1
echo sha256:$(sha256sum $dir/m.json | cut -d' ' -f1)
"#;

fn registry(c: &Cluster) {
    let _registry = Registry::start(c);
    until(Duration::from_secs(10), "the registry listens", || {
        c.try_exec("client", &["curl", "-sSf", "http://127.0.0.1:5000/v2/"]).status.success().then_some(())
    });
    let push = |archive: &str| {
        let archive = images().join(archive);
        c.exec("client", &["bash", "-c", PUSH, "push", archive.to_str().unwrap()]).trim().to_owned()
    };
    let first = push("alpine.tar");
    let repository = format!("{}:5000/test", c.client_addr());
    let image = format!("{repository}:1");
    pulled(c, &repository, &first);
    // The CLI pins the digest; workers that never saw the image pull by it.
    let create = "service create -d -q --update-monitor 1s --name reg --mode global --constraint node.role==worker --stop-grace-period 1s";
    c.d("node1", &format!("{create} {image} sleep 1d"));
    let running = |digest: &str| {
        let tasks = c.wait_running("reg", 2);
        for task in tasks {
            assert_eq!(task.info["Config"]["Image"], Value::from(format!("{image}@{digest}")), "on {}", task.node);
        }
        c.d("node1", "service inspect --format {{.Spec.TaskTemplate.ContainerSpec.Image}} reg")
    };
    assert_eq!(running(&first).trim(), format!("{image}@{first}"));
    assert!(c.d("node3", "images --digests").contains(&first));
    // Another image under the same tag: nothing changes until it is asked for.
    let second = push("hello.tar");
    assert_ne!(first, second);
    c.d("node1", "service update -q --force reg");
    assert_eq!(running(&first).trim(), format!("{image}@{first}"));
    c.d("node1", &format!("service update -q --image {image} reg"));
    assert_eq!(running(&second).trim(), format!("{image}@{second}"));
    c.d("node1", "service rm reg");
}

fn pulled(c: &Cluster, repository: &str, digest: &str) {
    let image = format!("{repository}:1");
    let said = c.d("node1", &format!("pull {image}"));
    assert!(said.contains(&format!("Digest: {digest}")) && said.contains("Status: Downloaded newer image"), "{said}");
    assert!(c.d("node1", &format!("pull {image}")).contains("Status: Image is up to date for"));
    assert!(c.d("node1", &format!("image inspect --format {{{{.RepoDigests}}}} {image}")).contains(digest));
    let why = "Error response from daemon: manifest for ";
    c.no("node1", &format!("pull {repository}:nosuch"), why);
    c.no("node1", &format!("run {repository}:nosuch"), why);
    c.no("node1", &format!("pull {repository}@sha256:{}", "0".repeat(64)), "not found");
    // By digest, on a node that has no image at all: it has no tag then.
    let by_digest = format!("{repository}@{digest}");
    assert!(c.d("node2", &format!("pull {by_digest}")).contains(&format!("Digest: {digest}")));
    let shown = c.d("node2", "images --digests --format {{.Repository}}/{{.Tag}}/{{.Digest}}");
    assert!(shown.contains(&format!("{repository}/<none>/{digest}")), "{shown}");
    assert_eq!(c.d("node2", &format!("run --rm {by_digest} echo hi")), "hi\n");
    c.d("node2", &format!("rmi {by_digest}"));
}
