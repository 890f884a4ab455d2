//! Stand-alone containers and images of one node with the stock CLI: their lives, what is told of them, mounts, terminals,
//! exit codes and restarts.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};

use crate::support::{Cluster, images, text, until};

#[test]
fn containers_and_images_behave() {
    let c = Cluster::up("cont", 2, 1);
    lifecycle(&c);
    listed_and_inspected(&c);
    mounts(&c);
    terminals(&c);
    restarts(&c);
    started_by_many(&c);
    images_by_hand(&c);
}

fn code(c: &Cluster, node: &str, command: &[&str]) -> (i32, String) {
    let out = c.try_exec(node, command);
    (out.status.code().unwrap_or(-1), text(&out.stdout) + &text(&out.stderr))
}

fn lifecycle(c: &Cluster) {
    let (rc, said) =
        code(c, "node2", &["docker", "run", "--name", "ec", "alpine", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((rc, said.contains("out"), said.contains("err")), (7, true, true), "{said}");
    assert!(c.d("node2", "ps -a --filter name=ec --format {{.Status}}").starts_with("Exited (7)"));
    assert_eq!(c.d("node2", "wait ec").trim(), "7");
    assert_eq!(c.d("node2", "logs ec").trim(), "out");
    assert_eq!(code(c, "node2", &["docker", "start", "-a", "ec"]).0, 7);
    c.d("node2", "rm ec");
    c.no("node2", "rm ec", "No such container: ec");
    c.no("node2", "logs ec", "No such container: ec");

    // The default network leads out, through the node's bridge.
    let addrs = c.d("node2", "run --rm alpine ip -4 route");
    assert!(addrs.contains("default via 172.18.0.1"), "{addrs}");
    c.d("node2", "run -d --name long -e A=b -v v1:/x --tmpfs /t --hostname hh -w /t --memory 20m alpine sleep 1d");
    let (rc, said) = code(c, "node2", &["docker", "exec", "long", "sh", "-c", "hostname; pwd; echo $A; mount; exit 5"]);
    assert!(rc == 5 && said.contains("hh\n/t\nb\n") && said.contains(" /x "), "{rc} {said}");
    let (rc, said) = code(c, "node2", &["docker", "exec", "long", "nosuch"]);
    assert!(rc == 127 && said.contains("\"nosuch\": executable file not found"), "{rc} {said}");
    assert_eq!(c.d("node2", "exec -e X=1 -w /tmp -u 1:2 long id").trim(), "uid=1 gid=2 groups=2");
    assert!(c.d("node2", "inspect long").contains("\"Memory\": 20971520"));
    c.no("node2", "kill -s FOO long", "cannot kill container: long: invalid signal: FOO");
    c.no(
        "node2",
        "rm long",
        "cannot remove container \"long\": container is running: stop the container before removing",
    );
    c.no("node2", "run --name long alpine true", "is already in use by container");
    for unbuilt in ["--log-driver syslog", "--health-cmd true", "--mac-address 02:00:00:00:00:01", "--cgroupns host"] {
        let said =
            c.refused("node2", &[&["run"], &unbuilt.split(' ').collect::<Vec<_>>()[..], &["alpine", "true"]].concat());
        assert!(said.contains("is not supported by this version of Malha"), "{unbuilt}: {said}");
    }
    c.no("node2", "run --runtime none alpine true", "unknown or invalid runtime name: none");
    let own = "user specified IP address is supported on user defined networks only";
    c.no("node2", "run --ip 172.18.0.9 alpine true", own);
    c.no("node2", "run --network bridge --ip 172.18.0.9 alpine true", own);
    c.no("node2", "run --ip 172.18.0.9 alpine true", "invalid config for network bridge: ");
    assert_eq!(c.d("node2", "inspect --format {{.HostConfig.NetworkMode}} long").trim(), "bridge");
    let (wanted, here) = if cfg!(target_arch = "aarch64") { ("amd64", "arm64") } else { ("arm64", "amd64") };
    let why = format!("does not match the specified platform: wanted linux/{wanted}, actual: linux/{here}");
    c.no("node2", &format!("create --pull never --platform linux/{wanted} alpine true"), &why);
    c.d("node2", &format!("run --rm --platform linux/{here} alpine true"));
    c.no("node2", "run --security-opt foo=bar alpine true", "invalid --security-opt: \"foo=bar\"");
    c.d("node2", "run --rm --security-opt no-new-privileges --security-opt seccomp=unconfined alpine true");
    c.d("node2", "stop -t 1 long");
    assert!(c.d("node2", "ps -a --filter name=long --format {{.Status}}").starts_with("Exited (137)"));
    c.d("node2", "start long");
    c.d("node2", "restart -t 1 long");
    c.d("node2", "exec long ip -4 addr show eth0");
    c.d("node2", "kill long");
    c.d("node2", "rm -f long");
    until(Duration::from_secs(10), "nothing stays of what was started again and again", || {
        c.sandboxes("node2").is_empty().then_some(())
    });
    c.d("node2", "volume rm v1");
    let (rc, said) = code(c, "node2", &["docker", "run", "--rm", "alpine", "nosuch"]);
    assert!(rc == 127 && said.contains("executable file not found"), "{rc} {said}");
    assert_eq!(c.d("node2", "ps -aq"), "", "what was to remove itself did, also where it did not start");
    assert!(c.d("node2", "run --rm --network host alpine ip -4 addr").contains(&c.addr("node2")));
    let known = |flags: &str| c.d("node2", &format!("run --rm {flags} alpine cat /etc/hosts"));
    assert_eq!(known("--network host"), c.exec("node2", &["cat", "/etc/hosts"]), "it knows whom the node knows");
    let given = known("--network host --add-host foo:1.2.3.4");
    assert!(given.starts_with("127.0.0.1\tlocalhost\n") && given.ends_with("1.2.3.4\tfoo\n"), "{given}");
    assert_eq!(known("--network none --add-host foo:1.2.3.4"), given);
    let named = |flags: &str| c.d("node2", &format!("run --rm --network host {flags} alpine hostname"));
    assert_eq!((named("").trim(), named("--hostname own").trim()), ("node2", "own"));
    assert!(!c.d("node2", "run --rm --network none alpine ip addr").contains("eth0"));
}

fn listed_and_inspected(c: &Cluster) {
    c.d(
        "node2",
        "run -d --name one --label tier=db --cap-add NET_ADMIN --cap-drop CHOWN --pids-limit 40 --ulimit nofile=64:128
        --read-only --add-host foo:1.2.3.4 --expose 81 -p 8099:3000 --cpus 0.5 --network bridge hello",
    );
    c.d("node2", "create --name two alpine true");
    let names = |filter: &str| {
        let list = c.d("node2", &format!("ps --format {{{{.Names}}}} {filter}"));
        list.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!((names(""), names("-a")), (vec!["one".to_owned()], vec!["two".to_owned(), "one".to_owned()]));
    for filter in
        ["label=tier=db", "status=running", "ancestor=hello", "publish=8099", "expose=81", "name=on", "since=nosuch"]
    {
        if filter == "since=nosuch" {
            c.no("node2", &format!("ps -a --filter {filter}"), "No such container: nosuch");
        } else {
            assert_eq!(names(&format!("-a --filter {filter}")), ["one"], "{filter}");
        }
    }
    assert_eq!(names("-a --filter status=created"), ["two"]);
    assert_eq!((names("--filter since=one").len(), names("-a --filter since=one")), (0, vec!["two".to_owned()]));
    c.no("node2", "rename two one", "Error when allocating new name: Conflict. The container name \"/one\"");
    assert_eq!(names("-n 1"), ["two"]);
    assert!(c.d("node2", "ps --filter name=one").contains("0.0.0.0:8099->3000/tcp"));
    assert_eq!(c.d("node2", "port one 3000").trim(), "0.0.0.0:8099");
    let addr = c.addr("node2");
    assert!(c.exec("client", &["curl", "-sS", "-m", "5", &format!("http://{addr}:8099")]).starts_with("HI from "));

    let one: Value = serde_json::from_str(&c.d("node2", "inspect one")).unwrap();
    let host = &one[0]["HostConfig"];
    assert_eq!((&host["CapAdd"], &host["CapDrop"]), (&json!(["CAP_NET_ADMIN"]), &json!(["CAP_CHOWN"])), "{host}");
    assert_eq!((&host["PidsLimit"], &host["ReadonlyRootfs"]), (&json!(40), &json!(true)), "{host}");
    assert_eq!((&host["NanoCpus"], &host["ExtraHosts"]), (&json!(500_000_000), &json!(["foo:1.2.3.4"])), "{host}");
    assert_eq!(host["Ulimits"][0], json!({"Name": "nofile", "Hard": 128, "Soft": 64}), "{host}");
    let said = c.exec(
        "node2",
        &[
            "docker",
            "exec",
            "one",
            "sh",
            "-c",
            "ulimit -n; grep CapBnd /proc/self/status; cat /etc/hosts; touch /x 2>&1; ulimit -Hn",
        ],
    );
    // NET_ADMIN is the 13th bit, CHOWN the first; Docker's default is a80425fb.
    for part in ["64\n", "00000000a80435fa", "1.2.3.4\tfoo", "Read-only file system", "128\n"] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    let size = |name: &str| {
        let sizes = c.d("node2", &format!("inspect -s --format {{{{.SizeRw}}}}/{{{{.SizeRootFs}}}} {name}"));
        let (rw, root_fs) = sizes.trim().split_once('/').map(|(a, b)| (a.parse::<i64>(), b.parse::<i64>())).unwrap();
        (rw.unwrap(), root_fs.unwrap())
    };
    c.d("node2", "run --name writer alpine dd if=/dev/zero of=/big bs=1024 count=3000");
    let (empty, full) = (size("two"), size("writer"));
    assert!(empty.0 < 1 << 20 && empty.1 > empty.0 && full.0 - empty.0 >= 3_000_000, "{empty:?} {full:?}");
    assert!(c.d("node2", "ps -as --filter name=writer --format {{.Size}}").starts_with("3."), "3 MB and little more");
    c.d("node2", "rm writer");
    c.d("node2", "rename one uno");
    c.no("node2", "inspect one", "No such object: one");
    c.d("node2", "stop -t 1 uno");
    assert_eq!(c.d("node2", "inspect --format {{.NetworkSettings.Ports|json}} uno").trim(), "{}", "bound no more");
    assert_eq!(c.d("node2", "ps -a --format {{.Names}}/{{.Ports}} --filter publish=8099").trim(), "uno/");
    c.d("node2", "rm -f uno two");
    c.no("node2", "ps --filter foo=bar", "invalid filter 'foo'");
    c.no("node2", "ps --filter status=foo", "invalid filter 'status=foo'");
}

/// Every word of a mount counts, `-v` or `--mount`.
fn mounts(c: &Cluster) {
    let dir = std::env::temp_dir().join(&c.name);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("file"), "bound\n").unwrap();
    let dir = dir.to_str().unwrap();
    let line = format!(
        "run -d --name mm -v {dir}:/b:ro,rslave -v copied:/bin -v made/../x:/y
            --mount type=volume,src=empty,dst=/www,volume-nocopy,volume-label=a=b
            --mount type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=700
            --mount type=bind,src={dir},dst=/b2,bind-propagation=rshared hello sleep 1d"
    );
    c.no("node2", &line, "includes invalid characters for a local volume name");
    c.d("node2", &line.replace("-v made/../x:/y", ""));
    let script = "cat /b/file; touch /b/x 2>&1; touch /b2/made && echo written; ls /www; stat -c %a /t; df -k /t; ls /bin/busybox";
    let said = c.exec("node2", &["docker", "exec", "mm", "sh", "-c", script]);
    for part in ["bound\n", "Read-only file system", "written\n700\n", " 1024 ", "/bin/busybox"] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    assert_eq!(c.d("node2", "volume inspect --format {{.Labels|json}} empty").trim(), r#"{"a":"b"}"#);
    let shown = c.docker("node2", &["inspect", "--format", "{{json .Mounts}}", "mm"]);
    let shown: Vec<Value> = serde_json::from_str(&shown).unwrap();
    let of =
        |target: &str| shown.iter().find(|m| m["Destination"] == target).unwrap_or_else(|| panic!("{target}")).clone();
    assert_eq!((&of("/b")["RW"], &of("/b")["Propagation"]), (&json!(false), &json!("rslave")));
    assert_eq!((&of("/b2")["RW"], &of("/b2")["Propagation"]), (&json!(true), &json!("rshared")));
    assert_eq!((&of("/bin")["Type"], &of("/bin")["Name"]), (&json!("volume"), &json!("copied")));
    c.no("node2", "volume rm copied", "volume is in use");
    c.d("node2", "rm -f mm");
    c.d("node2", "volume rm copied empty");
    for (mount, why) in [
        ("type=volume,src=v,dst=/v,volume-opt=type=nfs", "an option of a volume (volume-opt) is not supported"),
        ("type=volume,src=v,dst=/v,volume-driver=flocker", "a volume driver other than local is not supported"),
        ("type=volume,src=v,dst=/v,volume-subpath=x", "volume-subpath) is not supported"),
        ("type=bind,src=/nosuch/dir,dst=/v", "bind source path does not exist: /nosuch/dir"),
        ("type=bind,src=/etc,dst=/v,bind-recursive=disabled", "a non-recursive bind mount is not supported"),
    ] {
        c.no("node2", &format!("create --mount {mount} alpine"), why);
    }
    c.no("node2", "create -v /etc:/e:odd alpine", "invalid mode: odd");
    std::fs::remove_dir_all(dir).unwrap();
}

/// `--restart`: who ends comes back as its policy says, unless its user meant the end.
fn restarts(c: &Cluster) {
    let of =
        |name: &str, field: &str| c.d("node2", &format!("inspect --format {{{{.{field}}}}} {name}")).trim().to_owned();
    let run = |policy: &str, name: &str, script: &str| {
        c.docker("node2", &["run", "-d", "--restart", policy, "--name", name, "alpine", "sh", "-c", script]);
    };
    run("on-failure:2", "thrice", "echo run; exit 3");
    run("on-failure", "well", "echo run");
    run("always", "loop", "sleep 1d");
    run("unless-stopped", "unless", "sleep 1d");
    run("always", "crash", "exit 1");
    run("always", "again", "sleep 1d");
    c.d("node2", "run -d --rm --name brief alpine sleep 1d");
    // Restarted by its user, who alone starts it.
    for name in ["again", "brief"] {
        c.d("node2", &format!("restart -t 0 {name}"));
    }
    until(Duration::from_secs(10), "between two runs it is restarting", || {
        c.d("node2", "ps --filter name=crash --format {{.Status}}").starts_with("Restarting (1)").then_some(())
    });
    // It runs for a moment now and then, and is not removed in that moment either.
    until(Duration::from_secs(10), "who is restarting is not removed", || {
        let out = c.try_exec("node2", &["docker", "rm", "crash"]);
        assert!(!out.status.success(), "removed while it is restarting");
        let why = "container is restarting: stop the container before removing or force remove";
        text(&out.stderr).contains(why).then_some(())
    });
    until(Duration::from_secs(10), "who is restarting executes nothing", || {
        let out = c.try_exec("node2", &["docker", "exec", "crash", "true"]);
        text(&out.stderr).contains("is restarting, wait until the container is running").then_some(())
    });
    c.d("node2", "rm -f crash");
    until(Duration::from_secs(10), "two more tries", || (of("thrice", "RestartCount") == "2").then_some(()));
    // What was refused has changed nothing.
    c.no("node2", "rm loop", "container is running: stop the container before removing or force remove");
    c.no("node2", "kill -s NOSUCH loop", "cannot kill container: loop: invalid signal: NOSUCH");
    c.no("node2", "stop -s NOSUCH loop", "invalid signal: NOSUCH");
    let pid = of("loop", "State.Pid");
    c.exec("node2", &["kill", "-9", &pid]);
    until(Duration::from_secs(10), "another process", || {
        (of("loop", "State.Running") == "true" && of("loop", "State.Pid") != pid && of("loop", "State.Pid") != "0")
            .then_some(())
    });
    assert!(c.d("node2", "exec loop ip -4 addr").contains("172.18."), "with its network");
    for name in ["loop", "unless"] {
        c.d("node2", &format!("kill {name}"));
    }
    std::thread::sleep(Duration::from_secs(1));
    for (name, count) in [("loop", "1"), ("unless", "0"), ("well", "0"), ("thrice", "2")] {
        assert_eq!((&*of(name, "State.Status"), &*of(name, "RestartCount")), ("exited", count), "{name}");
    }
    assert_eq!(c.d("node2", "logs thrice"), "run\nrun\nrun\n");
    assert_eq!((&*of("again", "State.Running"), &*of("again", "RestartCount")), ("true", "0"));
    for name in ["again", "brief"] {
        assert!(c.d("node2", &format!("exec {name} ip -4 addr")).contains("172.18."), "{name}");
        c.d("node2", &format!("stop -t 0 {name}"));
    }
    until(Duration::from_secs(5), "it removes itself after all", || {
        c.d("node2", "ps -aq --filter name=brief").is_empty().then_some(())
    });
    // The daemon's own return: `always` means it, `unless-stopped` was stopped.
    c.dev(&["kill", "node2"]);
    c.dev(&["start", "node2"]);
    until(Duration::from_secs(20), "always is always", || (of("loop", "State.Running") == "true").then_some(()));
    assert_eq!(of("unless", "State.Running"), "false");
    c.d("node2", "rm -f thrice well loop unless again");
    c.no("node2", "run --restart sometimes alpine", "invalid restart policy");
}

/// Of those who start a container at once, one does so; the others leave it its network and let it be.
fn started_by_many(c: &Cluster) {
    c.d("node2", "create --rm --name many -p 8097:3000 hello");
    c.exec("node2", &["sh", "-c", "for i in 1 2 3 4; do docker start many & done; wait"]);
    let url = format!("http://{}:8097", c.addr("node2"));
    let said = until(Duration::from_secs(5), "it serves", || {
        let out = c.try_exec("client", &["curl", "-sS", "-m", "2", &url]);
        out.status.success().then(|| text(&out.stdout))
    });
    assert!(said.starts_with("HI from "), "{said}");
    assert_eq!(c.d("node2", "ps --filter name=many --format {{.Names}}").trim(), "many");
    c.d("node2", "rm -f many");
}

/// A command on a terminal of 33 lines and 77 columns, on which its user types each of `input` in turn: also what is
/// typed before the command has the terminal is for the command.
fn on_terminal(c: &Cluster, input: &[&str], command: &str) -> (i32, String) {
    let typed: String = input.iter().map(|i| format!("sleep 0.5; printf '{i}'; ")).collect();
    let script = format!("({typed}) | timeout 20 script -qec \"stty rows 33 cols 77 -ixon; {command}\" /dev/null");
    code(c, "node2", &["bash", "-c", &script])
}

fn terminals(c: &Cluster) {
    let (rc, said) = on_terminal(c, &["tty\\necho $((6*7))\\nexit 3\\n"], "docker run -it --rm alpine sh");
    assert!(rc == 3 && said.contains("/dev/pts/0") && said.contains("42\r\n"), "{rc} {said}");
    c.d("node2", "run -d -it --name term alpine sh");
    let (rc, said) = on_terminal(c, &["stty size\\nexit 4\\n"], "docker exec -it term sh");
    assert!(rc == 4 && said.contains("33 77\r\n"), "{rc} {said}");
    // From the first moment, not from when the client says so again.
    for command in ["docker run -it --rm alpine stty size", "docker exec -it term stty size"] {
        let (rc, said) = on_terminal(c, &["\\n"], command);
        assert!(rc == 0 && said.contains("33 77\r\n"), "{command}: {rc} {said}");
    }
    // Attached, and detached again by its keys: it goes on.
    let (_, said) = on_terminal(c, &["echo $((6*8))\\n", "\\020\\021"], "docker attach term");
    assert!(said.contains("read escape sequence"), "{said}");
    until(Duration::from_secs(5), "what was typed has been done", || {
        c.d("node2", "logs term").contains("48").then_some(())
    });
    assert_eq!(c.d("node2", "ps --filter name=term --format {{.State}}").trim(), "running");
    assert_eq!(c.exec_input("node2", "piped\n", &["docker", "exec", "-i", "term", "cat"]), "piped\n");
    assert_eq!(c.exec_input("node2", "piped\n", &["docker", "run", "-i", "--rm", "alpine", "cat"]), "piped\n");
    c.d("node2", "rm -f term");
    // Followed until it ends.
    c.docker(
        "node2",
        &["run", "-d", "--name", "talk", "alpine", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 1; done"],
    );
    assert_eq!(c.d("node2", "logs -f talk"), "1\n2\n3\n");
    assert_eq!(c.d("node2", "logs --tail 1 talk"), "3\n");
    c.d("node2", "rm talk");
}

fn images_by_hand(c: &Cluster) {
    c.d("node1", "tag alpine foo/bar:1");
    c.no("node1", "tag alpine Foo", "must be lowercase");
    let names = |what: &str| c.d("node1", &format!("images --format {{{{.Repository}}}}:{{{{.Tag}}}} {what}"));
    assert!(names("").contains("foo/bar:1") && names("").contains("alpine:latest"));
    assert_eq!(names("foo/bar"), "foo/bar:1\n", "and no other name of the same image");
    assert_eq!((names("foo/bar:2"), names("foo/*")), (String::new(), "foo/bar:1\n".to_owned()));
    assert_eq!(c.d("node1", "rmi foo/bar:1").trim(), "Untagged: foo/bar:1");
    c.no("node1", "rmi nosuch", "No such image: nosuch:latest");
    c.no("node1", "image inspect nosuch", "No such image: nosuch:latest");
    assert!(c.d("node1", "image inspect alpine").contains("alpine:latest"));
    c.no("node1", "run nosuch.invalid/image", "Unable to find image");
    let archive = images().join("root.tar");
    let made = Command::new("tar").args(["-C", "/etc", "-cf"]).arg(&archive).arg("debian_version").status().unwrap();
    assert!(made.success());
    c.docker("node1", &["import", archive.to_str().unwrap(), "imp:1"]);
    assert_eq!(c.d("node1", "image ls -q imp").lines().count(), 1);
    assert!(names("--filter since=alpine").contains("imp:1") && !names("--filter before=imp:1").contains("imp:1"));
    c.no("node1", "images --filter before=nosuch", "No such image: nosuch:latest");
    assert!(c.d("node1", "rmi imp:1").contains("Deleted: sha256:"));
}
