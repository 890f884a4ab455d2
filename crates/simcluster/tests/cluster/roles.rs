//! Certificates, roles and logs.

use std::{sync::Arc, time::Duration};

use malha_agent::Link;
use malha_consensus::{Config, Consensus, SimDisk};
use malha_kit::{Rng, Tasks, TokioClock};
use malha_manager::{ConnectorTransport, Manager, ManagerConfig, ManagerDeps};
use malha_model::{
    ApiResult, Availability, Code, ControlRequest, ControlResponse, LogOptions, LogSelector, NodeSpec, Role, Timestamp,
};
use malha_pki::{NodeCertificate, NodeKey};
use malha_simcluster::{SimCluster, SimConfig, service};
use malha_simnet::{Latency, SimNet};
use malha_wire::{Connector as _, IssueRequest, IssueResponse, Peer};
use tokio::time::timeout;

fn request(token: Option<&str>) -> IssueRequest {
    IssueRequest {
        csr_pem: NodeKey::generate().unwrap().request_pem().unwrap(),
        token: token.map(str::to_owned),
        availability: Availability::Active,
    }
}

async fn issue(cluster: &SimCluster, as_peer: Peer, manager: usize, token: Option<&str>) -> ApiResult<IssueResponse> {
    let client = cluster.net.connector(as_peer).connect(&cluster.nodes[manager].addr).await.unwrap();
    client.issue_certificate(request(token)).await
}

fn peer_of(cluster: &SimCluster, index: usize) -> Peer {
    let node = &cluster.nodes[index];
    Peer { node: node.id.clone(), role: node.role, cluster: node.cluster.clone() }
}

async fn set_role(cluster: &SimCluster, index: usize, role: Role) -> ApiResult<()> {
    let id = cluster.nodes[index].id.to_string();
    let ControlResponse::Node(node) = cluster.control(ControlRequest::NodeGet { id: id.clone() }).await? else {
        panic!("not a node")
    };
    let spec = NodeSpec { role, ..node.spec };
    cluster.control(ControlRequest::NodeUpdate { id, version: node.meta.version, spec }).await.map(drop)
}

/// Whether the node has heard that it is to have this role.
fn told(index: usize, role: Role) -> impl Fn(&SimCluster) -> bool {
    move |c| *c.nodes[index].agent().unwrap().role().borrow() == Some(role)
}

#[tokio::test(start_paused = true)]
async fn certificates_are_for_those_with_the_right_token_or_a_certificate() {
    let cluster = SimCluster::start(SimConfig::new(21, 3, 1)).await.unwrap();
    let stranger = Peer { node: "x".into(), role: Role::Worker, cluster: cluster.nodes[0].cluster.clone() };
    let root = cluster.state().cluster().unwrap().root_ca.clone();

    for manager in 0..3 {
        let joined = issue(&cluster, stranger.clone(), manager, Some(&root.worker_token)).await.unwrap();
        let shown = NodeCertificate::from_pem(&joined.certificate_pem).unwrap().identity;
        assert_eq!((shown.node, shown.role), (joined.node.clone(), Role::Worker));
        assert!(cluster.state().node(&joined.node).is_some());
    }
    let text = "rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster";
    let wrong = issue(&cluster, stranger.clone(), 0, Some("SWMTKN-1-nonsense")).await.unwrap_err();
    assert_eq!((wrong.message.as_str(), wrong.http_status()), (text, 400));

    let ControlResponse::Cluster(held) = cluster.control(ControlRequest::ClusterGet).await.unwrap() else { panic!() };
    let rotate = ControlRequest::ClusterUpdate {
        version: held.meta.version,
        spec: held.spec,
        rotate_worker_token: true,
        rotate_manager_token: false,
    };
    cluster.control(rotate).await.unwrap();
    let old = issue(&cluster, stranger.clone(), 0, Some(&root.worker_token)).await.unwrap_err();
    assert_eq!(old.message, text);

    // a renewal says what the node is to be, whoever asks
    let renewed = issue(&cluster, peer_of(&cluster, 3), 1, None).await.unwrap();
    assert_eq!((&renewed.node, renewed.role), (&cluster.nodes[3].id, Role::Worker));
    assert!(issue(&cluster, stranger, 1, None).await.is_err(), "no node of that id");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_holds_nothing_yet_sends_no_node_away_for_good() {
    let rng = Rng::from_seed(33);
    let net = SimNet::new(Latency::default(), rng.fork());
    let clock = Arc::new(TokioClock::starting_at(Timestamp(1_750_000_000_000_000_000)));
    let connector = net.connector(Peer { node: "n".into(), role: Role::Manager, cluster: "c".into() });
    let disk = SimDisk::new(rng.fork(), Duration::from_millis(1)..=Duration::from_millis(2));
    let config = Config::new("n".into(), "m:1".to_owned(), rng.fork(), clock.clone());
    let transport = ConnectorTransport::new(Arc::new(connector.clone()));
    let consensus = Consensus::start(config, disk.open(), Arc::new(transport)).await.unwrap();
    // a swarm that is just being made: it has its leader before its first state
    consensus.bootstrap(Vec::new()).await.unwrap();
    let deps = ManagerDeps { consensus, connector: Arc::new(connector.clone()), clock, rng };
    let tasks = Tasks::new();
    let manager = Manager::start(ManagerConfig { node: "n".into() }, deps, &tasks);
    net.listen("m:1", "n".into(), Arc::new(manager.clone()));
    manager.ready().await;
    let refused = connector.connect("m:1").await.unwrap().session().await.err().unwrap();
    assert_eq!(refused.http_status(), 503, "{refused}");
    tasks.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn workers_and_removed_nodes_are_refused() {
    let mut cluster = SimCluster::start(SimConfig::new(22, 1, 2)).await.unwrap();
    let worker = cluster.net.connector(peer_of(&cluster, 1)).connect(&cluster.nodes[0].addr).await.unwrap();
    let refused = worker.control(ControlRequest::NodeList).await.unwrap_err();
    assert_eq!(refused.code, Code::PermissionDenied);
    assert_eq!(worker.raft(vec![]).await.unwrap_err().code, Code::PermissionDenied);
    assert_eq!(worker.raft_join("x:1".into()).await.unwrap_err().code, Code::PermissionDenied);

    cluster.crash(2).await;
    let id = cluster.nodes[2].id.to_string();
    let early = cluster.control(ControlRequest::NodeRemove { id: id.clone(), force: false }).await;
    assert!(early.is_err(), "it is not down yet");
    cluster.control(ControlRequest::NodeRemove { id, force: true }).await.unwrap();
    let gone = cluster.net.connector(peer_of(&cluster, 2)).connect(&cluster.nodes[0].addr).await.unwrap();
    assert_eq!(gone.issue_certificate(request(None)).await.unwrap_err().code, Code::PermissionDenied);
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_promoted_and_demoted() {
    let mut cluster = SimCluster::start(SimConfig::new(23, 1, 2)).await.unwrap();
    set_role(&cluster, 1, Role::Manager).await.unwrap();
    cluster.follow_role(1, Role::Manager).await.unwrap();
    cluster
        .eventually("two managers", |c| c.nodes[0].manager().unwrap().consensus().members().len() == 2)
        .await
        .unwrap();
    let answer = cluster.ask(1, ControlRequest::NodeList).await.unwrap();
    let ControlResponse::Nodes(nodes) = answer else { panic!() };
    let shown: Vec<_> = nodes.iter().filter_map(|n| n.manager.as_ref()).map(|m| m.reachability.as_str()).collect();
    assert_eq!(shown, ["reachable", "reachable"]);

    set_role(&cluster, 1, Role::Worker).await.unwrap();
    cluster.follow_role(1, Role::Worker).await.unwrap();
    assert_eq!(cluster.nodes[0].manager().unwrap().consensus().members().len(), 1);
    cluster.create_service(service("web", 3, &[])).await.unwrap();
    let role = |c: &SimCluster| c.state().node(&c.nodes[1].id).unwrap().observed_role;
    cluster.eventually("seen as a worker", |c| role(c) == Role::Worker && c.unrest().is_none()).await.unwrap();
    let last = set_role(&cluster, 0, Role::Worker).await.unwrap_err();
    assert!(last.message.contains("attempting to demote the last manager of the swarm"), "{last}");
}

#[tokio::test(start_paused = true)]
async fn no_manager_is_demoted_without_which_there_is_no_quorum() {
    let mut cluster = SimCluster::start(SimConfig::new(32, 3, 1)).await.unwrap();
    let leader = cluster.leader().unwrap();
    let [stays, dies] = [(leader + 1) % 3, (leader + 2) % 3];
    cluster.crash(dies).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for needed in [stays, leader] {
        let refused = set_role(&cluster, needed, Role::Worker).await.unwrap_err();
        assert_eq!(refused.http_status(), 400);
        let text = "rpc error: code = FailedPrecondition desc = can't remove member from the raft: this would result in a \
                    loss of quorum";
        assert_eq!(refused.message, text);
    }

    // where it was written all the same, because the others died a moment later, it stays what it has to be
    let consensus = cluster.nodes[leader].manager().unwrap().consensus().clone();
    let id = cluster.nodes[stays].id.clone();
    let demoted = consensus.update(|tx| {
        let mut node = (**tx.node(&id).unwrap()).clone();
        node.spec.role = Role::Worker;
        tx.put(node);
        Ok::<_, ()>(())
    });
    demoted.await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(issue(&cluster, peer_of(&cluster, stays), leader, None).await.unwrap().role, Role::Manager);

    cluster.restart(dies).await.unwrap();
    cluster.follow_role(stays, Role::Worker).await.unwrap();
    assert_eq!(issue(&cluster, peer_of(&cluster, stays), leader, None).await.unwrap().role, Role::Worker);
}

#[tokio::test(start_paused = true)]
async fn a_demoted_leader_hands_over() {
    let mut cluster = SimCluster::start(SimConfig::new(24, 3, 1)).await.unwrap();
    let leader = cluster.leader().unwrap();
    set_role(&cluster, leader, Role::Worker).await.unwrap();
    cluster.follow_role(leader, Role::Worker).await.unwrap();
    cluster.eventually("two managers", |c| c.leader().is_some_and(|l| l != leader)).await.unwrap();
    let members = cluster.nodes[cluster.leader().unwrap()].manager().unwrap().consensus().members();
    assert_eq!(members.len(), 2);
    cluster.eventually("rest", |c| c.unrest().is_none()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn logs_come_from_every_node_through_any_manager() {
    let mut cluster = SimCluster::start(SimConfig::new(25, 3, 2)).await.unwrap();
    let web = cluster.create_service(service("web", 5, &[])).await.unwrap();
    cluster.eventually("5 run", |c| c.running(&web).len() == 5).await.unwrap();
    for index in 0..3 {
        let manager = cluster.nodes[index].manager().unwrap();
        let mut lines = manager.read_logs(LogSelector::Service(web.clone()), LogOptions::default()).await.unwrap();
        let mut tasks = std::collections::BTreeSet::new();
        while let Some(line) = timeout(Duration::from_secs(5), lines.recv()).await.unwrap() {
            tasks.insert(line.unwrap().task);
        }
        assert_eq!(tasks.len(), 5);
    }
    cluster.crash(4).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let leader = cluster.nodes[cluster.leader().unwrap()].manager().unwrap();
    let mut lines = leader.read_logs(LogSelector::Service(web.clone()), LogOptions::default()).await.unwrap();
    let mut missing = vec![];
    while let Some(line) = timeout(Duration::from_secs(5), lines.recv()).await.unwrap() {
        missing.extend(line.err());
    }
    assert_eq!(missing, [format!("node {} is not available", cluster.nodes[4].id)]);
}

#[tokio::test(start_paused = true)]
async fn a_follower_of_logs_gets_later_tasks_and_ends_them_by_leaving() {
    let cluster = SimCluster::start(SimConfig::new(26, 1, 2)).await.unwrap();
    let web = cluster.create_service(service("web", 1, &[])).await.unwrap();
    cluster.eventually("1 runs", |c| c.running(&web).len() == 1).await.unwrap();
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let mut lines =
        cluster.nodes[0].manager().unwrap().read_logs(LogSelector::Service(web.clone()), options).await.unwrap();
    lines.recv().await.unwrap().unwrap();
    cluster.update_service(&web, |s| s.mode.replicated.as_mut().unwrap().replicas = Some(3)).await.unwrap();
    for _ in 0..2 {
        timeout(Duration::from_secs(5), lines.recv()).await.unwrap().unwrap().unwrap();
    }
    drop(lines);
}

#[tokio::test(start_paused = true)]
async fn a_follower_of_logs_hears_a_node_again_that_was_away() {
    let mut cluster = SimCluster::start(SimConfig::new(29, 1, 1)).await.unwrap();
    let web = cluster.create_service(service("web", 4, &[])).await.unwrap();
    cluster.eventually("4 run", |c| c.running(&web).len() == 4).await.unwrap();
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let mut lines = cluster.nodes[0].manager().unwrap().read_logs(LogSelector::Service(web), options).await.unwrap();
    for _ in 0..4 {
        timeout(Duration::from_secs(5), lines.recv()).await.unwrap().unwrap().unwrap();
    }
    cluster.crash(1).await;
    let gone = timeout(Duration::from_secs(5), lines.recv()).await.unwrap().unwrap();
    assert_eq!(gone.unwrap_err(), format!("node {} is not available", cluster.nodes[1].id));
    cluster.restart(1).await.unwrap();
    let again = timeout(Duration::from_secs(10), lines.recv()).await.unwrap().unwrap().unwrap();
    assert_eq!(again.node, cluster.nodes[1].id);
}

#[tokio::test(start_paused = true)]
async fn a_demoted_manager_may_nothing_that_is_a_managers_at_once() {
    let cluster = SimCluster::start(SimConfig::new(27, 3, 1)).await.unwrap();
    let leader = cluster.leader().unwrap();
    let demoted = (0..3).find(|m| *m != leader).unwrap();
    set_role(&cluster, demoted, Role::Worker).await.unwrap();
    // the daemon has done nothing about it yet: it shows the certificate of a manager
    let peer = peer_of(&cluster, demoted);
    assert_eq!(peer.role, Role::Manager);
    let client = cluster.net.connector(peer.clone()).connect(&cluster.nodes[leader].addr).await.unwrap();
    let denied = |e: malha_model::ApiError| assert_eq!(e.code, Code::PermissionDenied, "{e}");
    denied(client.control(ControlRequest::NodeList).await.unwrap_err());
    denied(client.raft_join(cluster.nodes[demoted].addr.clone()).await.unwrap_err());
    let nothing = LogSelector::Service("none".into());
    denied(client.logs(nothing, LogOptions::default()).await.unwrap_err());
    cluster
        .eventually("it is out of the group", |c| c.nodes[leader].manager().unwrap().consensus().members().len() == 2)
        .await
        .unwrap();
    denied(client.raft(vec![]).await.unwrap_err());

    // its own manager, which hears nobody any more, signs nothing; the others sign a worker's certificate
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(issue(&cluster, peer.clone(), demoted, None).await.is_err());
    assert_eq!(issue(&cluster, peer, leader, None).await.unwrap().role, Role::Worker);
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_stopped_while_it_joined_gets_its_vote() {
    let mut cluster = SimCluster::start(SimConfig::new(31, 1, 1)).await.unwrap();
    set_role(&cluster, 1, Role::Manager).await.unwrap();
    // it is in the group and has nothing of the log when its daemon dies, and with it the request
    let consensus = cluster.nodes[0].manager().unwrap().consensus().clone();
    let joining = consensus.add_manager(cluster.nodes[1].id.clone(), cluster.nodes[1].addr.clone());
    assert!(timeout(Duration::from_secs(1), joining).await.is_err());
    assert!(consensus.members().iter().any(|m| !m.voter));
    let status = |nodes: ControlResponse| {
        let ControlResponse::Nodes(nodes) = nodes else { panic!() };
        nodes.into_iter().filter(|n| n.manager.is_some()).count()
    };
    assert_eq!(status(cluster.ask(0, ControlRequest::NodeList).await.unwrap()), 1, "it is no manager yet");

    cluster.restart_as(1, Role::Manager).await.unwrap();
    cluster.within(Duration::from_secs(5), "a vote", |_| consensus.members().iter().all(|m| m.voter)).await.unwrap();
    let manager = cluster.nodes[1].manager().unwrap();
    assert!(manager.consensus().votes());
    assert_eq!(status(cluster.ask(0, ControlRequest::NodeList).await.unwrap()), 2);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_demoted_before_it_has_its_vote_hears_of_it() {
    let cluster = SimCluster::start(SimConfig::new(35, 1, 1)).await.unwrap();
    set_role(&cluster, 1, Role::Manager).await.unwrap();
    cluster.eventually("it hears that it is to be a manager", told(1, Role::Manager)).await.unwrap();
    // it is taken in, and nobody answers there yet
    let consensus = cluster.nodes[0].manager().unwrap().consensus().clone();
    let joining = consensus.add_manager(cluster.nodes[1].id.clone(), cluster.nodes[1].addr.clone());
    assert!(timeout(Duration::from_secs(1), joining).await.is_err());
    assert_eq!(consensus.members().len(), 2);

    set_role(&cluster, 1, Role::Worker).await.unwrap();
    cluster.eventually("it hears that it is not", told(1, Role::Worker)).await.unwrap();
    assert_eq!(consensus.members().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_promotion_that_was_taken_back_while_the_node_was_away_is_forgotten() {
    let cluster = SimCluster::start(SimConfig::new(36, 1, 1)).await.unwrap();
    set_role(&cluster, 1, Role::Manager).await.unwrap();
    cluster.eventually("it hears that it is to be a manager", told(1, Role::Manager)).await.unwrap();
    cluster.net.isolate(&cluster.nodes[1].id);
    tokio::time::sleep(Duration::from_secs(10)).await;
    set_role(&cluster, 1, Role::Worker).await.unwrap();
    cluster.net.heal();
    cluster.eventually("it hears that it is not", told(1, Role::Worker)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_change_of_managers_that_nobody_waits_for_is_finished() {
    let cluster = SimCluster::start(SimConfig::new(34, 3, 1)).await.unwrap();
    let leader = cluster.leader().unwrap();
    let consensus = cluster.nodes[leader].manager().unwrap().consensus().clone();
    let (asked, leaves) = (consensus.clone(), cluster.nodes[(leader + 1) % 3].id.clone());
    let asking = tokio::spawn(async move { asked.remove_manager(&leaves).await });
    while consensus.unfinished_change().is_none() {
        assert!(!asking.is_finished(), "it was not caught half-way");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    let finished = |_: &SimCluster| consensus.unfinished_change().is_none();
    cluster.within(Duration::from_secs(3), "finished", finished).await.unwrap();
    assert_eq!(consensus.members().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_leaves_gets_its_seat_back_only_with_a_session() {
    let cluster = SimCluster::start(SimConfig::new(30, 3, 1)).await.unwrap();
    let leader = cluster.leader().unwrap();
    let leaves = (0..3).find(|m| *m != leader).unwrap();
    let client = cluster.net.connector(peer_of(&cluster, leaves)).connect(&cluster.nodes[leader].addr).await.unwrap();
    client.raft_leave().await.unwrap();
    let members = || cluster.nodes[leader].manager().unwrap().consensus().members().len();
    assert_eq!(members(), 2);
    // what its daemon asked for before arrives late
    assert!(client.raft_join(cluster.nodes[leaves].addr.clone()).await.is_err());
    assert_eq!(members(), 2);
    cluster.nodes[leaves].agent().unwrap().reconnect();
    tokio::time::sleep(Duration::from_secs(3)).await;
    client.raft_join(cluster.nodes[leaves].addr.clone()).await.unwrap();
    assert_eq!(members(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_removed_node_knows_it_and_keeps_what_runs() {
    let cluster = SimCluster::start(SimConfig::new(28, 1, 2)).await.unwrap();
    let web = cluster.create_service(service("web", 4, &[])).await.unwrap();
    cluster.eventually("4 run", |c| c.running(&web).len() == 4).await.unwrap();
    let before = cluster.nodes[2].machine.running().len();
    let id = cluster.nodes[2].id.to_string();
    cluster.control(ControlRequest::NodeRemove { id: id.clone(), force: true }).await.unwrap();
    let mut link = cluster.nodes[2].agent().unwrap().link();
    let refused = link.wait_for(|l| matches!(l, Link::Refused { .. }));
    let told = timeout(Duration::from_secs(10), refused).await.unwrap().unwrap().clone();
    let text = format!("rpc error: code = PermissionDenied desc = Permission denied: node {id} was removed from swarm");
    assert_eq!(told, Link::Refused { error: text });
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(*link.borrow(), told);
    assert_eq!(cluster.nodes[2].machine.running().len(), before);
}
