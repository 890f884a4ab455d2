//! Requests that no well-behaved client sends, and answers as bytes.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use malha_api::{BindError, backend::TerminalSize, bind_unix};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::support::{Host, body};

#[tokio::test]
async fn every_answer_has_the_common_headers() {
    let host = Host::manager().await;
    for (head, status) in [
        ("GET /_ping", "200"),
        ("HEAD /_ping", "200"),
        ("GET /nothing", "404"),
        ("GET /v1.99/info", "400"),
        ("DELETE /info", "404"),
    ] {
        let answer = host.request(head, "").await.to_lowercase();
        assert!(answer.starts_with(&format!("http/1.1 {status}")), "{head}: {answer}");
        for header in
            ["api-version: 1.50", "ostype: linux", "docker-experimental: false", "server: malha/0.1.0 (linux)"]
        {
            assert!(answer.contains(header), "{head}: {header} in {answer}");
        }
    }
    let ping = host.request("HEAD /_ping", "").await.to_lowercase();
    for header in [
        "swarm: active/manager",
        "builder-version: 1",
        "content-length: 0",
        "pragma: no-cache",
        "cache-control: no-cache, no-store, must-revalidate",
    ] {
        assert!(ping.contains(header), "{header} in {ping}");
    }
    assert_eq!(body(&host.request("GET /_ping", "").await), "OK");
    assert_eq!(body(&host.request("GET /v1.41/nothing", "").await).trim(), r#"{"message":"page not found"}"#);
    assert_eq!(body(&host.request("GET /plugins", "").await).trim(), "[]");
    assert!(host.request("GET /plugins/x/json", "").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn garbage_and_oversize_are_answered_cleanly() {
    let host = Host::manager().await;
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"GET\r\n\r\n", b"\r\n\r\n\0\0\0\0 x y z\r\n\r\n"] {
        let answer = host.raw(garbage).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(1 << 20));
    let answer = host.raw(long.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");

    for (text, want) in [
        ("{", "invalid JSON"),
        ("[1,2", "invalid JSON"),
        ("{\"Name\":3}", "invalid JSON"),
        ("\u{1}\u{2}", "invalid JSON"),
        ("{} {}", "invalid JSON"),
    ] {
        let answer = host.request("POST /v1.50/services/create", text).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains(want), "{text}: {answer}");
    }
    let answer = host.request("POST /v1.50/services/create", "").await;
    assert!(answer.contains("got EOF while reading request body"), "{answer}");
    let big = format!("{{\"Name\":\"{}\"}}", "x".repeat(9 << 20));
    let answer = host.request("POST /v1.50/services/create", &big).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{}", &answer[..answer.len().min(300)]);
    // The length is announced and the client waits, as one with `Expect` does: the answer comes before the body.
    let head = "POST /networks/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n";
    let answer = host.raw(head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("{\"message\":\"request body is larger"), "{answer}");
    let text = "POST /services/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}";
    assert!(host.raw(text.as_bytes()).await.contains("unsupported Content-Type header (text/plain)"));
    assert!(host.request("GET /services?filters=%7B%22a", "").await.starts_with("HTTP/1.1 400"));
    assert!(
        host.request("GET /nodes?filters=%7B%22odd%22:%5B%22x%22%5D%7D", "").await.contains("invalid filter 'odd'")
    );
    assert!(host.request("GET /containers/%ff%fe/json", "").await.starts_with("HTTP/1.1 4"));
    assert!(host.request("GET /_ping", "").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_panic_is_one_answer() {
    let host = Host::start().await;
    let answer = host.request("GET /containers/panic/json", "").await;
    assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("\"message\""), "{answer}");
    let answer = host.request("DELETE /containers/panic", "").await;
    assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("\"message\""), "{answer}");
    assert!(host.request("GET /containers/b4a6/json", "").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_change_comes_to_its_end_without_its_client() {
    let mut host = Host::start().await;
    let mut stream = UnixStream::connect(host.dir.path().join("docker.sock")).await.unwrap();
    stream.write_all(b"POST /v1.50/containers/b4a6/stop?t=1 HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(host.engine.state().running, "the client leaves before it is done");
    drop(stream);
    // Nor does the end of the server break it off.
    host.stop().await;
    assert!(!host.engine.state().running, "broken off");
}

#[tokio::test]
async fn a_wait_is_announced_before_it_is_over() {
    let host = Host::start().await;
    let mut stream = UnixStream::connect(host.dir.path().join("docker.sock")).await.unwrap();
    stream
        .write_all(b"POST /v1.50/containers/b4a6/wait?condition=next-exit HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0; 64];
    let n = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut head)).await.expect("no header").unwrap();
    assert!(head[..n].starts_with(b"HTTP/1.1 200"));
    assert!(host.request("POST /containers/b4a6/wait?condition=odd", "").await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn without_an_upgrade_the_output_is_a_body() {
    let host = Host::start().await;
    let made = host.request("POST /containers/b4a6/exec", r#"{"Cmd":["echo","hi"],"AttachStdout":true}"#).await;
    assert!(made.starts_with("HTTP/1.1 201"), "{made}");
    let id = format!("{:064x}", 1);
    let answer = host.request(&format!("POST /v1.41/exec/{id}/start"), r#"{"Detach":false}"#).await;
    assert!(answer.contains("application/vnd.docker.raw-stream") && answer.contains("hi\n"), "{answer}");
    let state = host.request(&format!("GET /exec/{id}/json"), "").await;
    assert!(state.contains("\"ExitCode\":0"), "{state}");
}

#[tokio::test]
async fn the_first_size_of_a_terminal_counts_from_1_42_on() {
    let host = Host::start().await;
    let exec = r#"{"Cmd":["true"],"Tty":true,"AttachStdout":true,"ConsoleSize":[33,77]}"#;
    let start = r#"{"Tty":true,"ConsoleSize":[33,77]}"#;
    let container = r#"{"Image":"bench:1","HostConfig":{"ConsoleSize":[33,77]}}"#;
    for (version, counts) in [("1.41", false), ("1.42", true)] {
        host.request(&format!("POST /v{version}/containers/b4a6/exec"), exec).await;
        let id = host.engine.state().execs.keys().next_back().unwrap().clone();
        host.request(&format!("POST /v{version}/exec/{id}/start"), start).await;
        host.request(&format!("POST /v{version}/containers/create"), container).await;
        let state = host.engine.state();
        assert_eq!(state.execs[&id].config.console_size, counts.then_some([33, 77]), "{version}");
        assert_eq!(state.first_size, counts.then_some(TerminalSize { width: 77, height: 33 }), "{version}");
        let created = state.created.last().unwrap();
        assert_eq!(created.host_config.console_size, if counts { [33, 77] } else { [0, 0] }, "{version}");
    }
    let id = host.engine.state().execs.keys().next_back().unwrap().clone();
    host.request(&format!("POST /v1.42/exec/{id}/start"), r#"{"ConsoleSize":[33,77]}"#).await;
    assert_eq!(host.engine.state().first_size, None, "none without a terminal");
}

#[tokio::test]
async fn the_socket_is_private_replaced_when_dead_and_kept_when_alive() {
    let mut host = Host::start().await;
    let path = host.dir.path().join("docker.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert!(matches!(bind_unix(&path).await, Err(BindError::InUse { .. })));
    host.stop().await;
    assert!(bind_unix(&path).await.is_ok());
}

#[tokio::test]
async fn the_server_ends_although_a_client_listens_for_ever() {
    let mut host = Host::start().await;
    let mut stream = UnixStream::connect(host.dir.path().join("docker.sock")).await.unwrap();
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut some = [0; 256];
    assert!(stream.read(&mut some).await.unwrap() > 0);
    host.stop().await;
}
