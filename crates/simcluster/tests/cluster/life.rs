//! Services on real managers and agents, nothing failing.

use std::time::Duration;

use malha_model::{ControlRequest, ControlResponse, Role, TaskState};
use malha_simcluster::{SimCluster, SimConfig, service};
use malha_wire::{Connector as _, Peer};

#[tokio::test(start_paused = true)]
async fn a_service_runs_scales_updates_and_goes() {
    let cluster = SimCluster::start(SimConfig::new(1, 1, 2)).await.unwrap();
    let network = cluster.create_network("net").await.unwrap();
    let web = cluster.create_service(service("web", 3, &[&network])).await.unwrap();
    cluster.eventually("3 replicas run", |c| c.running(&web).len() == 3).await.unwrap();
    let nodes: std::collections::BTreeSet<_> = cluster.running(&web).iter().map(|t| t.node.clone()).collect();
    assert_eq!(nodes.len(), 3, "spread over all nodes");
    let rest = cluster.within(Duration::from_millis(200), "names complete", |c| c.unrest().is_none()).await;
    assert!(rest.is_ok(), "{:?}", cluster.unrest());

    cluster.update_service(&web, |s| s.mode.replicated.as_mut().unwrap().replicas = Some(5)).await.unwrap();
    cluster.eventually("5 replicas run", |c| c.running(&web).len() == 5).await.unwrap();
    cluster.update_service(&web, |s| s.task_template.force_update += 1).await.unwrap();
    let version = cluster.state().service(&web).unwrap().spec_version;
    cluster
        .eventually("all replaced", |c| {
            c.running(&web).len() == 5 && c.running(&web).iter().all(|t| t.spec_version == version)
        })
        .await
        .unwrap();
    cluster.eventually("rest", |c| c.unrest().is_none()).await.unwrap();

    cluster.control(ControlRequest::ServiceRemove { id: "web".into() }).await.unwrap();
    cluster.eventually("no tasks", |c| c.state().tasks().next().is_none()).await.unwrap();
    cluster
        .eventually("nothing left", |c| {
            c.unrest().is_none() && c.nodes.iter().all(|n| n.machine.containers().is_empty())
        })
        .await
        .unwrap();
    cluster.control(ControlRequest::NetworkRemove { id: "net".into() }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_killed_container_is_soon_out_of_everybodys_names_and_replaced() {
    let cluster = SimCluster::start(SimConfig::new(2, 1, 2)).await.unwrap();
    let network = cluster.create_network("net").await.unwrap();
    let web = cluster.create_service(service("web", 3, &[&network])).await.unwrap();
    cluster.eventually("rest", |c| c.running(&web).len() == 3 && c.unrest().is_none()).await.unwrap();
    let victim = cluster.running(&web)[0].clone();
    let home = victim.node.clone().unwrap();
    assert!(cluster.node(&home).unwrap().machine.kill(&victim.id, 137));
    let named = |c: &SimCluster| {
        let others = c.nodes.iter().filter(|n| n.id != home).filter_map(|n| n.machine.networks());
        others.filter(|n| n.views[&network].endpoints.contains_key(&victim.id)).count()
    };
    let took = cluster.within(Duration::from_millis(100), "out of the names", |c| named(c) == 0).await.unwrap();
    println!("gone after {took:?}");
    assert_eq!(cluster.state().task(&victim.id).unwrap().status.state, TaskState::Failed);
    cluster.eventually("replaced", |c| c.running(&web).len() == 3 && c.unrest().is_none()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nodes_hear_only_of_networks_they_are_on() {
    let cluster = SimCluster::start(SimConfig::new(3, 1, 3)).await.unwrap();
    let network = cluster.create_network("net").await.unwrap();
    let one = cluster.create_service(service("one", 1, &[&network])).await.unwrap();
    cluster.eventually("rest", |c| c.running(&one).len() == 1 && c.unrest().is_none()).await.unwrap();
    let shown = |c: &SimCluster| {
        c.nodes.iter().filter(|n| n.machine.networks().is_some_and(|v| v.views.contains_key(&network))).count()
    };
    assert_eq!(shown(&cluster), 1);
    cluster.control(ControlRequest::ServiceRemove { id: "one".into() }).await.unwrap();
    cluster.eventually("nobody is on it", |c| shown(c) == 0).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn any_manager_answers() {
    let cluster = SimCluster::start(SimConfig::new(4, 3, 1)).await.unwrap();
    for (index, name) in ["a", "b", "c"].iter().enumerate() {
        let create = ControlRequest::ServiceCreate { spec: service(name, 1, &[]), registry_auth: None };
        cluster.ask(index, create).await.unwrap();
    }
    let list = cluster.ask(2, ControlRequest::ServiceList).await.unwrap();
    let malha_model::ControlResponse::Services(services) = list else { panic!("{list:?}") };
    assert_eq!(services.len(), 3);
    let malha_model::ControlResponse::Nodes(nodes) = cluster.ask(1, ControlRequest::NodeList).await.unwrap() else {
        panic!()
    };
    assert_eq!(nodes.iter().filter(|n| n.manager.as_ref().is_some_and(|m| m.leader)).count(), 1);
    assert_eq!(nodes.iter().filter(|n| n.manager.is_some()).count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_stand_alone_container_gets_on_a_network_and_off_again() {
    let cluster = SimCluster::start(SimConfig::new(5, 1, 2)).await.unwrap();
    let network = cluster.create_network("net").await.unwrap();
    let worker = &cluster.nodes[2];
    let peer = Peer { node: worker.id.clone(), role: Role::Worker, cluster: worker.cluster.clone() };
    let client = cluster.net.connector(peer).connect(&cluster.nodes[0].addr).await.unwrap();
    let attach = ControlRequest::NetworkAttach {
        node: worker.id.clone(),
        network: "net".into(),
        container_id: "c".repeat(64),
        container_name: "probe".into(),
        addresses: vec![],
        aliases: vec!["p".into()],
    };
    let ControlResponse::Attached { attachment, addresses, .. } = client.control(attach).await.unwrap() else {
        panic!()
    };
    assert_eq!(addresses.addresses.len(), 1);
    let ready = worker.agent().unwrap().task_networks_ready(&attachment);
    tokio::time::timeout(Duration::from_millis(200), ready).await.unwrap();
    let served = |c: &SimCluster| {
        let shown = c.nodes[2].machine.networks().unwrap();
        shown.views.get(&network).and_then(|v| v.endpoints.get(&attachment).map(|e| e.serving)) == Some(true)
    };
    cluster.within(Duration::from_millis(200), "named", served).await.unwrap();
    let rename = ControlRequest::ContainerRename {
        node: worker.id.clone(),
        container_id: "c".repeat(64),
        container_name: "other".into(),
    };
    client.control(rename).await.unwrap();
    let renamed = |c: &SimCluster| {
        let shown = c.nodes[2].machine.networks().unwrap();
        shown.views.get(&network).and_then(|v| v.endpoints.get(&attachment)).is_some_and(|e| e.name == "other")
    };
    cluster.within(Duration::from_millis(200), "renamed", renamed).await.unwrap();
    cluster.eventually("rest", |c| c.unrest().is_none()).await.unwrap();
    client
        .control(ControlRequest::NetworkDetach { node: worker.id.clone(), attachment: attachment.clone() })
        .await
        .unwrap();
    cluster.eventually("gone", |c| !c.nodes[2].machine.networks().unwrap().views.contains_key(&network)).await.unwrap();
    cluster.control(ControlRequest::NetworkRemove { id: "net".into() }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn names_are_complete_soon_after_the_last_of_ten_runs() {
    let cluster = SimCluster::start(SimConfig::new(6, 3, 3)).await.unwrap();
    let network = cluster.create_network("net").await.unwrap();
    let begin = tokio::time::Instant::now();
    let web = cluster.create_service(service("web", 10, &[&network])).await.unwrap();
    let machines = |c: &SimCluster| c.nodes.iter().map(|n| n.machine.running().len()).sum::<usize>();
    cluster.eventually("10 containers", |c| machines(c) == 10).await.unwrap();
    let ran = begin.elapsed();
    let named = |c: &SimCluster| {
        c.running(&web).len() == 10
            && c.nodes.iter().all(|n| {
                let shown = n.machine.networks();
                let view = shown.as_ref().and_then(|n| n.views.get(&network));
                view.is_some_and(|v| v.endpoints.values().filter(|e| e.serving).count() == 10)
            })
    };
    let took = cluster.within(Duration::from_millis(200), "named everywhere", named).await.unwrap();
    println!("running after {ran:?}, named everywhere {took:?} later");
}
