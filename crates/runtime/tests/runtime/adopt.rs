//! The daemon goes and comes back; containerd too; the disk fills up.

use std::time::Duration;

use crate::support::{Node, UNTIL_GO, eventually, go, with_node};
use futures::StreamExt;
use malha_runtime::*;
use nix::sys::signal::{Signal, kill};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_outlive_the_daemon_and_are_taken_over() {
    with_node(|node| async move {
        let runtime = node.runtime.clone();
        // Far more than a pipe holds is written while nobody is there.
        let chatty = format!("{UNTIL_GO}; seq 1 200000; echo end; exit 8");
        let chatty = node.started(CreateOptions { name: Some("chatty".into()), ..node.script(&chatty) }).await;
        let runs = node
            .started(CreateOptions { labels: [("a".into(), "b".into())].into(), ..node.script("sleep 1000") })
            .await;
        let stays =
            runtime.create(CreateOptions { name: Some("stays".into()), ..node.script("echo hi") }).await.unwrap().id;
        let typed = CreateOptions { open_stdin: true, ..node.script("while read l; do echo got $l; done") };
        let typed = node.started(typed).await;
        let temporary = node.started(CreateOptions { auto_remove: true, ..node.script(UNTIL_GO) }).await;
        let before = runtime.inspect(&runs).unwrap();
        let end = [&chatty, &temporary].map(|id| runtime.inspect(id).unwrap().state.pid);
        drop(runtime);

        let Node { runtime, dir, containerd, config } = node;
        drop(runtime);
        for pid in end {
            go(pid);
            eventually("an end that nobody saw", || !std::path::Path::new(&format!("/proc/{pid}")).exists()).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let runtime = Runtime::open(config.clone()).await.unwrap();
        let node = Node { dir, containerd, runtime: runtime.clone(), config };

        let ended = runtime.inspect("chatty").unwrap();
        assert_eq!((ended.state.status, ended.state.exit_code), (ContainerStatus::Exited, 8));
        let age = malha_clock_now() - ended.state.finished_at.0;
        assert!(age > 500_000_000, "the end is dated when it was, not when it was found: {age}");
        let log = node.log_text(&chatty, true, false).await;
        assert_eq!(log.lines().count(), 200_001);
        assert!(log.ends_with("200000\nend\n"));

        let after = runtime.inspect(&runs).unwrap();
        assert_eq!((&after.state, &after.options, &after.process), (&before.state, &before.options, &before.process));
        assert_eq!(node.exec_sh(&runs, "exit 3").await.0, 3);
        assert!(runtime.inspect(&temporary).is_err(), "--rm works across a restart");

        let wanted = AttachOptions { stdin: true, stdout: true, stream: true, ..AttachOptions::default() };
        let mut attached = runtime.attach(&typed, wanted).await.unwrap();
        attached.stdin.as_mut().unwrap().write("again\n".into()).await.unwrap();
        crate::support::read_until(&mut attached.output, "got again\n").await;

        runtime.start(&stays).await.unwrap();
        assert_eq!(node.exit_of(&stays).await, 0);
        // Names are held, exits are seen.
        assert!(matches!(
            runtime.create(CreateOptions { name: Some("stays".into()), ..node.script("") }).await,
            Err(RuntimeError::NameInUse { .. })
        ));
        let next = runtime.wait(&runs, WaitCondition::NextExit).unwrap();
        runtime.kill(&runs, Some("KILL")).await.unwrap();
        assert_eq!(next.wait().await.unwrap().exit_code, 137);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_that_is_slow_to_answer_is_waited_for() {
    with_node(|node| async move {
        let id = node.started(node.script("sleep 1000")).await;
        let before = node.runtime.inspect(&id).unwrap().state;
        let shim = parent(before.pid);
        kill(shim, Signal::SIGSTOP).unwrap();
        // Later than containerd waits for it.
        let thaw = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(3));
            kill(shim, Signal::SIGCONT).unwrap();
        });
        let node = node.reopen().await;
        thaw.join().unwrap();
        assert_eq!(node.runtime.inspect(&id).unwrap().state, before);
        assert_eq!(node.exec_sh(&id, "echo alive").await.1, "alive\n");
        node.runtime.kill(&id, None).await.unwrap();
        assert_eq!(node.exit_of(&id).await, 137);
    })
    .await;
}

fn parent(pid: u32) -> nix::unistd::Pid {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap();
    nix::unistd::Pid::from_raw(parent.trim().parse().unwrap())
}

fn malha_clock_now() -> i64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerd_may_die_and_return() {
    with_node(|node| async move {
        let runtime = &node.runtime;
        let runs = node.started(node.script("sleep 1000")).await;
        let ends = node.started(node.script("sleep 1; echo last words; exit 9")).await;
        let pid = i32::try_from(node.containerd.pid()).unwrap();
        kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(runtime.inspect(&runs).unwrap().state.status, ContainerStatus::Running);
        let error = runtime.image_list().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");

        let again = PrivateContainerd::find_or_start(&node.dir.join("ctrd")).await.unwrap();
        assert_ne!(again.pid(), node.containerd.pid());
        let found = PrivateContainerd::find_or_start(&node.dir.join("ctrd")).await.unwrap();
        assert_eq!(found.pid(), again.pid());
        assert_eq!(node.exit_of(&ends).await, 9);
        assert_eq!(node.log_text(&ends, true, false).await, "last words\n");
        assert_eq!(node.exec_sh(&runs, "echo still").await.1, "still\n");
        runtime.stop(&runs, Some(Duration::ZERO), None).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_made_and_half_removed_containers_are_finished_off() {
    with_node(|node| async move {
        let runtime = &node.runtime;
        let removing = runtime.create(node.script("true")).await.unwrap();
        let creating = runtime.create(node.script("true")).await.unwrap();
        let running = node.started(node.script("sleep 1000")).await;
        std::fs::write(removing.paths.dir.join("state.json"), r#"{"status":"removing"}"#).unwrap();
        std::fs::remove_file(creating.paths.dir.join("container.json")).unwrap();
        let node = node.reopen().await;
        assert!(!removing.paths.dir.exists() && !creating.paths.dir.exists());
        let listed: Vec<String> = node.runtime.list().into_iter().map(|c| c.id).collect();
        assert_eq!(listed, std::slice::from_ref(&running));

        // Metadata that is gone altogether: the process must not run on unseen.
        let info = node.runtime.inspect(&running).unwrap();
        std::fs::remove_dir_all(&info.paths.dir).unwrap();
        let node = node.reopen().await;
        assert!(node.runtime.list().is_empty());
        eventually("the process is gone", || !std::path::Path::new(&format!("/proc/{}", info.state.pid)).exists())
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_whose_metadata_cannot_be_read_is_left_alone() {
    with_node(|node| async move {
        let id = node.started(node.script("sleep 1000")).await;
        let before = node.runtime.inspect(&id).unwrap();
        let file = before.paths.dir.join("container.json");
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, "{").unwrap();
        let node = node.reopen().await;
        assert!(node.runtime.list().is_empty());
        std::fs::write(&file, whole).unwrap();
        let node = node.reopen().await;
        assert_eq!(node.runtime.inspect(&id).unwrap().state, before.state);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_an_error_and_nothing_more() {
    with_node(|node| async move {
        let state = node.dir.join("small");
        std::fs::create_dir(&state).unwrap();
        nix::mount::mount(Some("tmpfs"), &state, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=1m")).unwrap();
        let mut config = node.config.clone();
        config.state_dir = state.clone();
        config.namespace = format!("{}-small", config.namespace);
        let runtime = Runtime::open(config.clone()).await.unwrap();
        let archive = crate::support::image::docker_archive(&["busybox"], &crate::support::image::busybox());
        let error = runtime.image_load(std::io::Cursor::new(archive), None).await.unwrap_err();
        assert!(error.to_string().contains("No space left on device"), "{error}");
        drop(runtime);

        // The image by way of another directory, containers on the small one.
        config.state_dir = node.dir.join("large");
        let runtime = Runtime::open(config.clone()).await.unwrap();
        let archive = crate::support::image::docker_archive(&["busybox"], &crate::support::image::busybox());
        runtime.image_load(std::io::Cursor::new(archive), None).await.unwrap();
        drop(runtime);
        config.state_dir = state.clone();
        let runtime = Runtime::open(config.clone()).await.unwrap();
        let id = runtime.create(node.script("seq 1 100000; exit 4")).await.unwrap().id;
        runtime.start(&id).await.unwrap();
        let exit =
            tokio::time::timeout(crate::support::WAIT, runtime.wait(&id, WaitCondition::NotRunning).unwrap().wait());
        assert_eq!(exit.await.unwrap().unwrap().exit_code, 4, "a full log holds no container up");
        let all = LogOptions { stdout: true, ..LogOptions::default() };
        let lines: Vec<LogLine> = runtime.logs(&id, all).await.unwrap().map(|l| l.unwrap()).collect().await;
        assert!(lines.len() > 1000 && lines[0].bytes == "1\n", "{}", lines.len());

        std::fs::write(state.join("filler"), vec![0; 1 << 20]).unwrap_err();
        let error = runtime.create(node.script("true")).await.unwrap_err();
        assert!(error.to_string().contains("No space left on device"), "{error}");
        let error = runtime.rename(&id, "other").await.unwrap_err();
        assert!(error.to_string().contains("No space left on device"), "{error}");
        let name = runtime.inspect(&id).unwrap().name;
        drop(runtime);
        let runtime = Runtime::open(config).await.unwrap();
        let listed: Vec<String> = runtime.list().into_iter().map(|c| c.name).collect();
        assert_eq!(listed, [name]);
        std::fs::remove_file(state.join("filler")).unwrap();
        runtime.destroy_everything().await.unwrap();
        drop(runtime);
        nix::mount::umount2(&state, nix::mount::MntFlags::MNT_DETACH).unwrap();
    })
    .await;
}
