//! The whole way over TCP: joining, permissions, renewal, sessions, and what strangers may do to the port.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use malha_kit::Tasks;
use malha_model::{
    AgentMessage, Availability, Code, ControlRequest, LogOptions, LogSelector, ManagerMessage, NetworkId, Role,
};
use malha_pki::{JoinToken, TlsMaterial};
use malha_wire::{ConnectError, Connector, GrpcConnector, JoinError, MAX_MESSAGE, ManagerClient, join, renew};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

mod support;
use support::Swarm;

async fn client(swarm: &Swarm, addr: &str, node: &str, role: Role, tasks: &Tasks) -> Arc<dyn ManagerClient> {
    GrpcConnector::new(swarm.material(node, role), tasks).connect(addr).await.unwrap()
}

async fn try_join(addr: &str, token: &str, tasks: &Tasks) -> Result<TlsMaterial, JoinError> {
    join(&[addr.to_owned()], token, Availability::Active, None, tasks).await.map(|j| j.tls)
}

#[tokio::test]
async fn joining_takes_the_right_token_of_the_right_swarm() {
    let (swarm, foreign, tasks) = (Swarm::new(), Swarm::new(), Tasks::new());
    let addr = swarm.listen(&tasks).await;
    let token = swarm.worker_token();

    let worker = try_join(&addr, &token, &tasks).await.unwrap();
    assert_eq!(worker.certificate().identity.role, Role::Worker);
    let manager_token = swarm.manager_token.lock().unwrap().clone();
    let manager = try_join(&addr, &manager_token, &tasks).await.unwrap();
    assert_eq!(manager.certificate().identity.role, Role::Manager);

    swarm.rotate_worker_token();
    let refused = "rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster";
    assert_eq!(try_join(&addr, &token, &tasks).await.unwrap_err().to_string(), refused, "rotated");
    let made_up = JoinToken::generate(swarm.ca.trust()).unwrap().to_string();
    assert_eq!(try_join(&addr, &made_up, &tasks).await.unwrap_err().to_string(), refused, "wrong secret");
    let text = try_join(&addr, &foreign.worker_token(), &tasks).await.unwrap_err().to_string();
    assert!(text.starts_with("remote CA does not match fingerprint. Expected: "), "{text}");
    assert_eq!(try_join(&addr, "SWMTKN-1-x-y", &tasks).await.unwrap_err().to_string(), "invalid join token");

    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let error = try_join(&gone, &token, &tasks).await.unwrap_err();
    assert!(matches!(error, JoinError::Connect(ConnectError::Unreachable { .. })), "{error:?}");
    let both = [gone, addr];
    join(&both, &swarm.worker_token(), Availability::Active, None, &tasks).await.unwrap();
    tasks.shutdown().await;
}

#[tokio::test]
async fn each_role_is_held_to_its_questions() {
    let (swarm, tasks) = (Swarm::new(), Tasks::new());
    let addr = swarm.listen(&tasks).await;
    let worker = client(&swarm, &addr, "hand", Role::Worker, &tasks).await;
    let denied = [
        worker.raft(vec![1]).await.map(drop),
        worker.raft_join("1.2.3.4:2377".into()).await,
        worker.raft_leave().await,
        worker.control(ControlRequest::NodeList).await.map(drop),
        worker.logs(LogSelector::Task("t".into()), LogOptions::default()).await.map(drop),
    ];
    for answer in denied {
        assert_eq!(answer.unwrap_err().code, Code::PermissionDenied);
    }
    let detach = ControlRequest::NetworkDetach { node: "hand".into(), attachment: "t".into() };
    worker.control(detach).await.unwrap();
    assert_eq!(swarm.seen.lock().unwrap().len(), 1, "the service saw only what was allowed");

    let manager = client(&swarm, &addr, "second", Role::Manager, &tasks).await;
    manager.control(ControlRequest::NodeList).await.unwrap();
    manager.raft_join("1.2.3.4:2377".into()).await.unwrap();
    assert_eq!(swarm.seen.lock().unwrap().last().unwrap(), "join second 1.2.3.4:2377");
    let error = manager.raft_leave().await.unwrap_err();
    assert_eq!((error.code, error.http_status()), (Code::NotFound, 418), "errors arrive as they were");
    tasks.shutdown().await;
}

#[tokio::test]
async fn a_stranger_is_not_let_in() {
    let (swarm, foreign, tasks) = (Swarm::new(), Swarm::new(), Tasks::new());
    let addr = swarm.listen(&tasks).await;
    // Trusts nobody but its own root, so it refuses the server first.
    let theirs = GrpcConnector::new(foreign.material("spy", Role::Manager), &tasks);
    assert!(matches!(theirs.connect(&addr).await.err().unwrap(), ConnectError::Untrusted { .. }));
    // Trusts our root but shows a foreign certificate: our server refuses it.
    let config = foreign_client_trusting(&swarm, &foreign);
    let spy = malha_wire::GrpcClient::connect(&addr, config, &tasks).await;
    let refused = match spy {
        Ok(spy) => spy.control(ControlRequest::NodeList).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
    assert!(swarm.seen.lock().unwrap().is_empty());
    tasks.shutdown().await;
}

fn foreign_client_trusting(ours: &Swarm, foreign: &Swarm) -> Arc<rustls::ClientConfig> {
    // The certificate of the foreign swarm with the trust of ours: only an attacker puts these together.
    let (good, bad) = (ours.material("x", Role::Manager), foreign.material("spy", Role::Manager));
    let mut config = (*good.client_config()).clone();
    config.client_auth_cert_resolver = bad.client_config().client_auth_cert_resolver.clone();
    Arc::new(config)
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_next_while_the_old_connection_lives() {
    let (swarm, tasks) = (Swarm::new(), Tasks::new());
    let addr = swarm.listen(&tasks).await;
    let tls = swarm.material("hand", Role::Worker);
    let connector = GrpcConnector::new(tls.clone(), &tasks);
    let old = connector.connect(&addr).await.unwrap();
    let mut session = old.session().await.unwrap();

    *swarm.promoted.lock().unwrap() = Some(Role::Manager);
    renew(&*old, &tls, None).await.unwrap();
    assert_eq!(tls.certificate().identity.role, Role::Manager);
    let new = connector.connect(&addr).await.unwrap();
    new.control(ControlRequest::NodeList).await.unwrap();
    assert_eq!(old.control(ControlRequest::NodeList).await.unwrap_err().code, Code::PermissionDenied);
    session.tx.send(AgentMessage::Heartbeat).await.unwrap();
    assert_eq!(session.rx.recv().await, Some(ManagerMessage::Alive));
    tasks.shutdown().await;
}

#[tokio::test]
async fn sessions_carry_both_ways_and_end_from_either_side() {
    let (swarm, tasks) = (Swarm::new(), Tasks::new());
    let port = Tasks::new();
    let addr = swarm.listen(&port).await;
    let worker = client(&swarm, &addr, "hand", Role::Worker, &tasks).await;
    let mut session = worker.session().await.unwrap();
    for _ in 0..1000 {
        session.tx.send(AgentMessage::Resync(NetworkId::from("n".repeat(100)))).await.unwrap();
    }
    session.tx.send(AgentMessage::Heartbeat).await.unwrap();
    assert_eq!(session.rx.recv().await, Some(ManagerMessage::Alive));
    drop(session.tx);
    assert_eq!(session.rx.recv().await, None, "the service ended because we did");
    swarm.ended.acquire().await.unwrap().forget();

    let session = worker.session().await.unwrap();
    drop(session.rx);
    let ended = timeout(Duration::from_secs(5), swarm.ended.acquire()).await;
    ended.expect("dropping either half ends the session").unwrap().forget();

    let refused = client(&swarm, &addr, "refused", Role::Worker, &tasks).await;
    assert_eq!(refused.session().await.err().unwrap().code, Code::NotFound);

    let mut session = worker.session().await.unwrap();
    port.shutdown().await;
    let end = timeout(Duration::from_secs(5), session.rx.recv()).await;
    assert_eq!(end.expect("the port took its sessions along"), None);
    assert!(worker.session().await.is_err());
    tasks.shutdown().await;
}

#[tokio::test]
async fn logs_arrive_in_order_with_their_last_word() {
    let (swarm, tasks) = (Swarm::new(), Tasks::new());
    let addr = swarm.listen(&tasks).await;
    let manager = client(&swarm, &addr, "second", Role::Manager, &tasks).await;
    let mut lines = manager.logs(LogSelector::Task("t".into()), LogOptions::default()).await.unwrap();
    for n in 0..100 {
        assert_eq!(lines.recv().await.unwrap().unwrap().data, format!("line {n}\n").into_bytes());
    }
    assert_eq!(lines.recv().await.unwrap().unwrap_err(), "one node did not answer");
    assert!(lines.recv().await.is_none());
    let none = manager.logs(LogSelector::Service("s".into()), LogOptions::default()).await;
    assert_eq!(none.err().unwrap().code, Code::NotFound);
    tasks.shutdown().await;
}

// on threads of their own: one that is busy with such a message would miss the other's keep-alives
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn large_messages_pass_and_too_large_ones_say_so() {
    let (swarm, tasks) = (Swarm::new(), Tasks::new());
    let addr = swarm.listen(&tasks).await;
    let manager = client(&swarm, &addr, "second", Role::Manager, &tasks).await;
    let big: Vec<u8> = (0..MAX_MESSAGE - 100).map(|n| n as u8).collect();
    let mut expected = big.clone();
    expected.reverse();
    assert!(manager.raft(big).await.unwrap() == expected);
    let error = manager.raft(vec![0; MAX_MESSAGE]).await.unwrap_err();
    assert_eq!(error.code, Code::OutOfRange);
    manager.raft(vec![1]).await.unwrap();
    tasks.shutdown().await;
}

#[tokio::test]
async fn garbage_floods_and_idlers_cost_only_themselves() {
    let (swarm, tasks) = (Swarm::new(), Tasks::new());
    let addr = swarm.listen(&tasks).await;
    let manager = client(&swarm, &addr, "second", Role::Manager, &tasks).await;

    let mut idlers = Vec::new();
    for _ in 0..100 {
        idlers.push(TcpStream::connect(&addr).await.unwrap()); // say nothing
    }
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 70_000], &[0x16, 3, 1, 0xff, 0xff], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let mut stream = TcpStream::connect(&addr).await.unwrap();
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let closed = timeout(Duration::from_secs(6), stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "the port hung up");
    }
    manager.raft(vec![1]).await.unwrap();
    client(&swarm, &addr, "third", Role::Worker, &tasks).await.session().await.unwrap();

    // A joiner may not send much: its connection is cut, the others' are not.
    let token = JoinToken::parse(&swarm.worker_token()).unwrap();
    let config = malha_pki::joining_client_config(&token).unwrap();
    let joiner = malha_wire::GrpcClient::connect(&addr, config, &tasks).await.unwrap();
    let request = malha_wire::IssueRequest {
        csr_pem: "x".repeat(1 << 20),
        token: Some(swarm.worker_token()),
        availability: Availability::Active,
    };
    assert_eq!(joiner.issue_certificate(request).await.unwrap_err().code, Code::OutOfRange);
    assert_eq!(joiner.session().await.err().unwrap().code, Code::PermissionDenied);
    manager.raft(vec![1]).await.unwrap();

    let mut idler = idlers.pop().unwrap();
    let hung_up = timeout(Duration::from_secs(8), idler.read(&mut [0; 16])).await;
    assert!(hung_up.is_ok(), "an idle handshake has a deadline");
    tasks.shutdown().await;
}

#[tokio::test]
async fn a_silent_peer_is_noticed_within_about_two_seconds() {
    let (swarm, tasks) = (Swarm::new(), Tasks::new());
    let addr = swarm.listen(&tasks).await;
    // A relay that can stop passing bytes without closing anything, as a dead machine does.
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let via = relay.local_addr().unwrap().to_string();
    let cut = malha_kit::CancellationToken::new();
    let is_cut = cut.clone();
    tokio::spawn(async move {
        let (mut near, _) = relay.accept().await.unwrap();
        let mut far = TcpStream::connect(addr).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            () = is_cut.cancelled() => std::future::pending().await,
        }
    });
    let worker = client(&swarm, &via, "hand", Role::Worker, &tasks).await;
    let mut session = worker.session().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    session.tx.send(AgentMessage::Heartbeat).await.unwrap();
    assert_eq!(session.rx.recv().await, Some(ManagerMessage::Alive), "idle connections stay");
    let start = Instant::now();
    cut.cancel();
    let (agent, manager) = tokio::join!(
        async {
            assert_eq!(session.rx.recv().await, None);
            start.elapsed()
        },
        async {
            swarm.ended.acquire().await.unwrap().forget();
            start.elapsed()
        }
    );
    println!("silence noticed: by the agent after {agent:?}, by the manager after {manager:?}");
    assert!(agent.max(manager) < Duration::from_secs(4), "{agent:?} {manager:?}");
    tasks.shutdown().await;
}

#[tokio::test]
async fn those_who_wait_for_a_dead_address_wait_once() {
    let (swarm, tasks) = (Swarm::new(), Tasks::new());
    // Accepts and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    let connector = GrpcConnector::new(swarm.material("hand", Role::Worker), &tasks);
    let start = Instant::now();
    let results = futures::future::join_all((0..20).map(|_| connector.connect(&addr))).await;
    assert!(results.iter().all(|r| matches!(r, Err(ConnectError::Unreachable { .. }))));
    // a second and a half each; twice would be three
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    tasks.shutdown().await;
}

#[tokio::test]
async fn those_in_a_hurry_find_the_connection_that_they_asked_for_before() {
    let (swarm, tasks) = (Swarm::new(), Tasks::new());
    let addr = swarm.listen(&tasks).await;
    // A way that takes its time.
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let via = relay.local_addr().unwrap().to_string();
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = relay.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let mut far = TcpStream::connect(&addr).await.unwrap();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(800)).await;
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    let connector = GrpcConnector::new(swarm.material("hand", Role::Worker), &tasks);
    for _ in 0..3 {
        assert!(timeout(Duration::from_millis(80), connector.connect(&via)).await.is_err());
    }
    connector.connect(&via).await.unwrap().session().await.unwrap();
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
    tasks.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_many_questions_per_second() {
    let (swarm, tasks) = (Swarm::new(), Tasks::new());
    let addr = swarm.listen(&tasks).await;
    let manager = client(&swarm, &addr, "second", Role::Manager, &tasks).await;
    let rate = async |lanes: usize, each: usize| {
        let start = Instant::now();
        let lane = async || {
            for _ in 0..each {
                manager.raft(vec![0; 256]).await.unwrap();
            }
        };
        futures::future::join_all((0..lanes).map(|_| lane())).await;
        (lanes * each) as f64 / start.elapsed().as_secs_f64()
    };
    let (serial, wide) = (rate(1, 500).await, rate(64, 50).await);
    println!("unary calls of 256 bytes: {serial:.0}/s one by one, {wide:.0}/s with 64 at once");
    assert!(serial > 100.0 && wide > serial / 2.0, "far below what loopback carries: {serial:.0}/s, {wide:.0}/s");
    tasks.shutdown().await;
}
