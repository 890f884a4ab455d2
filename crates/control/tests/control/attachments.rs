//! Stand-alone containers on attachable networks.

use malha_model::{ControlRequest as R, ControlResponse as A, *};

use super::world::*;

fn attach(node: &str, network: &str, container: &str) -> R {
    R::NetworkAttach {
        node: node.into(),
        network: network.into(),
        container_id: container.into(),
        container_name: format!("name-{container}"),
        addresses: Vec::new(),
        aliases: vec!["alias".into()],
    }
}

#[test]
fn a_container_gets_its_place_and_gives_it_back() {
    let mut w = World::new(2);
    let net = w.create_network("net", |n| n.attachable = true);
    let A::Attached { attachment, addresses, network } = w.ask(attach("n2", "net", "0123456789abcdef")).unwrap() else {
        panic!()
    };
    assert_eq!((network.id, addresses.addresses[0].to_string()), (net.clone(), "10.0.1.3/24".to_owned()));
    let A::Attached { attachment: again, .. } = w.ask(attach("n2", "net", "0123456789abcdef")).unwrap() else {
        panic!()
    };
    assert_eq!(attachment, again, "asked twice, given once");
    w.settle();
    let view = malha_control::network_view(&w.state, &net).unwrap();
    let endpoint = &view.endpoints[&attachment];
    assert_eq!((endpoint.name.as_str(), endpoint.serving), ("name-0123456789abcdef", true));
    assert_eq!(endpoint.names, ["0123456789ab", "alias"]);
    w.edit_node("n2", |n| n.availability = Availability::Drain);
    w.settle();
    assert!(w.state.task(&attachment).is_some(), "draining leaves it alone");
    let in_use = w.refused(R::NetworkRemove { id: "net".into() }).0;
    assert_eq!(
        in_use,
        format!("rpc error: code = FailedPrecondition desc = network {net} is in use by task {attachment}")
    );
    let foreign = w.refused(R::NetworkDetach { node: "n1".into(), attachment: attachment.clone() });
    assert_eq!(foreign.1, 403);
    w.ask(R::NetworkDetach { node: "n2".into(), attachment: attachment.clone() }).unwrap();
    assert_eq!(w.refused(R::NetworkDetach { node: "n2".into(), attachment }).1, 404);
    w.ask(R::NetworkRemove { id: "net".into() }).unwrap();
}

#[test]
fn a_renamed_container_goes_by_its_new_name() {
    let mut w = World::new(2);
    let networks = ["one", "two"].map(|name| w.create_network(name, |n| n.attachable = true));
    let container = "0123456789abcdef";
    let places = ["one", "two"].map(|network| {
        let A::Attached { attachment, .. } = w.ask(attach("n2", network, container)).unwrap() else { panic!() };
        attachment
    });
    w.settle();
    let rename = |node: &str, name: &str| R::ContainerRename {
        node: node.into(),
        container_id: container.into(),
        container_name: name.into(),
    };
    let names = |w: &World| {
        let endpoint = |n: usize| {
            let view = malha_control::network_view(&w.state, &networks[n]).unwrap();
            view.endpoints[&places[n]].clone()
        };
        [endpoint(0), endpoint(1)].map(|e| format!("{} {}", e.name, e.names.join(" ")))
    };
    w.ask(rename("n2", "new")).unwrap();
    assert_eq!(names(&w), ["new 0123456789ab alias", "new 0123456789ab alias"]);
    w.ask(rename("n1", "foreign")).unwrap();
    assert_eq!(names(&w), ["new 0123456789ab alias", "new 0123456789ab alias"], "a node speaks of its own");
    // Renamed while it was stopped, and back before its place was given up.
    w.ask(attach("n2", "one", container)).unwrap();
    assert_eq!(names(&w), ["name-0123456789abcdef 0123456789ab alias", "new 0123456789ab alias"]);
}

#[test]
fn refusals_have_dockers_words() {
    let mut w = World::new(1);
    w.create_network("closed", |_| {});
    assert_eq!(
        w.refused(attach("n1", "nope", "c")),
        ("rpc error: code = NotFound desc = network nope not found".into(), 404)
    );
    assert_eq!(
        w.refused(attach("n1", "closed", "c")),
        ("rpc error: code = PermissionDenied desc = network closed not manually attachable".into(), 403)
    );
}

#[test]
fn asked_addresses_are_given_once() {
    let mut w = World::new(1);
    w.create_network("net", |n| {
        n.attachable = true;
        n.ipam.config.push(subnet("10.5.0.0/24"));
    });
    let fixed = |container: &str, addr: &str| match attach("n1", "net", container) {
        R::NetworkAttach { node, network, container_id, container_name, aliases, .. } => {
            let addresses = vec![addr.parse().unwrap()];
            R::NetworkAttach { node, network, container_id, container_name, addresses, aliases }
        }
        other => other,
    };
    let A::Attached { addresses, .. } = w.ask(fixed("a", "10.5.0.77/32")).unwrap() else { panic!() };
    assert_eq!(addresses.addresses[0].to_string(), "10.5.0.77/24");
    assert_eq!(
        w.refused(fixed("b", "10.5.0.77/24")).0,
        "rpc error: code = PermissionDenied desc = Address already in use"
    );
    assert_eq!(w.refused(fixed("b", "10.5.0.1/24")).1, 403, "the gateway's");
    let outside = w.refused(fixed("b", "10.6.0.1/24")).0;
    assert!(outside.ends_with("no configured subnet contains IP address 10.6.0.1"), "{outside}");
}

#[test]
fn an_ended_container_leaves_nothing() {
    let mut w = World::new(1);
    w.create_network("net", |n| n.attachable = true);
    let A::Attached { attachment, .. } = w.ask(attach("n1", "net", "c")).unwrap() else { panic!() };
    w.settle();
    let task = w.state.task(&attachment).unwrap().clone();
    w.report(&task, TaskState::Complete);
    assert!(w.state.task(&attachment).is_none());
}
