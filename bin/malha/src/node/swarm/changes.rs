//! What leads from one state of the swarm to another, as Docker tells it. Pure.
//!
//! What awaits its deletion is gone already, as it is to every request. Networks that only services may name are nobody's
//! news, nor is which address was given out last.

use std::collections::{BTreeMap, BTreeSet};

use malha_api::backend::Event;
use malha_consensus::Reachability;
use malha_model::{Kind, Labels, Meta, Network, NodeId, Service, Timestamp};
use malha_store::State;
use serde::Serialize;

/// How a manager stands in the group: too fleeting to be part of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) leader: bool,
    /// Known to the leader alone.
    pub(super) reachability: Reachability,
}

pub(super) type Standings = BTreeMap<NodeId, Standing>;

/// The events between two states. An object that is gone may have taken the time of its removal along: then it is
/// `undated`.
pub(super) fn between(old: &State, new: &State, undated: Timestamp) -> Vec<Event> {
    let event = |(kind, id): (Kind, &str)| match kind {
        Kind::Node => node(old, new, id, undated),
        Kind::Network => network(old, new, id, undated),
        Kind::Service => service(old, new, id, undated),
        Kind::Cluster | Kind::Task => None,
    };
    touched(old, new).into_iter().filter_map(event).collect()
}

/// The events between two looks at the group.
pub(super) fn of_managers(state: &State, old: &Standings, new: &Standings, now: Timestamp) -> Vec<Event> {
    let known = |r: Reachability| (r != Reachability::Unknown).then(|| r.to_string());
    let event = |(id, is): (&NodeId, &Standing)| {
        let (was, node) = (old.get(id)?, state.node(id)?);
        let mut attributes = Labels::new();
        changed(&mut attributes, "leader", Some(was.leader.to_string()), Some(is.leader.to_string()));
        if let Some((was, is)) = known(was.reachability).zip(known(is.reachability)) {
            changed(&mut attributes, "reachability", Some(was), Some(is));
        }
        if attributes.is_empty() {
            return None;
        }
        attributes.insert("name".into(), node.name().to_owned());
        Some(Event::swarm("node", "update", id.as_str(), attributes, now))
    };
    new.iter().filter_map(event).collect()
}

/// Where to look: everywhere, where the states are far apart.
fn touched<'a>(old: &'a State, new: &'a State) -> BTreeSet<(Kind, &'a str)> {
    let everywhere = || [old, new].into_iter().flat_map(objects).collect();
    new.touched_since(old).unwrap_or_else(everywhere)
}

fn objects(state: &State) -> impl Iterator<Item = (Kind, &str)> {
    let nodes = state.nodes().map(|n| (Kind::Node, n.id.as_str()));
    let networks = state.networks().map(|n| (Kind::Network, n.id.as_str()));
    let services = state.services().map(|s| (Kind::Service, s.id.as_str()));
    nodes.chain(networks).chain(services)
}

/// What became of an object, and when.
fn step(
    before: Option<Meta>,
    after: Option<Meta>,
    removed: impl FnOnce() -> Timestamp,
) -> Option<(&'static str, Timestamp)> {
    match (before, after) {
        (None, Some(made)) => Some(("create", made.created_at)),
        (Some(before), Some(after)) if before.version != after.version => Some(("update", after.updated_at)),
        (Some(_), None) => Some(("remove", removed())),
        _ => None,
    }
}

fn node(old: &State, new: &State, id: &str, undated: Timestamp) -> Option<Event> {
    let (before, after) = (old.node(&id.into()), new.node(&id.into()));
    let removed = || new.cluster().and_then(|c| c.removed_nodes.get(id)).copied().unwrap_or(undated);
    let (action, time) = step(before.map(|n| n.meta), after.map(|n| n.meta), removed)?;
    let mut attributes = named(after.or(before)?.name());
    if let (Some(before), Some(after)) = (before, after) {
        let (was, is) = (&before.spec, &after.spec);
        changed(&mut attributes, "availability", word(was.availability), word(is.availability));
        changed(&mut attributes, "role", word(before.observed_role), word(after.observed_role));
        changed(&mut attributes, "state", word(before.status.state), word(after.status.state));
    }
    Some(Event::swarm("node", action, id, attributes, time))
}

fn network(old: &State, new: &State, id: &str, undated: Timestamp) -> Option<Event> {
    let (before, after) = (shown_network(old, id), shown_network(new, id));
    if let (Some(before), Some(after)) = (before, after)
        && before.spec == after.spec
    {
        return None;
    }
    let removed = || new.network(&id.into()).map_or(undated, |n| n.meta.updated_at);
    let (action, time) = step(before.map(|n| n.meta), after.map(|n| n.meta), removed)?;
    Some(Event::swarm("network", action, id, named(after.or(before)?.name()), time))
}

fn shown_network<'a>(state: &'a State, id: &str) -> Option<&'a Network> {
    state.network(&id.into()).map(|n| &**n).filter(|n| !n.pending_delete && !n.predefined)
}

fn service(old: &State, new: &State, id: &str, undated: Timestamp) -> Option<Event> {
    let (before, after) = (shown_service(old, id), shown_service(new, id));
    let removed = || new.service(&id.into()).map_or(undated, |s| s.meta.updated_at);
    let (action, time) = step(before.map(|s| s.meta), after.map(|s| s.meta), removed)?;
    let mut attributes = named(&after.or(before)?.spec.name);
    if let (Some(before), Some(after)) = (before, after) {
        changed(&mut attributes, "image", image(before), image(after));
        changed(&mut attributes, "replicas", replicas(before), replicas(after));
        changed(&mut attributes, "updatestate", update_state(before), update_state(after));
    }
    Some(Event::swarm("service", action, id, attributes, time))
}

fn shown_service<'a>(state: &'a State, id: &str) -> Option<&'a Service> {
    state.service(&id.into()).map(|s| &**s).filter(|s| !s.pending_delete)
}

fn image(service: &Service) -> Option<String> {
    service.spec.task_template.container_spec.as_ref().map(|c| c.image.clone())
}

fn replicas(service: &Service) -> Option<String> {
    (!service.spec.is_global()).then(|| service.spec.replicas().to_string())
}

fn update_state(service: &Service) -> Option<String> {
    service.update_status.as_ref().and_then(|s| word(s.state))
}

fn named(name: &str) -> Labels {
    [("name".to_owned(), name.to_owned())].into()
}

/// `key.new`, and `key.old` where there was something before.
fn changed(attributes: &mut Labels, key: &str, old: Option<String>, new: Option<String>) {
    if old == new {
        return;
    }
    let Some(new) = new else { return };
    attributes.insert(format!("{key}.new"), new);
    if let Some(old) = old {
        attributes.insert(format!("{key}.old"), old);
    }
}

/// As the API writes it.
fn word(value: impl Serialize) -> Option<String> {
    serde_json::to_value(value).ok()?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use malha_model::{Availability, Cluster, ContainerSpec, Node, NodeState, Object, Role, UpdateState, UpdateStatus};
    use malha_store::Change;

    use super::*;

    const NOW: Timestamp = Timestamp(99);

    fn next(state: &State, change: Change) -> State {
        state.apply(state.index() + 1, &[change])
    }

    fn put(state: &State, object: impl Into<Object>) -> State {
        next(state, Change::Put(object.into()))
    }

    fn meta() -> Meta {
        Meta { version: 0, created_at: Timestamp(10), updated_at: Timestamp(20) }
    }

    fn web() -> Service {
        let mut service = Service { id: "s".into(), meta: meta(), ..Service::default() };
        service.spec.name = "web".into();
        service.spec.task_template.container_spec =
            Some(ContainerSpec { image: "a:1".into(), ..ContainerSpec::default() });
        service
    }

    fn node1() -> Node {
        let mut node = Node { id: "n".into(), meta: meta(), ..Node::default() };
        node.description.hostname = "node1".into();
        node
    }

    fn net() -> Network {
        let mut network = Network { id: "o".into(), meta: meta(), ..Network::default() };
        network.spec.name = "net".into();
        network
    }

    /// `kind action id time: attributes`
    fn lines(events: &[Event]) -> Vec<String> {
        let line = |e: &Event| {
            assert_eq!(e.scope, "swarm");
            let attributes: Vec<String> = e.attributes.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("{} {} {} {}: {}", e.kind, e.action, e.actor_id, e.time.0, attributes.join(" "))
        };
        events.iter().map(line).collect()
    }

    fn told(old: &State, new: &State) -> Vec<String> {
        lines(&between(old, new, NOW))
    }

    #[test]
    fn services_come_change_and_go() {
        let made = put(&State::default(), web());
        assert_eq!(told(&State::default(), &made), ["service create s 10: name=web"]);
        assert!(told(&made, &made).is_empty());

        let mut service = web();
        service.spec.mode.replicated = Some(malha_model::Replicated { replicas: Some(3) });
        service.spec.task_template.container_spec.as_mut().unwrap().image = "a:2".into();
        service.update_status = Some(UpdateStatus { state: UpdateState::Updating, ..UpdateStatus::default() });
        let changed = put(&made, service.clone());
        let wanted = "service update s 20: image.new=a:2 image.old=a:1 name=web replicas.new=3 replicas.old=1 \
                      updatestate.new=updating";
        assert_eq!(told(&made, &changed), [wanted]);
        service.update_status = Some(UpdateStatus { state: UpdateState::RollbackStarted, ..UpdateStatus::default() });
        let wanted = "service update s 20: name=web updatestate.new=rollback_started updatestate.old=updating";
        assert_eq!(told(&changed, &put(&changed, service.clone())), [wanted]);

        service.pending_delete = true;
        let removed = put(&changed, service);
        assert_eq!(told(&changed, &removed), ["service remove s 20: name=web"]);
        let gone = next(&removed, Change::Delete(Kind::Service, "s".into()));
        assert!(told(&removed, &gone).is_empty(), "once");
        assert_eq!(told(&changed, &gone), ["service remove s 99: name=web"], "whatever lies between");
    }

    #[test]
    fn nodes_tell_what_a_user_asks_about() {
        let made = put(&State::default(), node1());
        assert_eq!(told(&State::default(), &made), ["node create n 10: name=node1"]);
        let mut node = node1();
        node.spec.labels.insert("zone".into(), "a".into());
        let labelled = put(&made, node.clone());
        assert_eq!(told(&made, &labelled), ["node update n 20: name=node1"]);
        node.spec.availability = Availability::Drain;
        node.observed_role = Role::Manager;
        node.status.state = NodeState::Ready;
        let wanted = "node update n 20: availability.new=drain availability.old=active name=node1 role.new=manager \
                      role.old=worker state.new=ready state.old=unknown";
        assert_eq!(told(&labelled, &put(&labelled, node)), [wanted]);

        let cluster = Cluster { removed_nodes: [("n".into(), Timestamp(50))].into(), ..Cluster::default() };
        let changes = [Change::Put(cluster.into()), Change::Delete(Kind::Node, "n".into())];
        let removed = labelled.apply(labelled.index() + 1, &changes);
        assert_eq!(told(&labelled, &removed), ["node remove n 50: name=node1"]);
    }

    #[test]
    fn networks_of_users_come_and_go() {
        let made = put(&State::default(), net());
        assert_eq!(told(&State::default(), &made), ["network create o 10: name=net"]);
        let used = put(&made, Network { cursor: vec!["10.0.1.9".parse().unwrap()], ..net() });
        assert!(told(&made, &used).is_empty(), "an address is no news");
        let removed = put(&used, Network { pending_delete: true, ..net() });
        assert_eq!(told(&used, &removed), ["network remove o 20: name=net"]);
        let hidden = put(&made, Network { id: "h".into(), predefined: true, ..net() });
        assert!(told(&made, &hidden).is_empty());
    }

    #[test]
    fn states_that_are_far_apart_are_compared_whole() {
        let old = put(&put(&State::default(), web()), net());
        let mut new = put(&next(&old, Change::Delete(Kind::Network, "o".into())), node1());
        for n in 0..50 {
            new = put(&new, Service { id: format!("s{n}").into(), meta: meta(), ..Service::default() });
        }
        let read = State::from_bytes(&new.to_bytes().unwrap()).unwrap();
        for new in [new, read] {
            let told = told(&old, &new);
            assert_eq!(told[..2], ["node create n 10: name=node1", "network remove o 99: name=net"]);
            assert_eq!(
                (told.len(), &*told[51]),
                (52, "service create s9 10: name="),
                "and nothing of what is the same"
            );
        }
    }

    #[test]
    fn managers_tell_who_leads_and_who_is_lost() {
        let state = put(&State::default(), node1());
        let look = |leader, reachability| Standings::from([("n".into(), Standing { leader, reachability })]);
        let told = |old: &Standings, new: &Standings| lines(&of_managers(&state, old, new, NOW));
        let (leads, follows) = (look(true, Reachability::Reachable), look(false, Reachability::Reachable));
        let lost = look(false, Reachability::Unreachable);
        assert_eq!(told(&follows, &leads), ["node update n 99: leader.new=true leader.old=false name=node1"]);
        let wanted = "node update n 99: name=node1 reachability.new=unreachable reachability.old=reachable";
        assert_eq!(told(&follows, &lost), [wanted]);
        for unknown in [&Standings::new(), &look(false, Reachability::Unknown)] {
            assert!(told(unknown, &lost).is_empty() && told(&lost, unknown).is_empty());
        }
    }
}
