//! `docker swarm`, `docker node`, `docker info`, `docker version`.

use crate::support::{Host, cluster::NODE};

#[tokio::test]
async fn versions_are_negotiated_with_old_and_new_clients() {
    let host = Host::start().await;
    assert_eq!(
        host.ok(&["version", "-f", "{{.Client.APIVersion}} {{.Server.APIVersion}} {{.Server.MinAPIVersion}}"]).await,
        "1.50 1.50 1.24"
    );
    let text = host.ok(&["version"]).await;
    assert!(text.contains("Server: Malha") && text.contains("API version:      1.50 (minimum version 1.24)"), "{text}");
    for version in ["1.41", "1.24"] {
        let mut command = host.command("docker");
        command.env("DOCKER_API_VERSION", version).args(["ps", "-q"]);
        let done = host.run(command, b"").await;
        assert_eq!((done.code, done.stdout.trim()), (0, "b4a62e7d0958"), "{}", done.stderr);
    }
    let mut command = host.command("docker");
    command.env("DOCKER_API_VERSION", "1.51").args(["ps"]);
    let done = host.run(command, b"").await;
    assert!(done.stderr.contains("client version 1.51 is too new. Maximum supported API version is 1.50"), "{done:?}");
    let mut command = host.command("docker");
    command.env("DOCKER_API_VERSION", "1.23").args(["ps"]);
    assert!(host.run(command, b"").await.stderr.contains("Minimum supported API version is 1.24"));
}

#[tokio::test]
async fn a_swarm_is_made_and_left() {
    let host = Host::start().await;
    let done = host.docker(&["node", "ls"]).await;
    assert_eq!(done.code, 1);
    let text = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\"";
    assert!(done.stderr.contains(text), "{done:?}");

    let text = host.ok(&["swarm", "init"]).await;
    assert!(text.contains(&format!("Swarm initialized: current node ({NODE}) is now a manager.")), "{text}");
    assert!(text.contains("docker swarm join --token SWMTKN-1-root-worker 192.0.2.1:2377"), "{text}");
    let again = host.docker(&["swarm", "init"]).await;
    assert!(again.stderr.contains("This node is already part of a swarm."), "{again:?}");

    assert_eq!(host.ok(&["swarm", "join-token", "-q", "worker"]).await, "SWMTKN-1-root-worker");
    let text = host.ok(&["swarm", "join-token", "--rotate", "worker"]).await;
    assert!(
        text.contains("Successfully rotated worker join token.") && text.contains("SWMTKN-1-root-rotated"),
        "{text}"
    );
    assert_eq!(host.ok(&["swarm", "update", "--task-history-limit", "3"]).await, "Swarm updated.");
    assert_eq!(host.ok(&["info", "-f", "{{.Swarm.Cluster.Spec.Orchestration.TaskHistoryRetentionLimit}}"]).await, "3");
    let text = host.ok(&["info"]).await;
    for part in [
        "Swarm: active",
        "Is Manager: true",
        "Managers: 1",
        "Default Address Pool: 10.0.0.0/8",
        "SubnetSize: 24",
        "Data Path Port: 4789",
        "Server Version: 0.1.0",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let locked = host.docker(&["swarm", "update", "--autolock"]).await;
    assert!(locked.stderr.contains("autolock") && locked.stderr.contains("not supported"), "{locked:?}");
    let key = host.request("GET /swarm/unlockkey", "").await;
    assert!(key.starts_with("HTTP/1.1 200") && key.contains(r#"{"UnlockKey":""}"#), "{key}");
    let unlocked = host.request("POST /swarm/unlock", r#"{"UnlockKey":"x"}"#).await;
    assert!(unlocked.starts_with("HTTP/1.1 409") && unlocked.contains("swarm is not locked"), "{unlocked}");
    assert_eq!(host.ok(&["swarm", "leave", "--force"]).await, "Node left the swarm.");
    assert!(host.docker(&["swarm", "leave"]).await.stderr.contains("This node is not part of a swarm"));
}

#[tokio::test]
async fn a_worker_joins_and_is_told_that_it_is_no_manager() {
    let host = Host::start().await;
    let wrong = host.docker(&["swarm", "join", "--token", "SWMTKN-1-x", "192.0.2.1:2377"]).await;
    let text = "rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster";
    assert!(wrong.stderr.contains(text), "{wrong:?}");
    let text = host.ok(&["swarm", "join", "--token", "SWMTKN-1-root-worker", "192.0.2.1:2377"]).await;
    assert_eq!(text, "This node joined a swarm as a worker.");
    let done = host.docker(&["service", "ls"]).await;
    assert!(done.stderr.contains("Worker nodes can't be used to view or modify cluster state."), "{done:?}");
    let done = host.docker(&["network", "create", "-d", "overlay", "x"]).await;
    assert!(done.stderr.contains("Cannot create a multi-host network from a worker node."), "{done:?}");
    let raw = host.request("POST /v1.50/networks/create", r#"{"Name":"x","Driver":"overlay"}"#).await;
    assert!(raw.starts_with("HTTP/1.1 403"), "{raw}");
    assert!(host.request("GET /services", "").await.starts_with("HTTP/1.1 503"));
    assert!(host.request("GET /swarm/unlockkey", "").await.starts_with("HTTP/1.1 503"));
}

#[tokio::test]
async fn nodes_are_listed_inspected_and_updated() {
    let host = Host::manager().await;
    let text = host.ok(&["node", "ls"]).await;
    assert!(text.contains(&format!("{NODE} *")) && text.contains("node1") && text.contains("Leader"), "{text}");
    let text = host.ok(&["node", "inspect", "self", "--pretty"]).await;
    assert!(text.contains("Hostname:              	node1") && text.contains("Raft Status:		Reachable"), "{text}");
    assert_eq!(host.ok(&["node", "update", "--label-add", "zone=a", "node1"]).await, "node1");
    assert_eq!(host.ok(&["node", "ls", "-q", "--filter", "node.label=zone=a"]).await, NODE);
    assert_eq!(host.ok(&["node", "ls", "-q", "--filter", "role=worker"]).await, "");
    assert_eq!(host.ok(&["node", "ls", "-q", "--filter", "role=Manager"]).await, NODE);
    host.ok(&["node", "update", "--availability", "Drain", "node1"]).await;
    assert_eq!(host.ok(&["node", "inspect", "self", "-f", "{{.Spec.Availability}}"]).await, "drain");
    let odd = host.docker(&["node", "ls", "--filter", "odd=1"]).await;
    assert!(odd.stderr.contains("invalid filter 'odd'"), "{odd:?}");
}
