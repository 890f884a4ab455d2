//! `docker ps|inspect|exec|run|logs|…` and images.

use malha_api::backend::TerminalSize;

use crate::support::{Host, engine::ID};

#[tokio::test]
async fn containers_are_listed_and_inspected() {
    let host = Host::start().await;
    let text = host
        .ok(&["ps", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Image}} {{.Command}} {{.State}} {{.Networks}}"])
        .await;
    assert_eq!(text, format!("{ID} web.1.xyz bench:1 \"sleep 50m\" running my-overlay"));
    assert_eq!(host.ok(&["ps", "-q", "-f", "name=^web", "-f", "is-task=true"]).await, &ID[..12]);
    assert_eq!(host.ok(&["ps", "-q", "-f", "label=other"]).await, "");
    let format =
        "{{.Name}} {{.State.Running}} {{(index .NetworkSettings.Networks \"my-overlay\").IPAddress}} {{.Driver}}";
    assert_eq!(host.ok(&["inspect", "b4a6", "-f", format]).await, "/web.1.xyz true 10.0.1.4 overlayfs");
    assert_eq!(host.ok(&["ps", "-s", "--format", "{{.Size}}"]).await, "2kB (virtual 5MB)");
    assert_eq!(host.ok(&["inspect", "-s", "b4a6", "-f", "{{.SizeRw}} {{.SizeRootFs}}"]).await, "2000 5000000");
    assert!(!host.ok(&["inspect", "b4a6"]).await.contains("SizeRw"), "only for who asks");
    let nothing = host.docker(&["inspect", "nothing"]).await;
    assert!(nothing.stderr.contains("o such object: nothing"), "{nothing:?}");
    host.engine.state().untagged = true;
    assert_eq!(host.ok(&["ps", "--format", "{{.Image}}"]).await, "1".repeat(12), "an image without its name");
    host.engine.state().running = false;
    for (filter, shown) in [("since=b4a6", ""), ("exited=0", ""), ("status=exited", &ID[..12])] {
        assert_eq!(host.ok(&["ps", "-q", "-f", filter]).await, shown, "{filter}");
    }
}

#[tokio::test]
async fn exec_carries_input_both_outputs_and_the_exit_code() {
    let host = Host::start().await;
    let big = vec![b'x'; 3 << 20];
    let done = host.docker_with(&["exec", "-i", "b4a6", "cat"], &big).await;
    assert_eq!((done.code, done.stdout.len()), (0, big.len()));
    let done = host.docker(&["exec", "b4a6", "sh", "-c", "echo out; echo err >&2; exit 7"]).await;
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (7, "out\n", "err\n"));
    // Input that never ends does not keep a finished process's client.
    let done = host.docker_with(&["exec", "-i", "b4a6", "true"], &big).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    let done = host.docker(&["exec", "nothing", "true"]).await;
    assert!(done.code == 1 && done.stderr.contains("No such container: nothing"), "{done:?}");
}

#[tokio::test]
async fn exec_on_a_terminal_is_raw_and_resized() {
    let host = Host::start().await;
    let mut command = host.command("script");
    command.args([
        "-qec",
        "stty rows 40 cols 100; docker exec -it b4a6 sh -c 'echo on tty; read line; echo got $line'",
        "/dev/null",
    ]);
    let done = host.run(command, b"hello\r").await;
    assert!(done.stdout.contains("on tty"), "{done:?}");
    let size = TerminalSize { width: 100, height: 40 };
    let state = host.engine.state();
    assert_eq!((state.first_size, state.resized), (Some(size), Some(size)));
}

#[tokio::test]
async fn run_attaches_waits_and_returns_the_exit_code() {
    let host = Host::start().await;
    let done = host
        .docker_with(
            &["run", "-i", "--network", "net", "--network-alias", "db", "bench:1", "sh", "-c", "cat; exit 3"],
            b"some input",
        )
        .await;
    assert_eq!((done.code, done.stdout.as_str()), (3, "some input"), "{done:?}");
    let created = host.engine.state().created[0].clone();
    assert_eq!(created.host_config.network_mode, "net");
    let endpoints = &created.networking_config.endpoints_config;
    assert_eq!(endpoints["net"].as_ref().unwrap().aliases.as_deref(), Some(&["db".to_owned()][..]));
    assert!(created.config.stdin_once && created.config.open_stdin);
    let done = host.docker(&["run", "--device", "/dev/null", "bench:1"]).await;
    assert!(done.stderr.contains("--device is not supported"), "{done:?}");
    let done = host.docker(&["run", "missing:1"]).await;
    assert!(done.stderr.contains("Unable to find image 'missing:1' locally"), "{done:?}");
    assert!(done.code == 125 && done.stderr.contains("No such image"), "{done:?}");
}

#[tokio::test]
async fn attach_half_closes_and_keeps_the_output() {
    let host = Host::start().await;
    let done = host.docker_with(&["attach", "b4a6"], b"through cat\n").await;
    assert_eq!(done.stdout, "through cat\n", "{done:?}");
}

#[tokio::test]
async fn logs_are_framed_stamped_and_followed() {
    let host = Host::start().await;
    let done = host.docker(&["logs", "b4a6"]).await;
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out 1\n", "err 2\n"));
    let done = host.docker(&["logs", "-t", "-f", "b4a6"]).await;
    assert!(done.stdout.starts_with("2025-11-21T20:46:15.000000001Z out 1\n"), "{done:?}");
    assert_eq!(done.stdout.lines().count(), 4);
}

#[tokio::test]
async fn a_life_step_by_step() {
    let host = Host::start().await;
    let done = host.docker(&["rm", "b4a6"]).await;
    assert!(
        done.stderr.contains("container is running: stop the container before removing or force remove"),
        "{done:?}"
    );
    let done = host.docker(&["kill", "-s", "NOPE", "b4a6"]).await;
    assert!(done.stderr.contains("cannot kill container: b4a6: Invalid signal: NOPE"), "{done:?}");
    for args in [
        &["stop", "b4a6"][..],
        &["stop", "b4a6"],
        &["start", "b4a6"],
        &["restart", "b4a6"],
        &["kill", "b4a6"],
        &["rm", "-f", "b4a6"],
    ] {
        assert_eq!(host.ok(args).await, "b4a6", "{args:?}");
    }
    host.ok(&["rename", "b4a6", "other"]).await;
    for (args, word) in [
        (&["pause", "b4a6"][..], "docker pause"),
        (&["top", "b4a6"], "docker top"),
        (&["cp", "b4a6:/x", "-"], "docker cp"),
        (&["commit", "b4a6"], "docker commit"),
        (&["system", "df"], "docker system df"),
        (&["image", "prune", "-f"], "docker image prune"),
        (&["save", "bench:1"], "docker save"),
        (&["push", "bench:1"], "docker push"),
    ] {
        let done = host.docker(args).await;
        assert!(done.code != 0 && done.stderr.contains(word) || args[0] == "cp", "{args:?} {done:?}");
        assert_ne!(done.code, 0, "{args:?}");
    }
}

#[tokio::test]
async fn images_and_volumes() {
    let host = Host::start().await;
    let images = host.ok(&["images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}"]).await;
    let mut names: Vec<&str> = images.lines().collect();
    names.sort_unstable(); // the CLI shows the repositories of one image in no order
    assert_eq!(names, ["bench:1 4.2MB", "reg:5000/a/b:1 4.2MB"]);
    assert_eq!(
        host.ok(&["image", "inspect", "reg:5000/a/b:1", "-f", "{{.Os}}/{{.Architecture}}"]).await,
        "linux/amd64"
    );
    for filter in ["before=bench:1", "since=bench:1"] {
        assert_eq!(host.ok(&["images", "-q", "-f", filter]).await, "", "{filter}");
    }
    let done = host.docker(&["images", "-f", "since=missing:1"]).await;
    assert!(done.code != 0 && done.stderr.contains("No such image: missing:1"), "{done:?}");
    assert!(host.ok(&["history", "bench:1"]).await.contains("ADD busybox /"));
    host.ok(&["tag", "bench:1", "reg:5000/c/d:2"]).await;
    assert!(host.ok(&["rmi", "bench:1"]).await.contains("Untagged: bench:1"));
    // Far more than a JSON body may have.
    let archive = vec![0_u8; 20 << 20];
    let done = host.docker_with(&["load"], &archive).await;
    assert_eq!((done.stdout.trim(), host.engine.state().loaded), ("Loaded image: bench:1", archive.len()), "{done:?}");
    let done = host.docker_with(&["import", "-", "reg:5000/imp:9"], b"archive").await;
    assert!(done.stdout.contains("reg:5000/imp:9"), "{done:?}");
    assert!(host.ok(&["pull", "reg:5000/a/b:1"]).await.contains("Pull complete"));
    let done = host.docker(&["pull", "reg:5000/a/b:broken"]).await;
    assert!(done.code == 1 && done.stderr.contains("the disk is full"), "{done:?}");
    assert!(!done.stderr.contains("from daemon"), "told in the stream, as with Docker: {done:?}");
    let done = host.docker(&["pull", "reg:5000/a/b:denied"]).await;
    assert!(done.stderr.contains("Error response from daemon: pull access denied for reg:5000/a/b"), "{done:?}");
    let answer = host.request("POST /images/create?fromImage=reg:5000/a/b&tag=denied", "").await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("{\"message\":\"pull access denied"), "{answer}");
    assert_eq!(host.ok(&["volume", "create", "--label", "a=b", "vol"]).await, "vol");
    assert_eq!(host.ok(&["volume", "ls", "-q"]).await, "data");
    assert!(host.docker(&["volume", "inspect", "nope"]).await.stderr.contains("o such volume: nope"));
}
