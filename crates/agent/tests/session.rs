//! One agent against a manager that the test plays by hand, under paused time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use malha_agent::{
    Agent, AgentConfig, AgentDeps, Link, MemoryDisk,
    testing::{Script, ScriptedExecutor},
};
use malha_kit::{Rng, Tasks, TokioClock, watch};
use malha_model::{
    AgentMessage, ApiError, ApiResult, Code, ContainerSpec, ControlRequest, ControlResponse, LogOptions, LogSelector,
    ManagerMessage, Network, NetworkAttachment, NetworkDelta, NetworkView, NodeDescription, NodeId, NodeRoute, Role,
    ServiceId, Task, TaskId, TaskState, TaskStatus, Timestamp,
};
use malha_simnet::{Latency, SimNet};
use malha_wire::{Duplex, IssueRequest, IssueResponse, LogReceiver, ManagerService, Peer};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

type ManagerEnd = Duplex<ManagerMessage, AgentMessage>;

/// Hands each session to the test.
struct ByHand(mpsc::Sender<ManagerEnd>);

fn no<T>() -> ApiResult<T> {
    Err(ApiError::rpc(Code::Unimplemented, "not played"))
}

#[async_trait]
impl ManagerService for ByHand {
    async fn root_certificate(&self) -> ApiResult<String> {
        no()
    }
    async fn issue_certificate(&self, _: Option<Peer>, _: IssueRequest) -> ApiResult<IssueResponse> {
        no()
    }
    async fn raft(&self, _: Peer, _: Vec<u8>) -> ApiResult<Vec<u8>> {
        no()
    }
    async fn raft_join(&self, _: Peer, _: String) -> ApiResult<()> {
        no()
    }
    async fn raft_leave(&self, _: Peer) -> ApiResult<()> {
        no()
    }
    async fn control(&self, _: Peer, _: ControlRequest) -> ApiResult<ControlResponse> {
        no()
    }
    async fn logs(&self, _: Peer, _: LogSelector, _: LogOptions) -> ApiResult<LogReceiver> {
        no()
    }
    async fn session(&self, _: Peer, session: ManagerEnd) -> ApiResult<()> {
        let closed = session.tx.clone();
        self.0.send(session).await.ok();
        closed.closed().await;
        Ok(())
    }
}

const NODE: &str = "node1";
const HEARTBEAT: Duration = Duration::from_millis(500);

struct World {
    net: SimNet,
    executor: ScriptedExecutor,
    disk: MemoryDisk,
    sessions: mpsc::Receiver<ManagerEnd>,
    agent: Agent,
    tasks: Tasks,
}

fn start(net: &SimNet, executor: &ScriptedExecutor, disk: &MemoryDisk) -> (Agent, Tasks) {
    let tasks = Tasks::new();
    let peer = Peer { node: NODE.into(), role: Role::Worker, cluster: "c".into() };
    let (_, seeds) = watch::channel(vec!["m1:2377".to_owned()]);
    let deps = AgentDeps {
        executor: Arc::new(executor.clone()),
        connector: Arc::new(net.connector(peer)),
        disk: Arc::new(disk.clone()),
        seeds,
        clock: Arc::new(TokioClock::starting_at(Timestamp(1_700_000_000_000_000_000))),
        rng: Rng::from_seed(1),
    };
    let config = AgentConfig { node: NODE.into(), data_path_addr: IpAddr::from([10, 9, 0, 1]) };
    (Agent::start(config, deps, &tasks), tasks)
}

fn world() -> World {
    let net = SimNet::new(Latency::default(), Rng::from_seed(1));
    let (handed, sessions) = mpsc::channel(4);
    net.listen("m1:2377", "m1".into(), Arc::new(ByHand(handed)));
    let executor = ScriptedExecutor::new(NODE.into(), NodeDescription::default());
    let disk = MemoryDisk::default();
    let (agent, tasks) = start(&net, &executor, &disk);
    World { net, executor, disk, sessions, agent, tasks }
}

impl World {
    /// Greets the next session with `views` and `tasks`; heartbeats are answered until the session is dropped.
    async fn greet(&mut self, views: Vec<NetworkView>, tasks: Vec<Task>) -> Played {
        let mut session = timeout(Duration::from_secs(5), self.sessions.recv()).await.unwrap().unwrap();
        assert!(matches!(session.rx.recv().await, Some(AgentMessage::Hello { .. })));
        let managers = BTreeMap::from([(NodeId::from("m1"), "m1:2377".to_owned())]);
        session.tx.send(ManagerMessage::Welcome { heartbeat: HEARTBEAT, managers }).await.unwrap();
        for view in views {
            session.tx.send(ManagerMessage::Network(view)).await.unwrap();
        }
        session.tx.send(ManagerMessage::AllTasks(tasks)).await.unwrap();
        Played { session, statuses: BTreeMap::new() }
    }

    async fn crash_agent(&mut self) {
        self.tasks.shutdown().await;
        self.net.crash(&NodeId::from(NODE));
    }

    fn restart_agent(&mut self) {
        (self.agent, self.tasks) = start(&self.net, &self.executor, &self.disk);
    }
}

struct Played {
    session: ManagerEnd,
    statuses: BTreeMap<TaskId, Vec<TaskStatus>>,
}

impl Played {
    /// Takes messages until `done` says so of one.
    async fn until(&mut self, mut done: impl FnMut(&AgentMessage) -> bool) -> AgentMessage {
        let look = async {
            loop {
                let message = self.session.rx.recv().await.expect("the session goes on");
                if message == AgentMessage::Heartbeat {
                    self.session.tx.send(ManagerMessage::Alive).await.unwrap();
                }
                if let AgentMessage::TaskStatus(statuses) = &message {
                    for (id, status) in statuses {
                        let seen = self.statuses.entry(id.clone()).or_default();
                        assert!(seen.last().is_none_or(|l| l.state <= status.state), "{status:?} after {seen:?}");
                        seen.push(status.clone());
                    }
                }
                if done(&message) {
                    return message;
                }
            }
        };
        timeout(Duration::from_secs(20), look).await.expect("seen in time")
    }

    async fn state(&mut self, task: &str, state: TaskState) -> TaskStatus {
        let mut found = None;
        self.until(|m| {
            if let AgentMessage::TaskStatus(all) = m {
                found = all.iter().find(|(id, s)| id.as_str() == task && s.state == state).map(|(_, s)| s.clone());
            }
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    async fn send(&self, message: ManagerMessage) {
        self.session.tx.send(message).await.unwrap();
    }
}

fn task(id: &str) -> Task {
    Task {
        id: id.into(),
        service: Some(ServiceId::from("s")),
        service_name: "web".into(),
        slot: 1,
        node: Some(NODE.into()),
        desired_state: TaskState::Running,
        status: TaskStatus { state: TaskState::Assigned, ..TaskStatus::default() },
        ..Task::default()
    }
}

fn on_network(id: &str) -> Task {
    let attachment = NetworkAttachment {
        network: "n".into(),
        addresses: vec!["10.0.1.3/24".parse().unwrap()],
        ..NetworkAttachment::default()
    };
    Task { networks: vec![attachment], ..task(id) }
}

fn view(seq: u64) -> NetworkView {
    NetworkView { network: Network { id: "n".into(), ..Network::default() }, seq, ..NetworkView::default() }
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_routes_change_says_hello_again() {
    let mut w = world();
    let mut played = w.greet(vec![], vec![]).await;
    let route = NodeRoute { subnet: "172.18.0.0/16".parse().unwrap(), device: "docker_gwbridge".into() };
    let now = NodeDescription { routes: vec![route], ..NodeDescription::default() };
    w.executor.describe(now.clone());
    let hello = |m: &AgentMessage| matches!(m, AgentMessage::Hello { .. });
    let AgentMessage::Hello { description, .. } = played.until(hello).await else { panic!() };
    assert_eq!(description, now);
    // Once: what follows for a long time are heartbeats.
    let mut beats = 0;
    played
        .until(|m| {
            assert!(!hello(m), "told once");
            beats += u32::from(*m == AgentMessage::Heartbeat);
            beats == 30
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_node_too_busy_to_look_at_itself_says_what_it_last_was() {
    let mut w = world();
    let played = w.greet(vec![], vec![]).await;
    w.executor.script(Script { describe: Duration::from_secs(60), ..Script::default() });
    drop(played);
    w.greet(vec![], vec![]).await;
}

#[tokio::test(start_paused = true)]
async fn a_task_runs_and_its_end_is_told_at_once() {
    let mut w = world();
    let mut m = w.greet(vec![], vec![task("t1"), task("t2")]).await;
    let running = m.state("t1", TaskState::Running).await;
    assert_eq!((running.message.as_str(), running.container.unwrap().container_id.as_str()), ("started", "c-t1"));
    let before = tokio::time::Instant::now();
    assert!(w.executor.kill(&"t1".into(), 137));
    let failed = m.state("t1", TaskState::Failed).await;
    assert!(before.elapsed() < Duration::from_millis(20), "{:?}", before.elapsed());
    assert_eq!(failed.err, "task: non-zero exit (137)");
    assert_eq!(failed.container.unwrap().exit_code, 137);
    w.executor.kill(&"t2".into(), 0);
    assert_eq!(m.state("t2", TaskState::Complete).await.message, "finished");
    assert_eq!(w.executor.containers().len(), 2, "kept for the history");
    m.send(ManagerMessage::Tasks { changed: vec![], removed: vec!["t1".into()] }).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(w.executor.containers().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_cannot_be_prepared_is_rejected() {
    let mut w = world();
    let error = Some("No such image: nope:latest".to_owned());
    w.executor.script(Script { prepare_error: error, ..Script::default() });
    let mut m = w.greet(vec![], vec![task("t")]).await;
    let rejected = m.state("t", TaskState::Rejected).await;
    assert_eq!((rejected.err.as_str(), rejected.message.as_str()), ("No such image: nope:latest", "preparing"));
}

#[tokio::test(start_paused = true)]
async fn images_that_take_long_hold_no_other_task_up() {
    let mut w = world();
    w.executor.script_image("huge", Script { fetch: Duration::from_secs(600), ..Script::default() });
    let huge = |n: u32| {
        let container = ContainerSpec { image: "huge".into(), ..ContainerSpec::default() };
        let mut task = task(&format!("huge{n}"));
        task.spec.container_spec = Some(container);
        task
    };
    let mut m = w.greet(vec![], (0..20).map(huge).collect()).await;
    m.state("huge19", TaskState::Preparing).await;
    sleep(Duration::from_millis(100)).await;
    m.send(ManagerMessage::Tasks { changed: vec![task("small")], removed: vec![] }).await;
    m.state("small", TaskState::Running).await;
    let changed = vec![Task { desired_state: TaskState::Shutdown, ..huge(0) }];
    m.send(ManagerMessage::Tasks { changed, removed: vec![] }).await;
    m.state("huge0", TaskState::Shutdown).await;
}

#[tokio::test(start_paused = true)]
async fn a_task_told_to_stop_while_it_is_prepared_ends_as_shutdown() {
    let mut w = world();
    w.executor.script(Script { prepare: Duration::from_secs(600), ..Script::default() });
    let mut m = w.greet(vec![], vec![task("t")]).await;
    m.state("t", TaskState::Preparing).await;
    let changed = vec![Task { desired_state: TaskState::Shutdown, ..task("t") }];
    m.send(ManagerMessage::Tasks { changed, removed: vec![] }).await;
    m.state("t", TaskState::Shutdown).await;
}

#[tokio::test(start_paused = true)]
async fn containers_wait_for_their_networks_and_gaps_are_asked_about() {
    let mut w = world();
    let mut m = w.greet(vec![], vec![on_network("t")]).await;
    m.state("t", TaskState::Preparing).await;
    sleep(Duration::from_millis(400)).await;
    assert!(w.executor.containers().is_empty());
    m.send(ManagerMessage::Network(view(4))).await;
    m.until(|m| *m == AgentMessage::NetworkApplied { network: "n".into(), seq: 4 }).await;
    m.state("t", TaskState::Running).await;

    let delta = |from_seq, to_seq| NetworkDelta { network: "n".into(), from_seq, to_seq, ..NetworkDelta::default() };
    m.send(ManagerMessage::NetworkDelta(delta(4, 5))).await;
    m.until(|m| *m == AgentMessage::NetworkApplied { network: "n".into(), seq: 5 }).await;
    m.send(ManagerMessage::NetworkDelta(delta(6, 7))).await;
    m.until(|m| *m == AgentMessage::Resync("n".into())).await;
    m.send(ManagerMessage::Network(view(7))).await;
    m.until(|m| *m == AgentMessage::NetworkApplied { network: "n".into(), seq: 7 }).await;
    m.send(ManagerMessage::NetworkGone("n".into())).await;
    sleep(Duration::from_millis(100)).await;
    assert!(w.executor.networks().unwrap().views.is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_managers_everything_goes_on_and_what_happened_is_told_later() {
    let mut w = world();
    let mut m = w.greet(vec![view(1)], vec![on_network("a"), task("b")]).await;
    m.state("a", TaskState::Running).await;
    drop(m);
    w.net.isolate(&"m1".into());
    sleep(Duration::from_secs(30)).await;
    assert_eq!(w.executor.running().len(), 2);
    assert_eq!(w.executor.networks().unwrap().views.len(), 1);
    w.executor.kill(&"b".into(), 3);
    sleep(Duration::from_secs(1)).await;
    w.net.heal();
    let mut m = w.greet(vec![view(1)], vec![on_network("a"), task("b")]).await;
    assert_eq!(m.state("b", TaskState::Failed).await.err, "task: non-zero exit (3)");
    assert_eq!(w.executor.starts(), BTreeMap::from([("a".into(), 1), ("b".into(), 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_silent_manager_is_left() {
    let mut w = world();
    let m = w.greet(vec![], vec![]).await;
    let mut link = w.agent.link();
    link.wait_for(|l| matches!(l, Link::Connected { .. })).await.unwrap();
    // heartbeats are not answered from here on
    let since = tokio::time::Instant::now();
    link.wait_for(|l| matches!(l, Link::Connecting { .. })).await.unwrap();
    assert!(since.elapsed() < HEARTBEAT * 6, "{:?}", since.elapsed());
    drop(m);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_daemon_takes_over_with_all_managers_dead() {
    let mut w = world();
    let mut m = w.greet(vec![view(1)], vec![on_network("a"), task("b"), task("c")]).await;
    m.state("a", TaskState::Running).await;
    sleep(Duration::from_millis(200)).await;
    w.crash_agent().await;
    w.net.isolate(&"m1".into());
    w.executor.kill(&"b".into(), 9);
    w.restart_agent();
    sleep(Duration::from_secs(3)).await;
    let networks = w.executor.networks().unwrap();
    assert_eq!(networks.views.len(), 1);
    assert_eq!(networks.tasks.len(), 1);
    w.net.heal();
    // "c" was removed meanwhile
    let mut m = w.greet(vec![view(1)], vec![on_network("a"), task("b")]).await;
    assert_eq!(m.state("b", TaskState::Failed).await.err, "task: non-zero exit (9)");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(w.executor.running().len(), 1);
    assert_eq!(w.executor.containers().len(), 2);
    assert!(w.executor.starts().values().all(|n| *n == 1), "nothing is started twice");
}

#[tokio::test(start_paused = true)]
async fn a_panic_over_one_task_loses_that_task_alone() {
    let mut w = world();
    w.executor.script_image("bad", Script { start_panics: true, ..Script::default() });
    let mut bad = task("bad");
    bad.spec.container_spec = Some(ContainerSpec { image: "bad".into(), ..ContainerSpec::default() });
    let mut m = w.greet(vec![], vec![bad, task("good")]).await;
    assert_eq!(m.state("bad", TaskState::Failed).await.err, "the node's work on the task panicked");
    assert_eq!((w.executor.running().len(), w.executor.containers().len()), (1, 2));
    // Who took over removes it like any other, in the same session.
    m.send(ManagerMessage::Tasks { changed: vec![], removed: vec!["bad".into()] }).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(w.executor.containers().len(), 1);
    m.until(|m| *m == AgentMessage::Heartbeat).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_of_names_and_maps_that_panicked_is_made_again() {
    let mut w = world();
    let mut m = w.greet(vec![view(1)], vec![on_network("a")]).await;
    m.state("a", TaskState::Running).await;
    w.executor.panic_at_next_apply();
    m.send(ManagerMessage::Network(view(2))).await;
    m.until(|m| *m == AgentMessage::NetworkApplied { network: "n".into(), seq: 2 }).await;
    assert_eq!(w.executor.networks().unwrap().views.values().next().unwrap().seq, 2);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lost_its_disk_adopts_what_it_is_told_and_removes_the_rest() {
    let mut w = world();
    let mut m = w.greet(vec![], vec![task("a"), task("b")]).await;
    m.state("b", TaskState::Running).await;
    w.crash_agent().await;
    w.disk = MemoryDisk::default();
    w.restart_agent();
    let mut m = w.greet(vec![], vec![task("a")]).await;
    m.state("a", TaskState::Running).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(w.executor.running().iter().map(|t| t.id.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(w.executor.containers().len(), 1);
    assert_eq!(w.executor.starts()["a"], 1);
}

#[tokio::test(start_paused = true)]
async fn log_lines_come_until_the_end() {
    let mut w = world();
    let mut m = w.greet(vec![], vec![task("a")]).await;
    m.state("a", TaskState::Running).await;
    let selector = LogSelector::Service(ServiceId::from("s"));
    m.send(ManagerMessage::LogSubscribe { subscription: 7, selector, options: LogOptions::default() }).await;
    let first = m.until(|m| matches!(m, AgentMessage::Logs { .. })).await;
    assert!(
        matches!(&first, AgentMessage::Logs { subscription: 7, lines, done: false } if lines.len() == 1),
        "{first:?}"
    );
    m.until(|m| matches!(m, AgentMessage::Logs { subscription: 7, done: true, .. })).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_keeps_nothing() {
    let mut w = world();
    let mut m = w.greet(vec![view(1)], vec![on_network("a"), task("b")]).await;
    m.state("b", TaskState::Running).await;
    w.agent.clear().await;
    assert!(w.executor.containers().is_empty());
}
