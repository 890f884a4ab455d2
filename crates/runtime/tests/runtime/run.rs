//! Containers from creation to removal.

use std::time::{Duration, Instant};

use crate::support::{UNTIL_GO, go, with_node};
use futures::StreamExt;
use malha_runtime::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_runs_logs_and_ends() {
    with_node(|node| async move {
        let runtime = &node.runtime;
        let mut events = runtime.events();
        let begun = Instant::now();
        let created = runtime
            .create(CreateOptions {
                name: Some("/first".into()),
                env: vec!["A=b c".into()],
                hostname: Some("box".into()),
                ..node.script("echo out $A $FROM_IMAGE $(hostname); echo err >&2; sleep 0.3; exit 7")
            })
            .await
            .unwrap();
        assert_eq!(created.state.status, ContainerStatus::Created);
        assert_eq!(created.name, "first");
        let next = runtime.wait("first", WaitCondition::NextExit).unwrap();
        runtime.start("first").await.unwrap();
        println!("create to started: {:?}", begun.elapsed());
        let running = runtime.inspect(&created.id[..8]).unwrap();
        assert!(running.state.status == ContainerStatus::Running && running.state.pid > 0);
        assert!(matches!(runtime.start("first").await, Err(RuntimeError::NotModified(_))));
        let error = runtime.remove(&created.id[..8], false, false).await.unwrap_err().to_string();
        let asked = format!("cannot remove container \"{}\": container is running: ", &created.id[..8]);
        assert!(error.starts_with(&asked), "{error}");

        let exit = tokio::time::timeout(crate::support::WAIT, next.wait()).await.unwrap().unwrap();
        assert_eq!(exit.exit_code, 7);
        let ended = runtime.inspect("first").unwrap();
        assert_eq!((ended.state.status, ended.state.exit_code, ended.state.pid), (ContainerStatus::Exited, 7, 0));
        assert!(ended.state.finished_at > ended.state.started_at && ended.state.started_at > ended.created);
        assert_eq!(node.log_text("first", true, false).await, "out b c 1 box\n");
        assert_eq!(node.log_text("first", false, true).await, "err\n");

        // Again, from the start.
        runtime.start("first").await.unwrap();
        assert_eq!(node.exit_of("first").await, 7);
        assert_eq!(node.log_text("first", true, false).await, "out b c 1 box\n".repeat(2));
        runtime.rename("first", "second").await.unwrap();
        runtime.remove("second", false, false).await.unwrap();
        assert!(runtime.list().is_empty());
        assert!(!ended.paths.dir.exists());

        let mut kinds = Vec::new();
        while let Ok(RuntimeEvent::Container(event)) = events.try_recv() {
            assert_eq!(event.id, created.id);
            let untimed = |kind| match kind {
                EventKind::Die { exit_code, ran } => {
                    assert!(!ran.is_zero() && ran < crate::support::WAIT, "{ran:?}");
                    EventKind::Die { exit_code, ran: Duration::ZERO }
                }
                kind => kind,
            };
            kinds.push(untimed(event.kind));
        }
        let die = EventKind::Die { exit_code: 7, ran: Duration::ZERO };
        let renamed = EventKind::Rename { old_name: "first".into() };
        let wanted =
            [EventKind::Create, EventKind::Start, die.clone(), EventKind::Start, die, renamed, EventKind::Destroy];
        assert_eq!(kinds, wanted);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_takes_what_it_writes_and_its_image() {
    with_node(|node| async move {
        let runtime = &node.runtime;
        let id =
            runtime.create(node.script("dd if=/dev/zero of=/big bs=1024 count=3000 2>/dev/null")).await.unwrap().id;
        let before = runtime.size(&id).await.unwrap();
        assert!(before.written < 1 << 20 && before.whole > before.written + (500 << 10), "{before:?}");
        runtime.start(&id).await.unwrap();
        assert_eq!(node.exit_of(&id).await, 0);
        let after = runtime.size(&id).await.unwrap();
        let grown = after.written - before.written;
        assert!((3_000_000..3_300_000).contains(&grown), "{before:?} {after:?}");
        assert_eq!(after.whole - before.whole, grown);
        assert!(runtime.size("nothing").await.is_err_and(|e| e.is_not_found()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_for_another_machine_is_refused() {
    with_node(|node| async move {
        let other = if cfg!(target_arch = "aarch64") { "amd64" } else { "arm64" };
        let asked = |platform: &str| CreateOptions { platform: Some(platform.into()), ..node.script("exit 0") };
        let refused = node.runtime.create(asked(&format!("linux/{other}"))).await.unwrap_err();
        assert!(refused.is_not_found(), "the CLI pulls on a 404");
        let why = format!("was found but does not match the specified platform: wanted linux/{other}, actual: linux/");
        assert!(refused.to_string().starts_with("image with reference busybox ") && refused.to_string().contains(&why));
        let nonsense = node.runtime.create(asked("no/such/thing/at/all")).await.unwrap_err();
        assert_eq!(nonsense.kind(), ErrorKind::InvalidArgument, "{nonsense}");
        for fine in ["linux", std::env::consts::ARCH] {
            assert_eq!(node.run(asked(fine)).await.0, 0, "{fine}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_killing_and_removing() {
    with_node(|node| async move {
        let runtime = &node.runtime;
        // Heeds its signal.
        let heeds = node.started(node.script("trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")).await;
        node.until_logged(&heeds, "ready").await;
        let begun = Instant::now();
        runtime.stop(&heeds, None, None).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(8), "killed after ten seconds, it seems");
        assert_eq!(node.exit_of(&heeds).await, 3);
        assert!(matches!(runtime.stop(&heeds, None, None).await, Err(RuntimeError::NotModified(_))));

        // Does not.
        let deaf = node.started(node.script("trap '' TERM; echo ready; while :; do sleep 0.05; done")).await;
        node.until_logged(&deaf, "ready").await;
        runtime.stop(&deaf, Some(Duration::from_millis(500)), None).await.unwrap();
        assert_eq!(node.exit_of(&deaf).await, 137);

        let mut events = runtime.events();
        let sleeper = node.started(node.script("sleep 1000")).await;
        let begun = Instant::now();
        let killed = runtime.kill(&sleeper, None);
        let told = async {
            loop {
                let RuntimeEvent::Container(event) = events.recv().await.unwrap() else { continue };
                if let EventKind::Die { exit_code, .. } = event.kind {
                    return (exit_code, begun.elapsed());
                }
            }
        };
        let (killed, (code, after)) = tokio::join!(killed, told);
        killed.unwrap();
        println!("kill to die event: {after:?}");
        assert_eq!(code, 137);
        assert!(after < Duration::from_secs(1), "{after:?}");
        assert!(matches!(runtime.kill(&sleeper, None).await, Err(RuntimeError::NotRunning(_))));
        assert!(matches!(runtime.kill(&sleeper, Some("NOPE")).await, Err(RuntimeError::InvalidArgument(_))));

        runtime.start(&sleeper).await.unwrap();
        runtime.stop(&sleeper, Some(Duration::ZERO), None).await.unwrap();
        runtime.start(&sleeper).await.unwrap();
        assert_eq!(runtime.inspect(&sleeper).unwrap().state.status, ContainerStatus::Running);
        let removed = runtime.wait(&sleeper, WaitCondition::Removed).unwrap();
        runtime.remove(&sleeper, true, false).await.unwrap();
        removed.wait().await.unwrap();
        assert!(matches!(runtime.inspect(&sleeper), Err(RuntimeError::NoSuchContainer(_))));

        // While it starts.
        let starting = runtime.create(node.script("sleep 1000")).await.unwrap().id;
        let (started, removed) = tokio::join!(runtime.start(&starting), runtime.remove(&starting, true, false));
        started.unwrap();
        removed.unwrap();
        assert!(runtime.inspect(&starting).is_err());

        // What waited for the removal finds nothing.
        let going = runtime.create(node.script("true")).await.unwrap().id;
        let (removed, renamed) = tokio::join!(runtime.remove(&going, false, false), runtime.rename(&going, "too-late"));
        removed.unwrap();
        assert!(matches!(renamed, Err(RuntimeError::NoSuchContainer(_))), "{renamed:?}");

        // Takes itself away, unless it is kept.
        let own = CreateOptions { auto_remove: true, ..node.script("sleep 0.2; exit 4") };
        let own = runtime.create(own).await.unwrap().id;
        runtime.keep(&own, true).await.unwrap();
        runtime.start(&own).await.unwrap();
        assert_eq!(node.exit_of(&own).await, 4);
        runtime.keep(&own, false).await.unwrap();
        runtime.start(&own).await.unwrap();
        let gone = runtime.wait(&own, WaitCondition::Removed).unwrap();
        assert_eq!(tokio::time::timeout(crate::support::WAIT, gone.wait()).await.unwrap().unwrap().exit_code, 4);
        assert!(runtime.inspect(&own).is_err());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_that_nobody_waits_for_leaves_nothing() {
    with_node(|node| async move {
        let runtime = &node.runtime;
        let named = || CreateOptions { name: Some("first".into()), ..node.script("true") };
        for patience in 0..20 {
            let creation = tokio::time::timeout(Duration::from_millis(patience), runtime.create(named()));
            if let Ok(made) = creation.await {
                runtime.remove(&made.unwrap().id, false, false).await.unwrap();
            }
            let again = async {
                loop {
                    match runtime.create(named()).await {
                        Err(RuntimeError::NameInUse { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
                        made => return made.unwrap().id,
                    }
                }
            };
            let again = tokio::time::timeout(crate::support::WAIT, again).await.expect("the name is held");
            runtime.remove(&again, false, false).await.unwrap();
        }
        assert_eq!(std::fs::read_dir(node.config.state_dir.join("containers")).unwrap().count(), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_nobody_waits_for_can_be_stopped() {
    with_node(|node| async move {
        let created = node.runtime.create(node.script("sleep 1000")).await.unwrap();
        let processes = || std::fs::read_to_string(created.paths.cgroup.join("cgroup.procs")).unwrap_or_default();
        for patience in [1, 30, 60, 90, 120] {
            let start = node.runtime.start(&created.id);
            let _ = tokio::time::timeout(Duration::from_millis(patience), start).await;
            node.runtime.stop(&created.id, Some(Duration::ZERO), None).await.unwrap();
            assert_eq!(node.runtime.inspect(&created.id).unwrap().state.status, ContainerStatus::Exited);
            assert_eq!(processes(), "", "after {patience} ms");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_is_refused_in_dockers_words() {
    with_node(|node| async move {
        let runtime = &node.runtime;
        let missing = CreateOptions { image: "nothing".into(), ..CreateOptions::default() };
        let error = runtime.create(missing).await.unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::NotFound, "No such image: nothing:latest"));

        let named = || CreateOptions { name: Some("taken".into()), ..node.script("true") };
        let first = runtime.create(named()).await.unwrap();
        let error = runtime.create(named()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().starts_with(&format!(
            "Conflict. The container name \"/taken\" is already in use by container \"{}\".",
            first.id
        )));
        for bad in ["-x", "a b", "x"] {
            let options = CreateOptions { name: Some(bad.into()), ..node.script("true") };
            assert_eq!(runtime.create(options).await.unwrap_err().kind(), ErrorKind::InvalidArgument, "{bad}");
        }

        let absent = CreateOptions { cmd: Some(vec!["/nope".into()]), image: "busybox".into(), ..Default::default() };
        let id = runtime.create(absent).await.unwrap().id;
        let attached =
            runtime.attach(&id, AttachOptions { stdout: true, stream: true, ..Default::default() }).await.unwrap();
        let error = runtime.start(&id).await.unwrap_err();
        println!("{error}");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("no such file or directory"), "{error}");
        let state = runtime.inspect(&id).unwrap().state;
        assert_eq!((state.status, state.exit_code), (ContainerStatus::Created, 127));
        assert!(!state.error.is_empty());
        assert_eq!(crate::support::collect(attached.output).await.0, "");
        runtime.remove(&id, false, false).await.unwrap();

        let nobody = CreateOptions { user: Some("nobody".into()), ..node.script("true") };
        let id = runtime.create(nobody).await.unwrap().id;
        let error = runtime.start(&id).await.unwrap_err().to_string();
        assert!(error.contains("unable to find user nobody"), "{error}");
        let bind = |create| Mount {
            source: MountSource::Bind { path: node.dir.join("absent"), create, propagation: String::new() },
            target: "/x".into(),
            read_only: false,
        };
        let refused = CreateOptions { mounts: vec![bind(false)], ..node.script("true") };
        let error = runtime.create(refused).await.unwrap_err().to_string();
        assert!(error.contains("bind source path does not exist"), "{error}");
        let made = CreateOptions { mounts: vec![bind(true)], ..node.script("touch /x/y") };
        assert_eq!(node.run(made).await.0, 0);
        assert!(node.dir.join("absent/y").exists());
        assert!(matches!(runtime.stop("absent", None, None).await, Err(RuntimeError::NoSuchContainer(_))));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_are_confined_as_docker_does_it() {
    with_node(|node| async move {
        let web =
            CreateOptions { user: Some("web".into()), ..node.script("id; grep Cap /proc/self/status; ls /etc/gone") };
        let (code, out, _) = node.run(web).await;
        assert!(out.contains("uid=1000(web) gid=1000(web) groups=1000(web),2000(extra)"), "{out}");
        assert!(out.contains("CapEff:\t0000000000000000") && out.contains("CapBnd:\t00000000a80425fb"), "{out}");
        assert_ne!(code, 0, "the upper layer deletes /etc/gone");

        let options = CreateOptions {
            readonly_rootfs: true,
            cap_drop: vec!["ALL".into()],
            sysctls: [("net.ipv4.ip_forward".to_owned(), "0".to_owned())].into(),
            ulimits: vec![Ulimit { name: "nofile".into(), soft: 100, hard: 200 }],
            resources: Resources { memory: 64 << 20, pids: 50, nano_cpus: 500_000_000, ..Resources::default() },
            working_dir: Some("/made/for/it".into()),
            ..node.script("")
        };
        let script = "touch /x; grep CapEff /proc/self/status; cat /proc/sys/net/ipv4/ip_forward; ulimit -n; pwd; \
                      touch /tmp/y; ls /sys/class/net";
        let options = CreateOptions { cmd: node.script(script).cmd, ..options };
        let (_, out, err) = node.run(CreateOptions { working_dir: Some("/data".into()), ..options }).await;
        assert!(err.contains("/x: Read-only file system"), "{err}");
        assert_eq!(out, "CapEff:\t0000000000000000\n0\n100\n/data\nlo\n");

        // Limits are where the kernel enforces them, and every process is in the v2 group.
        let limits = Resources { memory: 64 << 20, pids: 50, ..Resources::default() };
        let id = node.started(CreateOptions { resources: limits, ..node.script("sleep 1000") }).await;
        let info = node.runtime.inspect(&id).unwrap();
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", info.state.pid)).unwrap();
        println!("{groups}");
        let expected = format!("0::{}/{id}", node.config.cgroup_parent);
        assert!(groups.lines().any(|l| l == expected), "{groups}");
        let exec = ExecOptions { cmd: vec!["sleep".into(), "1000".into()], ..ExecOptions::default() };
        let exec = node.runtime.exec_create(&id, exec).await.unwrap();
        node.runtime.exec_start(&exec, true, None).await.unwrap();
        let pid = node.runtime.exec_inspect(&exec).unwrap().pid;
        let members = std::fs::read_to_string(info.paths.cgroup.join("cgroup.procs")).unwrap();
        for pid in [info.state.pid, pid] {
            assert!(members.lines().any(|l| l == pid.to_string()), "{pid} not in {members}");
        }
        let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", info.state.pid)).unwrap();
        assert_eq!(score, "0\n", "containerd's own protection is not for containers");
        assert!(info.paths.cgroup.starts_with(node.runtime.cgroup_dir().unwrap()));
        assert_eq!(node.runtime.pids(&id).await.unwrap().len(), 2);
        let shim = node.containerd.socket().join(&node.config.namespace).join(&id);
        let shim = crate::support::image::digest(shim.as_os_str().as_encoded_bytes());
        let shim = std::path::Path::new("/run/containerd/s").join(&shim["sha256:".len()..]);
        assert!(shim.exists());
        node.runtime.remove(&id, true, false).await.unwrap();
        assert!(!info.paths.cgroup.exists() && !shim.exists());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_can_be_cut_and_followed() {
    with_node(|node| async move {
        let runtime = &node.runtime;
        let script = format!(
            "for i in 1 2 3; do echo line $i; done; {UNTIL_GO}; for i in 4 5; do echo line $i >&2; done; printf tail"
        );
        let id = runtime.create(node.script(&script)).await.unwrap().id;
        assert_eq!(node.log_text(&id, true, true).await, "");
        runtime.start(&id).await.unwrap();
        node.until_logged(&id, "line 3").await;
        let options = LogOptions { stdout: true, stderr: true, follow: true, tail: Some(2), ..LogOptions::default() };
        let mut lines = runtime.logs(&id, options).await.unwrap().map(|l| l.unwrap());
        let mut followed: Vec<LogLine> = lines.by_ref().take(2).collect().await;
        go(runtime.inspect(&id).unwrap().state.pid);
        followed.extend(lines.collect::<Vec<_>>().await);
        let texts: Vec<&[u8]> = followed.iter().map(|l| l.bytes.as_ref()).collect();
        let wanted: [&[u8]; 5] = [b"line 2\n", b"line 3\n", b"line 4\n", b"line 5\n", b"tail"];
        assert_eq!(texts, wanted);
        assert_eq!(followed[2].stream, StdStream::Stderr);
        // The end of the follow is the end of the container.
        assert_eq!(node.exit_of(&id).await, 0);

        let at = followed[2].time;
        let part = |since, until| LogOptions { stdout: true, stderr: true, since, until, ..LogOptions::default() };
        assert_eq!(runtime.logs(&id, part(Some(at), None)).await.unwrap().count().await, 3);
        let before = malha_model::Timestamp(at.0 - 1);
        assert_eq!(runtime.logs(&id, part(None, Some(before))).await.unwrap().count().await, 3);
        let formatted = followed[0].formatted(true);
        let text = std::str::from_utf8(&formatted).unwrap();
        assert!(text.ends_with("Z line 2\n") && text.find(' ') == Some(30), "{text}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_memory_is_told() {
    with_node(|node| async move {
        let mut events = node.runtime.events();
        let greedy = ["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"].map(str::to_owned);
        let id = node
            .started(CreateOptions {
                cmd: Some(greedy.into()),
                resources: Resources { memory: 16 << 20, ..Resources::default() },
                ..node.script("")
            })
            .await;
        let exit = node.runtime.wait(&id, WaitCondition::Ended).unwrap().wait();
        let exit = tokio::time::timeout(crate::support::WAIT, exit).await.unwrap().unwrap();
        assert_eq!((exit.exit_code, exit.oom_killed), (137, true));
        let is_oom = |e: &RuntimeEvent| matches!(e, RuntimeEvent::Container(e) if e.kind == EventKind::Oom);
        let oom = async { while !is_oom(&events.recv().await.unwrap()) {} };
        tokio::time::timeout(crate::support::WAIT, oom).await.unwrap();
        assert_eq!(node.exit_of(&id).await, 137);
        let node = node.reopen().await;
        assert!(node.runtime.inspect(&id).unwrap().state.oom_killed);
    })
    .await;
}
