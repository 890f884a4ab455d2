//! The engine API as clients of other ages speak it: versions, headers, and the CLI of Debian 12 where it is at hand.

use std::path::PathBuf;

use crate::support::{Cluster, run, text};

/// The docker CLI of Debian 12 (20.10, API 1.41), unpacked beside the test and not installed.
struct OldCli(PathBuf);

impl Drop for OldCli {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl OldCli {
    fn fetch() -> Self {
        let dir = std::env::temp_dir().join(format!("malha-old-cli-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let cli = Self(dir);
        let script = "cd $1 && apt-get download docker.io/bookworm >apt.log 2>&1 || apt-get download docker.io >>apt.log 2>&1; \
                      dpkg -x docker.io_*.deb . ";
        let out = run(std::process::Command::new("bash").args(["-c", script, "fetch"]).arg(&cli.0));
        assert!(out.status.success(), "the docker.io package of Debian 12: {}", text(&out.stderr));
        cli
    }

    fn program(&self) -> String {
        self.0.join("usr/bin/docker").to_str().unwrap().to_owned()
    }
}

fn http(c: &Cluster, args: &[&str]) -> String {
    let socket = c.socket("node1");
    let mut command = vec!["curl", "-sS", "-i", "--unix-socket", socket.to_str().unwrap()];
    command.extend(args);
    c.exec("node1", &command)
}

#[test]
fn clients_of_other_ages_are_answered() {
    let c = Cluster::up("old", 2, 1);
    headers_and_versions(&c);
    let cli = OldCli::fetch();
    core_commands(&c, &cli.program());
}

fn headers_and_versions(c: &Cluster) {
    for method in [&["http://d/_ping"][..], &["-I", "http://d/_ping"]] {
        let said = http(c, method).to_lowercase();
        for part in
            ["200 ok", "api-version: 1.50", "ostype: linux", "docker-experimental: false", "swarm: active/manager"]
        {
            assert!(said.contains(part), "{part:?} in {said}");
        }
    }
    for version in ["1.24", "1.30", "1.41", "1.44", "1.50"] {
        for path in
            ["version", "info", "containers/json", "images/json", "networks", "services", "nodes", "tasks", "swarm"]
        {
            let said = http(c, &[&format!("http://d/v{version}/{path}")]);
            assert!(said.starts_with("HTTP/1.1 200"), "/v{version}/{path}: {said}");
        }
    }
    let said = http(c, &["http://d/v1.99/info"]);
    assert!(said.starts_with("HTTP/1.1 400") && said.contains("client version 1.99 is too new"), "{said}");
    let said = http(c, &["http://d/v1.10/info"]);
    assert!(said.starts_with("HTTP/1.1 400") && said.contains("client version 1.10 is too old"), "{said}");
    let said = http(c, &["http://d/v1.41/nosuch"]);
    assert!(said.starts_with("HTTP/1.1 404") && said.contains("page not found"), "{said}");
    // What is not built yet is refused with its name.
    for (line, feature) in [
        ("secret ls", "docker secret"),
        ("config ls", "docker config"),
        ("system df", "docker system df"),
        ("container prune -f", "docker container prune"),
        ("top x", "docker top"),
        ("commit x", "docker commit"),
        ("search x", "docker search"),
        ("network connect bridge x", "docker network connect"),
    ] {
        c.no("node1", line, feature);
        c.no("node1", line, "is not supported by this version of Malha");
    }
    c.no("node1", "swarm unlock-key", "no unlock key is set");
}

fn core_commands(c: &Cluster, docker: &str) {
    let old = |node: &str, line: &str| {
        let mut words = vec![docker];
        words.extend(line.split_whitespace());
        c.exec(node, &words)
    };
    let version = old("node1", "version --format {{.Client.Version}}/{{.Client.APIVersion}}");
    assert!(version.starts_with("20.10") && version.trim().ends_with("/1.41"), "{version}");
    assert!(old("node1", "info").contains("Swarm: active"));
    assert!(old("node1", "node ls").contains("Leader"));
    old("node1", "network create -d overlay --attachable net");
    let line = "service create --no-resolve-image --name web --network net -p 8080:3000 --replicas 2 hello";
    assert!(old("node1", line).contains("converged"));
    assert!(old("node1", "service ls").contains("2/2"));
    assert_eq!(old("node1", "service ps -q web").lines().count(), 2);
    assert!(old("node1", "service inspect --pretty web").contains("PublishedPort = 8080"));
    assert!(old("node1", "network inspect net").contains("\"Scope\": \"swarm\""));
    assert!(old("node1", "service update -d --env-add A=b web").contains("web"));
    assert!(old("node1", "service scale -d web=1").contains("scaled to 1"));
    old("node1", "service logs web");
    old("node2", "run -d --name cc --network net alpine sleep 1d");
    assert!(old("node2", "exec cc hostname").trim().len() == 12);
    assert!(old("node2", "ps").contains("sleep 1d"));
    let aliases = old("node2", "inspect --format {{.NetworkSettings.Networks.net.Aliases|json}} cc");
    assert_eq!(aliases.trim(), format!("[{:?}]", old("node2", "ps -q --filter name=cc").trim()), "as before 1.45");
    assert!(old("node2", "inspect cc").contains("\"Running\": true"));
    assert_eq!(old("node2", "run --rm alpine echo hi").trim(), "hi");
    old("node2", "rm -f cc");
    assert!(old("node2", "images").contains("alpine"));
    old("node1", "service rm web");
    assert!(old("node1", "swarm join-token worker").contains("docker swarm join --token"));
    assert!(old("node1", "node inspect --pretty self").contains("Leader"));
}
