//! What nodes are told.

use malha_control::{network_view, networks_of_node, tasks_of_node};
use malha_model::*;

use super::world::*;

fn view(w: &World, id: &NetworkId) -> NetworkView {
    network_view(&w.state, id).unwrap()
}

#[test]
fn a_view_follows_its_tasks() {
    let mut w = World::new(3);
    let net = w.create_network("net", |_| {});
    let id = w.create(service_spec("web", |s| {
        replicas(s, 2);
        on_network(s, "net");
        s.task_template.networks[0].aliases = vec!["www".into()];
        s.task_template.container_spec.as_mut().unwrap().hostname = "named".into();
    }));
    let fresh = view(&w, &net);
    assert_eq!((fresh.endpoints.len(), fresh.peers.len()), (2, 2), "from assignment on");
    assert!(fresh.endpoints.values().all(|e| !e.serving));
    let service = &fresh.services[&id];
    assert_eq!((service.name.as_str(), &service.aliases[..], service.vips.len()), ("web", &["www".to_owned()][..], 1));
    assert!(service.ports.is_empty());
    w.settle();
    let up = view(&w, &net);
    for (task, endpoint) in &up.endpoints {
        assert!(endpoint.serving);
        assert_eq!(endpoint.names, ["cccccccccccc", "named"]);
        assert_eq!(endpoint.name, w.state.task(task).unwrap().name());
    }
    let node = up.endpoints.values().next().unwrap().node.clone();
    assert_eq!(up.peers[&node].name, format!("host-{node}"));
    w.update(&id, |s| replicas(s, 1));
    assert_eq!(view(&w, &net).endpoints.values().filter(|e| e.serving).count(), 1, "the one told to stop only drains");
    assert_eq!(view(&w, &net).endpoints.len(), 2);
    w.settle();
    assert_eq!((view(&w, &net).endpoints.len(), view(&w, &net).peers.len()), (1, 1));
    w.update(&id, |s| replicas(s, 0));
    w.settle();
    assert!(view(&w, &net).services.contains_key(&id), "the name lives as long as the service");
    w.ask(ControlRequest::ServiceRemove { id: id.to_string() }).unwrap();
    assert!(view(&w, &net).services.is_empty());
}

#[test]
fn a_templated_host_name_is_a_name_as_the_node_expands_it() {
    let mut w = World::new(2);
    let net = w.create_network("net", |_| {});
    w.create(service_spec("web", |s| {
        replicas(s, 2);
        on_network(s, "net");
        s.task_template.container_spec.as_mut().unwrap().hostname =
            "{{.Service.Name}}-{{.Task.Slot}}.{{.Node.Hostname}}".into();
    }));
    w.settle();
    for (task, endpoint) in &view(&w, &net).endpoints {
        let task = w.state.task(task).unwrap();
        let expected = format!("web-{}.host-{}", task.slot, task.node.as_ref().unwrap());
        assert!(endpoint.names.contains(&expected), "{expected} in {:?}", endpoint.names);
    }
}

#[test]
fn allocating_on_a_network_does_not_change_its_object_in_the_view() {
    let mut w = World::new(1);
    let net = w.create_network("net", |_| {});
    let before = view(&w, &net).network;
    w.create(service_spec("web", |s| on_network(s, "net")));
    assert_eq!(view(&w, &net).network, before);
}

#[test]
fn a_silent_node_leaves_the_views_and_returns() {
    let mut w = World::new(2);
    let net = w.create_network("net", |_| {});
    let id = w.create(service_spec("web", |s| {
        replicas(s, 2);
        on_network(s, "net");
        publish(s, 80, 80, PublishMode::Ingress);
        restart(s, |r| r.condition = "none".into());
    }));
    w.settle();
    w.node_down("n2");
    for network in [net, w.state.ingress().unwrap().id.clone()] {
        assert!(view(&w, &network).endpoints.values().all(|e| e.node.as_str() == "n1"));
    }
    assert_eq!(w.running(&id), 1);
}

#[test]
fn everybody_knows_ingress_and_only_members_know_the_rest() {
    let mut w = World::new(3);
    let net = w.create_network("net", |_| {});
    let ingress = w.state.ingress().unwrap().id.clone();
    let id = w.create(service_spec("web", |s| {
        on_network(s, "net");
        publish(s, 8080, 80, PublishMode::Ingress);
        publish(s, 9090, 90, PublishMode::Host);
    }));
    w.settle();
    let node = w.wanted(&id)[0].node.clone().unwrap();
    for n in ["n1", "n2", "n3"] {
        let known = networks_of_node(&w.state, &n.into());
        assert!(known.contains(&ingress));
        assert_eq!(known.contains(&net), node.as_str() == n);
        assert_eq!(tasks_of_node(&w.state, &n.into()).count(), usize::from(node.as_str() == n));
    }
    assert!(networks_of_node(&w.state, &"stranger".into()).is_empty());
    let view = view(&w, &ingress);
    assert_eq!(view.peers.len(), 3);
    let ports: Vec<u16> = view.services[&id].ports.iter().map(|p| p.published_port).collect();
    assert_eq!(ports, [8080]);
    assert!(network_view(&w.state, &"nope".into()).is_none());
}
