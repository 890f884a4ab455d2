//! Exec, attach, terminals: everything with a stream in both directions.

use std::time::Duration;

use crate::support::{UNTIL_GO, collect, go, read_until, with_node};
use bytes::Bytes;
use futures::StreamExt;
use malha_runtime::*;

fn sh(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_has_codes_streams_and_users() {
    with_node(|node| async move {
        let runtime = &node.runtime;
        let id = node.started(CreateOptions { env: vec!["A=1".into()], ..node.script("sleep 1000") }).await;
        assert_eq!(node.exec_sh(&id, "echo o; echo e >&2; exit 5").await, (5, "o\n".into(), "e\n".into()));
        let begun = std::time::Instant::now();
        for _ in 0..5 {
            node.exec_sh(&id, "true").await;
        }
        println!("exec: {:?} each", begun.elapsed() / 5);
        let options = ExecOptions {
            cmd: sh("id -u; pwd; echo $A $B $FROM_IMAGE"),
            env: vec!["B=2".into()],
            user: Some("web".into()),
            working_dir: Some("/data".into()),
            ..ExecOptions::default()
        };
        assert_eq!(node.exec(&id, options).await.1, "1000\n/data\n1 2 1\n");

        // More than any pipe holds, both ways, to the last byte.
        let options = ExecOptions {
            cmd: sh("wc -c; head -c 3000000 /dev/zero"),
            attach_stdin: true,
            attach_stdout: true,
            ..ExecOptions::default()
        };
        let exec = runtime.exec_create(&id, options).await.unwrap();
        let attached = runtime.exec_start(&exec, false, None).await.unwrap().unwrap();
        let mut stdin = attached.stdin.unwrap();
        let feed = async {
            for _ in 0..50 {
                stdin.write(Bytes::from(vec![b'x'; 50_000])).await.unwrap();
            }
            stdin.close().await;
        };
        let ((), (out, _)) = tokio::join!(feed, collect(attached.output));
        assert!(out.starts_with("2500000\n"), "{}", &out[..20]);
        assert_eq!(out.len(), 8 + 3_000_000);
        assert_eq!(runtime.exec_wait(&exec).await.unwrap(), 0);
        let info = runtime.exec_inspect(&exec).unwrap();
        assert!(!info.running && info.exit_code == Some(0) && info.container_id == id);
        assert!(matches!(runtime.exec_start(&exec, false, None).await, Err(RuntimeError::ExecAlreadyStarted(_))));

        let absent = ExecOptions { cmd: vec!["/nope".into()], attach_stdout: true, ..ExecOptions::default() };
        let exec = runtime.exec_create(&id, absent).await.unwrap();
        let error = runtime.exec_start(&exec, false, None).await.unwrap_err();
        println!("{error}");
        assert!(error.to_string().starts_with("OCI runtime exec failed: "), "{error}");
        assert_eq!(runtime.exec_inspect(&exec).unwrap().exit_code, Some(127));

        // One that is cut off by the end of its container.
        let exec = runtime.exec_create(&id, ExecOptions { cmd: sh("sleep 1000"), ..Default::default() }).await.unwrap();
        assert!(runtime.exec_start(&exec, true, None).await.unwrap().is_none());
        assert_eq!(runtime.exec_ids(&id).unwrap(), std::slice::from_ref(&exec));
        runtime.kill(&id, None).await.unwrap();
        assert_eq!(tokio::time::timeout(crate::support::WAIT, runtime.exec_wait(&exec)).await.unwrap().unwrap(), 137);
        assert!(matches!(
            runtime.exec_create(&id, ExecOptions { cmd: sh("true"), ..Default::default() }).await,
            Err(RuntimeError::NotRunning(_))
        ));
        let left: Vec<_> = std::fs::read_dir(runtime.inspect(&id).unwrap().paths.dir).unwrap().flatten().collect();
        assert!(!left.iter().any(|e| e.file_name().to_string_lossy().starts_with("exec-")), "{left:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminals_are_terminals() {
    with_node(|node| async move {
        let runtime = &node.runtime;
        let options = CreateOptions {
            tty: true,
            console_size: Some(ConsoleSize { width: 81, height: 7 }),
            open_stdin: true,
            stdin_once: true,
            ..node.script("tty; stty size; sh")
        };
        let id = runtime.create(options).await.unwrap().id;
        let wanted = AttachOptions { stdin: true, stdout: true, stderr: true, stream: true, logs: false };
        let mut attached = runtime.attach(&id, wanted).await.unwrap();
        assert!(attached.tty);
        runtime.start(&id).await.unwrap();
        let seen = read_until(&mut attached.output, "7 81").await;
        assert!(seen.contains("/dev/pts/0"), "{seen:?}");
        runtime.resize(&id, ConsoleSize { width: 123, height: 45 }).await.unwrap();
        let mut stdin = attached.stdin.unwrap();
        stdin.write(Bytes::from_static(b"stty size; echo $TERM\n")).await.unwrap();
        let seen = read_until(&mut attached.output, "xterm").await;
        assert!(seen.contains("45 123"), "{seen:?}");

        // The client leaves and another one comes; the shell is the same.
        stdin.write(Bytes::from_static(b"X=kept\n")).await.unwrap();
        read_until(&mut attached.output, "X=kept").await;
        drop(stdin);
        drop(attached.output);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut again = runtime.attach(&id, wanted).await.unwrap();
        let mut stdin = again.stdin.take().unwrap();
        stdin.write(Bytes::from_static(b"echo is-$X\n")).await.unwrap();
        read_until(&mut again.output, "is-kept").await;

        let exec = ExecOptions {
            cmd: sh("tty; stty size; exit 9"),
            tty: true,
            attach_stdin: true,
            attach_stdout: true,
            ..ExecOptions::default()
        };
        let exec = runtime.exec_create(&id, exec).await.unwrap();
        let size = Some(ConsoleSize { width: 99, height: 33 });
        let on_terminal = runtime.exec_start(&exec, false, size).await.unwrap().unwrap();
        let (out, _) = collect(on_terminal.output).await;
        assert!(out.contains("/dev/pts/") && out.contains("33 99"), "{out}");
        assert_eq!(runtime.exec_wait(&exec).await.unwrap(), 9);

        stdin.write(Bytes::from_static(b"exit 6\n")).await.unwrap();
        assert_eq!(node.exit_of(&id).await, 6);
        assert!(again.output.next().await.is_none() || collect(again.output).await.1.is_empty());
        assert!(node.log_text(&id, true, false).await.contains("is-kept\r\n"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attached_containers_lose_no_byte_and_see_the_end_of_input() {
    with_node(|node| async move {
        let runtime = &node.runtime;
        let options = CreateOptions { open_stdin: true, stdin_once: true, ..node.script("cat; echo done >&2; exit 2") };
        let id = runtime.create(options).await.unwrap().id;
        let wanted = AttachOptions { stdin: true, stdout: true, stderr: true, stream: true, logs: false };
        let attached = runtime.attach(&id, wanted).await.unwrap();
        let next = runtime.wait(&id, WaitCondition::NextExit).unwrap();
        runtime.start(&id).await.unwrap();
        let mut stdin = attached.stdin.unwrap();
        let line = Bytes::from("0123456789abcde\n".repeat(1000));
        let feed = async {
            for _ in 0..100 {
                stdin.write(line.clone()).await.unwrap();
            }
            stdin.close().await;
        };
        let ((), (out, err)) = tokio::join!(feed, collect(attached.output));
        assert_eq!(out.len(), 1_600_000);
        assert_eq!(err, "done\n");
        assert_eq!(next.wait().await.unwrap().exit_code, 2);
        assert_eq!(node.log_text(&id, true, false).await.len(), 1_600_000);

        // A reader that comes back late finds everything.
        let id = runtime.create(node.script("seq 1 150000")).await.unwrap().id;
        let late = AttachOptions { stdout: true, stream: true, ..AttachOptions::default() };
        let late = runtime.attach(&id, late).await.unwrap();
        runtime.start(&id).await.unwrap();
        assert_eq!(node.exit_of(&id).await, 0);
        runtime.remove(&id, false, false).await.unwrap();
        assert_eq!(collect(late.output).await.0.lines().count(), 150_000);

        // Without stdin: from the first byte, then what was there before, then live.
        let id = runtime.create(node.script(&format!("echo one; {UNTIL_GO}; echo two"))).await.unwrap().id;
        let out_only = AttachOptions { stdout: true, stream: true, ..AttachOptions::default() };
        let first = runtime.attach(&id, out_only).await.unwrap();
        assert!(first.stdin.is_none());
        runtime.start(&id).await.unwrap();
        node.until_logged(&id, "one").await;
        let second = runtime.attach(&id, AttachOptions { logs: true, ..out_only }).await.unwrap();
        let third = runtime.attach(&id, out_only).await.unwrap();
        go(runtime.inspect(&id).unwrap().state.pid);
        let (a, b, c) = tokio::join!(collect(first.output), collect(second.output), collect(third.output));
        assert_eq!((a.0.as_str(), b.0.as_str(), c.0.as_str()), ("one\ntwo\n", "one\ntwo\n", "two\n"));
        let replay =
            runtime.attach(&id, AttachOptions { stdout: true, logs: true, ..Default::default() }).await.unwrap();
        assert_eq!(collect(replay.output).await.0, "one\ntwo\n");
    })
    .await;
}
