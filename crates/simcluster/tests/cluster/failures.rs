//! Nodes and managers that fail, and what everybody else notices of it.

use std::{collections::BTreeMap, time::Duration};

use malha_model::{AgentMessage, ControlRequest, ManagerMessage, NodeDescription, NodeState, TaskStatus};
use malha_simcluster::{SimCluster, SimConfig, service};
use malha_wire::{Connector as _, Peer};
use tokio::time::{Instant, sleep};

async fn three_replicas(
    seed: u64,
    managers: usize,
    workers: usize,
) -> (SimCluster, malha_model::NetworkId, malha_model::ServiceId) {
    let cluster = SimCluster::start(SimConfig::new(seed, managers, workers)).await.unwrap();
    let network = cluster.create_network("net").await.unwrap();
    let web = cluster.create_service(service("web", 3, &[&network])).await.unwrap();
    cluster.eventually("rest", |c| c.running(&web).len() == 3 && c.unrest().is_none()).await.unwrap();
    (cluster, network, web)
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_leaves_the_names_within_2_s_and_is_replaced_within_6() {
    let (cluster, network, web) = three_replicas(11, 1, 3).await;
    let lost = cluster.running(&web).into_iter().find(|t| *t.node.as_ref().unwrap() != cluster.nodes[0].id).unwrap();
    let lost_node = lost.node.clone().unwrap();
    cluster.net.isolate(&lost_node);
    let begin = Instant::now();
    let serving = |c: &SimCluster| {
        let views = c.nodes.iter().filter(|n| n.id != lost_node).filter_map(|n| n.machine.networks());
        let shown = views.filter_map(|n| n.views.get(&network)?.endpoints.get(&lost.id).map(|e| e.serving));
        shown.filter(|serving| *serving).count()
    };
    cluster.within(Duration::from_secs(2), "out of the names", |c| serving(c) == 0).await.unwrap();
    let runs = |c: &SimCluster| c.running(&web).iter().filter(|t| *t.node.as_ref().unwrap() != lost_node).count();
    cluster.within(Duration::from_secs(6) - begin.elapsed(), "replaced", |c| runs(c) == 3).await.unwrap();
    // the node itself carries on meanwhile
    let machine = &cluster.node(&lost_node).unwrap().machine;
    assert!(machine.running().iter().any(|t| t.id == lost.id));
    cluster.net.heal();
    cluster.eventually("the old task ends", |_| machine.running().iter().all(|t| t.id != lost.id)).await.unwrap();
    cluster.eventually("rest", |c| c.unrest().is_none()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_short_silence_costs_nothing() {
    let (cluster, _, web) = three_replicas(12, 1, 2).await;
    let before = cluster.running(&web);
    let id = cluster.nodes[2].id.clone();
    cluster.net.isolate(&id);
    sleep(Duration::from_millis(2500)).await;
    assert_eq!(cluster.state().node(&id).unwrap().status.state, NodeState::Disconnected);
    cluster.net.heal();
    cluster.within(Duration::from_secs(2), "rest", |c| c.unrest().is_none()).await.unwrap();
    let ids = |tasks: &[std::sync::Arc<malha_model::Task>]| tasks.iter().map(|t| t.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&before), ids(&cluster.running(&web)));
}

#[tokio::test(start_paused = true)]
async fn a_crashed_daemon_comes_back_to_its_containers() {
    let (mut cluster, _, web) = three_replicas(13, 1, 2).await;
    let starts: BTreeMap<_, _> = cluster.nodes[2].machine.starts();
    cluster.crash(2).await;
    sleep(Duration::from_secs(1)).await;
    cluster.restart(2).await.unwrap();
    cluster.within(Duration::from_secs(3), "rest", |c| c.unrest().is_none()).await.unwrap();
    assert_eq!(cluster.nodes[2].machine.starts(), starts, "nothing was started again");
    assert_eq!(cluster.running(&web).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn without_its_leader_the_swarm_answers_again_within_3_s_and_nodes_notice_nothing() {
    let (mut cluster, network, web) = three_replicas(14, 3, 2).await;
    let leader = cluster.leader().unwrap();
    let before = cluster.running(&web);
    cluster.crash(leader).await;
    let begin = Instant::now();
    cluster.create_service(service("next", 1, &[])).await.unwrap();
    println!("accepted after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    // nodes that live stay in everybody's names all the while
    let alive: Vec<_> = cluster.nodes.iter().filter(|n| n.is_up()).map(|n| n.id.clone()).collect();
    let lasting: Vec<_> = before.iter().filter(|t| alive.contains(t.node.as_ref().unwrap())).collect();
    for _ in 0..200 {
        sleep(Duration::from_millis(50)).await;
        for node in cluster.nodes.iter().filter(|n| n.is_up()) {
            let networks = node.machine.networks().unwrap();
            let Some(view) = networks.views.get(&network) else { continue };
            for task in &lasting {
                assert!(view.endpoints.get(&task.id).is_some_and(|e| e.serving), "{} lost {}", node.name, task.id);
            }
        }
    }
    cluster.restart(leader).await.unwrap();
    cluster.eventually("rest", |c| c.unrest().is_none() && c.running(&web).len() == 3).await.unwrap();
    let index = cluster.state().index();
    cluster.eventually("caught up", |c| c.nodes[leader].state().index() >= index).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_ran_beside_the_leader_leaves_the_names_and_is_replaced_as_fast_as_elsewhere() {
    for seed in 40..46 {
        let (cluster, network, web) = three_replicas(seed, 3, 0).await;
        let old = cluster.leader().unwrap();
        let dead = cluster.nodes[old].id.clone();
        let lost = cluster.running(&web).into_iter().find(|t| t.node.as_ref() == Some(&dead)).unwrap();
        cluster.net.isolate(&dead);
        let begin = Instant::now();
        let leads = |c: &SimCluster| {
            c.nodes.iter().any(|n| n.id != dead && n.manager().is_some_and(malha_manager::Manager::leads))
        };
        cluster.within(Duration::from_secs(3), "another leads", leads).await.unwrap();
        let elected = begin.elapsed();
        let state = |c: &SimCluster| {
            c.nodes
                .iter()
                .find(|n| n.id != dead && n.manager().is_some_and(malha_manager::Manager::leads))
                .unwrap()
                .state()
        };
        let serves = |c: &SimCluster| {
            malha_control::network_view(&state(c), &network).unwrap().endpoints.get(&lost.id).is_some_and(|e| e.serving)
        };
        let silent = cluster.within(Duration::from_secs(3), "out of the names", |c| !serves(c)).await.unwrap();
        println!("seed {seed}: elected after {elected:?}, out of the names {silent:?} later");
        assert!(elected + silent < Duration::from_secs(2), "{silent:?} after the election, which took {elected:?}");
        let runs = |c: &SimCluster| {
            let state = state(c);
            let up = |t: &&std::sync::Arc<malha_model::Task>| t.status.state == malha_model::TaskState::Running;
            state.tasks_of_service(&web).filter(up).filter(|t| t.node.as_ref() != Some(&dead)).count()
        };
        cluster.within(Duration::from_secs(6), "replaced", |c| runs(c) == 3).await.unwrap();
        println!("replaced after {:?}", begin.elapsed());
        assert!(begin.elapsed() < elected + Duration::from_secs(5), "{:?}", begin.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn with_all_managers_dead_everything_runs_on_and_is_found_again() {
    let (mut cluster, _, web) = three_replicas(15, 3, 2).await;
    let before: Vec<_> = cluster.running(&web).iter().map(|t| t.id.clone()).collect();
    for manager in 0..3 {
        cluster.crash(manager).await;
    }
    sleep(Duration::from_secs(60)).await;
    let running: usize = cluster.nodes.iter().map(|n| n.machine.running().len()).sum();
    assert_eq!(running, 3);
    for manager in 0..3 {
        cluster.restart(manager).await.unwrap();
    }
    cluster.eventually("rest", |c| c.leader().is_some() && c.unrest().is_none()).await.unwrap();
    let after: Vec<_> = cluster.running(&web).iter().map(|t| t.id.clone()).collect();
    assert_eq!(before, after, "nothing was replaced");
}

#[tokio::test(start_paused = true)]
async fn a_leader_cut_off_from_the_rest_stops_leading_and_changes_nothing() {
    let (cluster, _, web) = three_replicas(16, 3, 2).await;
    let old = cluster.leader().unwrap();
    cluster.net.isolate(&cluster.nodes[old].id);
    cluster.eventually("another leads", |c| c.leader().is_some_and(|l| l != old)).await.unwrap();
    let lone = cluster.ask(old, ControlRequest::ServiceRemove { id: web.to_string() }).await;
    assert_eq!(lone.unwrap_err().http_status(), 503);
    cluster.net.heal();
    cluster.eventually("rest", |c| c.unrest().is_none() && c.running(&web).len() == 3).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_nodes_say_while_nothing_can_be_written_is_written_later() {
    let (cluster, _, web) = three_replicas(17, 1, 2).await;
    let disk = &cluster.nodes[0].raft_disk;
    let slow = Duration::from_secs(25);
    disk.set_sync(slow..=slow);
    let ends = cluster.running(&web);
    let kill = |n: usize| {
        let task: &malha_model::Task = &ends[n];
        assert!(cluster.node(task.node.as_ref().unwrap()).unwrap().machine.kill(&task.id, 1));
    };
    // the first is proposed and given up; what comes behind it does not even get its turn
    kill(0);
    sleep(Duration::from_secs(1)).await;
    kill(1);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(cluster.leader(), Some(0), "the same term");
    disk.set_sync(Duration::ZERO..=Duration::from_millis(1));
    cluster.eventually("replaced", |c| c.unrest().is_none() && c.running(&web).len() == 3).await.unwrap();
    assert!(cluster.running(&web).iter().all(|t| ends[..2].iter().all(|ended| ended.id != t.id)));
}

#[tokio::test(start_paused = true)]
async fn a_node_is_heard_while_no_report_can_be_taken() {
    let mut cluster = SimCluster::start(SimConfig::new(18, 1, 1)).await.unwrap();
    cluster.crash(1).await;
    let slow = Duration::from_secs(60);
    cluster.nodes[0].raft_disk.set_sync(slow..=slow);
    let node = &cluster.nodes[1];
    let peer = Peer { node: node.id.clone(), role: node.role, cluster: node.cluster.clone() };
    let client = cluster.net.connector(peer).connect(&cluster.nodes[0].addr).await.unwrap();
    let mut session = client.session().await.unwrap();
    let talk = async {
        let hello =
            AgentMessage::Hello { description: NodeDescription::default(), data_path_addr: [10, 99, 0, 2].into() };
        session.tx.send(hello).await.unwrap();
        for n in 0..5000 {
            let status = (format!("t{n}").into(), TaskStatus::default());
            session.tx.send(AgentMessage::TaskStatus(vec![status])).await.unwrap();
        }
        session.tx.send(AgentMessage::Heartbeat).await.unwrap();
        while session.rx.recv().await.unwrap() != ManagerMessage::Alive {}
    };
    tokio::time::timeout(Duration::from_secs(4), talk).await.expect("an answer to the heartbeat");
}
