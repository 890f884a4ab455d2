//! `docker service`.

use crate::support::Host;

#[tokio::test]
async fn a_service_is_created_shown_scaled_and_removed() {
    let host = Host::manager().await;
    host.ok(&["network", "create", "-d", "overlay", "my-overlay"]).await;
    let text = host
        .ok(&[
            "service",
            "create",
            "--name",
            "hello-a",
            "--network",
            "my-overlay",
            "-p",
            "5000:80",
            "--replicas",
            "2",
            "--update-monitor",
            "1s",
            "--constraint",
            "node.role==manager",
            "--mount",
            "type=volume,target=/data",
            "--env",
            "A=b",
            "bench:1",
            "httpd",
            "-f",
        ])
        .await;
    assert!(
        text.contains("overall progress: 2 out of 2 tasks") && text.contains("Service") && text.contains("converged"),
        "{text}"
    );

    let text = host.ok(&["service", "ls", "--format", "{{.Name}} {{.Mode}} {{.Replicas}} {{.Image}} {{.Ports}}"]).await;
    assert_eq!(text, "hello-a replicated 2/2 bench:1 *:5000->80/tcp");
    let text = host
        .ok(&["service", "ps", "hello-a", "--format", "{{.Name}} {{.Node}} {{.DesiredState}} {{.CurrentState}}"])
        .await;
    assert!(text.lines().count() == 2 && text.contains("hello-a.1 node1 Running Running"), "{text}");
    let text = host.ok(&["service", "inspect", "--pretty", "hello-a"]).await;
    for part in [
        "Name:		hello-a",
        "Replicas:	2",
        "Parallelism:	1",
        "On failure:	pause",
        "Constraints:	[node.role==manager]",
        "PublishedPort = 5000",
        "Networks: my-overlay",
        "Endpoint Mode:	vip",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    let text = host.ok(&["service", "inspect", "hello-a", "-f", "{{json .Endpoint}}"]).await;
    let ports = r#"[{"Protocol":"tcp","TargetPort":80,"PublishedPort":5000,"PublishMode":"ingress"}]"#;
    let head = format!(r#"{{"Spec":{{"Mode":"vip","Ports":{ports}}},"Ports":{ports},"VirtualIPs":[{{"NetworkID":""#);
    assert!(text.starts_with(&head) && text.ends_with(r#""Addr":"10.0.1.2/24"}]}"#), "{text}");

    let text = host.ok(&["service", "scale", "hello-a=3"]).await;
    assert!(text.contains("hello-a scaled to 3"), "{text}");
    let task = host.ok(&["service", "ps", "-q", "--filter", "desired-state=running", "hello-a"]).await;
    assert_eq!(task.lines().count(), 3);
    let text = host
        .ok(&["inspect", "--type", "task", task.lines().next().unwrap(), "-f", "{{json .NetworksAttachments}}"])
        .await;
    assert!(
        text.contains(r#""Spec":{"Name":"my-overlay""#) && text.contains(r#""Addresses":["10.0.1.3/24"]"#),
        "{text}"
    );
    assert_eq!(host.ok(&["service", "rm", "hello-a"]).await, "hello-a");
    assert!(host.docker(&["service", "ps", "hello-a"]).await.stderr.contains("no such service: hello-a"));
}

#[tokio::test]
async fn logs_name_their_task_and_tell_what_is_missing() {
    let host = Host::manager().await;
    host.ok(&["service", "create", "-d", "--name", "web", "--replicas", "2", "bench:1"]).await;
    let text = host.ok(&["service", "logs", "web"]).await;
    assert!(
        text.contains("web.1.") && text.contains("@node1    | hello from slot 1") && text.lines().count() == 2,
        "{text}"
    );
    let text = host.ok(&["service", "logs", "--raw", "--tail", "1", "web"]).await;
    assert_eq!(text, "hello from slot 2");
    let done = host.docker(&["service", "logs", "--since", "1h", "web"]).await;
    assert!(
        done.stderr.contains("incomplete log stream.") && done.stderr.contains("node lost is not available"),
        "{done:?}"
    );
    assert_eq!(done.stdout.lines().count(), 2, "{done:?}");
}

#[tokio::test]
async fn what_is_not_built_is_refused_by_name() {
    let host = Host::manager().await;
    host.ok(&["service", "create", "-d", "--name", "web", "bench:1"]).await;
    for (args, word) in [
        (&["service", "rollback", "-d", "web"][..], "docker service rollback"),
        (&["service", "create", "-d", "--secret", "s", "bench:1"], "secret"),
        (&["secret", "ls"], "docker secret"),
        (&["config", "ls"], "docker config"),
    ] {
        let done = host.docker(args).await;
        assert!(
            done.code != 0 && done.stderr.contains(word) && done.stderr.contains("not supported"),
            "{args:?} {done:?}"
        );
    }
    assert_eq!(host.cluster.state().services.len(), 1);
}

#[tokio::test]
async fn registry_credentials_travel_with_the_service_and_are_not_shown() {
    let host = Host::manager().await;
    let docker = host.dir.path().join(".docker");
    std::fs::create_dir(&docker).unwrap();
    std::fs::write(docker.join("config.json"), r#"{"auths":{"reg:5000":{"auth":"dXNlcjpzZWNyZXQ="}}}"#).unwrap();
    host.ok(&["service", "create", "-d", "--with-registry-auth", "--name", "web", "reg:5000/a:1"]).await;
    assert!(host.cluster.state().last_auth.is_some());
    let shown = host.request("GET /services/web", "").await;
    assert!(!shown.to_lowercase().contains("auth"), "{shown}");
}

#[tokio::test]
async fn a_stale_update_is_refused() {
    let host = Host::manager().await;
    host.ok(&["service", "create", "-d", "--name", "web", "bench:1"]).await;
    let answer = host.request("POST /v1.50/services/web/update?version=1", "{}").await;
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    assert!(answer.contains(r#"{"message":"rpc error: code = Unknown desc = update out of sequence"}"#), "{answer}");
    let answer = host.request("POST /v1.50/services/web/update?version=x", "{}").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn a_nodes_tasks_are_listed() {
    let host = Host::manager().await;
    host.ok(&["service", "create", "-d", "--name", "web", "bench:1"]).await;
    assert_eq!(host.ok(&["node", "ps", "self", "--format", "{{.Name}} {{.DesiredState}}"]).await, "web.1 Running");
    let answer = host.request("GET /tasks?filters=%7B%22service%22:%5B%22nope%22%5D%7D", "").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}
