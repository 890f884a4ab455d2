//! Snapshots, transactions and lookups by example and for any sequence of writes.

use malha_model::{Code, Kind, Network, NetworkAttachment, Node, Object, Service, Task, TaskState, Timestamp};
use malha_store::{Change, State, Tx};
use proptest::prelude::*;

fn service(id: &str, name: &str) -> Service {
    let mut s = Service { id: id.into(), ..Service::default() };
    s.spec.name = name.into();
    s
}

fn task(id: &str, service: &str, node: Option<&str>, network: &str) -> Task {
    Task {
        id: id.into(),
        service: Some(service.into()),
        node: node.map(Into::into),
        networks: vec![NetworkAttachment { network: network.into(), ..NetworkAttachment::default() }],
        ..Task::default()
    }
}

fn ids<'a>(tasks: impl Iterator<Item = &'a std::sync::Arc<Task>>) -> Vec<String> {
    tasks.map(|t| t.id.to_string()).collect()
}

#[test]
fn a_clone_stays_as_it_was_and_versions_follow_the_log() {
    let a = State::default().apply(3, &[Change::Put(service("s1", "web").into())]);
    let b = a.apply(4, &[Change::Put(service("s1", "api").into()), Change::Put(task("t1", "s1", None, "n").into())]);
    assert_eq!(a.service_named("web").unwrap().meta.version, 3);
    assert_eq!(b.service_named("api").unwrap().meta.version, 4);
    assert!(b.service_named("web").is_none());
    assert_eq!((a.index(), b.index()), (3, 4));
    assert_eq!(ids(b.tasks_of_service(&"s1".into())), ["t1"]);
    assert_eq!(a.task_count(), 0);
}

#[test]
fn a_transaction_counts_the_objects_that_it_has_room_for() {
    let mut tx = Tx::new(&State::default());
    tx.put(service("s1", "web"));
    assert!(!tx.is_full());
    tx.set_room(1);
    tx.put(service("s1", "api"));
    assert_eq!(tx.room(), 1, "it was touched before");
    tx.put(service("s2", "web"));
    assert!(tx.is_full());
    // for what belongs together
    tx.put(service("s3", "db"));
    assert!(tx.is_full());
    assert_eq!(tx.changes().len(), 3);
}

#[test]
fn a_state_knows_what_the_last_writes_touched() {
    let put = |id: &str| Change::Put(service(id, id).into());
    let mut states = vec![State::default().apply(3, &[put("a")])];
    for (index, changes) in [(5, vec![put("b"), put("c")]), (6, vec![Change::Delete(Kind::Service, "a".into())])] {
        states.push(states.last().unwrap().apply(index, &changes));
    }
    let since = |later: usize, earlier: usize| -> Option<Vec<&str>> {
        let touched = states[later].touched_since(&states[earlier])?;
        Some(touched.into_iter().map(|(_, id)| id).collect())
    };
    assert_eq!(since(2, 2), Some(vec![]));
    assert_eq!(since(2, 1), Some(vec!["a"]));
    assert_eq!(since(2, 0), Some(vec!["a", "b", "c"]));
    assert_eq!(since(1, 2), None, "not from a later state");
    let read = State::from_bytes(&states[2].to_bytes().unwrap()).unwrap();
    assert_eq!((&read, read.touched_since(&states[0])), (&states[2], None), "a snapshot does not keep it");
    let mut far = states[2].clone();
    for index in 7..100 {
        far = far.apply(index, &[put("d")]);
    }
    assert_eq!(far.touched_since(&states[2]), None, "it is forgotten");
}

#[test]
fn indexes_follow_an_object_that_moves() {
    let mut tx = Tx::new(&State::default());
    tx.put(task("t1", "s1", None, "net1"));
    tx.put(task("t2", "s10", Some("n1"), "net1"));
    tx.put(task("t1", "s1", Some("n1"), "net2"));
    assert_eq!(ids(tx.tasks_of_node(&"n1".into())), ["t1", "t2"]);
    assert_eq!(ids(tx.tasks_of_service(&"s1".into())), ["t1"]);
    assert_eq!(ids(tx.tasks_of_network(&"net1".into())), ["t2"]);
    tx.delete(Kind::Task, "t1");
    assert_eq!(ids(tx.tasks_of_node(&"n1".into())), ["t2"]);
}

#[test]
fn a_transaction_boils_down_to_its_last_writes() {
    let now = Timestamp(9_000_000_000);
    let base =
        State::default().apply(1, &[Change::Put(service("a", "a").into()), Change::Put(service("b", "b").into())]);
    let mut tx = Tx::at(&base, now);
    tx.put(service("a", "other"));
    tx.put(service("a", "a"));
    tx.put(service("b", "b"));
    tx.put(service("c", "c"));
    tx.put(service("d", "d"));
    tx.delete(Kind::Service, "d");
    tx.delete(Kind::Service, "b");
    tx.delete(Kind::Service, "never");
    let changes = tx.into_changes();
    assert_eq!(changes.iter().map(Change::id).collect::<Vec<_>>(), ["b", "c"]);
    let Change::Put(Object::Service(c)) = &changes[1] else { panic!("{changes:?}") };
    assert_eq!((c.meta.created_at, c.meta.updated_at), (now, now));
}

#[test]
fn references_resolve_by_id_then_name_then_prefix() {
    let mut node = Node { id: "aa1".into(), ..Node::default() };
    node.description.hostname = "aa".into();
    let mut gone = service("s1x", "web");
    gone.pending_delete = true;
    let mut net = Network { id: "n1".into(), ..Network::default() };
    net.spec.name = "Front".into();
    let objects: Vec<Object> = vec![
        node.into(),
        Node { id: "aa2".into(), ..Node::default() }.into(),
        gone.into(),
        service("s1y", "api").into(),
        net.into(),
    ];
    let state = State::default().apply(1, &objects.into_iter().map(Change::Put).collect::<Vec<_>>());
    assert_eq!(state.resolve::<Node>("aa2").unwrap().id.as_str(), "aa2");
    assert_eq!(state.resolve::<Node>("aa").unwrap().id.as_str(), "aa1", "a name goes before a prefix");
    let e = state.resolve::<Node>("a").unwrap_err();
    assert_eq!((e.message.as_str(), e.http_status()), ("node a is ambiguous (2 matches found)", 400));
    let e = state.resolve::<Service>("web").unwrap_err();
    assert_eq!((e.message.as_str(), e.code), ("service web not found", Code::NotFound));
    assert_eq!(state.resolve::<Service>("s1").unwrap().id.as_str(), "s1y");
    assert_eq!(state.resolve::<Network>("front").unwrap().id.as_str(), "n1");
    assert!(state.resolve::<Network>("").is_err());
}

#[test]
fn a_task_resolves_by_its_full_name() {
    let mut t = task("tt", "s", None, "n");
    (t.service_name, t.slot) = ("web".into(), 2);
    let state = State::default().apply(1, &[Change::Put(t.into())]);
    assert!(state.resolve::<Task>("web.2.tt").is_ok());
    assert!(state.resolve::<Task>("web.1.tt").is_err());
}

fn change() -> impl Strategy<Value = Change> {
    let name = || proptest::sample::select(vec!["a", "b", "c"]);
    prop_oneof![
        (name(), name(), any::<bool>()).prop_map(|(id, n, gone)| {
            let mut s = service(id, n);
            s.pending_delete = gone;
            Change::Put(s.into())
        }),
        (name(), name(), proptest::option::of(name()), name()).prop_map(|(id, s, n, net)| {
            let mut t = task(id, s, n, net);
            t.status.state = TaskState::Running;
            Change::Put(t.into())
        }),
        name().prop_map(|id| Change::Delete(Kind::Service, id.into())),
        name().prop_map(|id| Change::Delete(Kind::Task, id.into())),
    ]
}

proptest! {
    #[test]
    fn bytes_bring_back_the_state_and_its_indexes(batches in proptest::collection::vec(proptest::collection::vec(change(), 0..5), 0..8)) {
        let mut state = State::default();
        for (i, batch) in batches.iter().enumerate() {
            state = state.apply(i as u64 + 1, batch);
        }
        let bytes = state.to_bytes().unwrap();
        let back = State::from_bytes(&bytes).unwrap();
        prop_assert_eq!(&back, &state);
        prop_assert_eq!(back.to_bytes().unwrap(), bytes);
        for key in ["a", "b", "c"] {
            prop_assert_eq!(ids(back.tasks_of_service(&key.into())), ids(state.tasks_of_service(&key.into())));
            prop_assert_eq!(ids(back.tasks_of_node(&key.into())), ids(state.tasks_of_node(&key.into())));
            prop_assert_eq!(ids(back.tasks_of_network(&key.into())), ids(state.tasks_of_network(&key.into())));
            let scan: Vec<_> = state.tasks().filter(|t| t.node == Some(key.into())).map(|t| t.id.to_string()).collect();
            prop_assert_eq!(ids(state.tasks_of_node(&key.into())), scan);
            let named = state.services().find(|s| s.spec.name == key && !s.pending_delete).is_some();
            prop_assert_eq!(state.service_named(key).is_some(), named);
        }
    }

    #[test]
    fn a_transactions_changes_lead_to_what_it_showed(first in proptest::collection::vec(change(), 0..6), then in proptest::collection::vec(change(), 0..6)) {
        let base = State::default().apply(1, &first);
        let mut tx = Tx::new(&base);
        for c in &then {
            match c {
                Change::Put(o) => tx.put(o.clone()),
                Change::Delete(kind, id) => tx.delete(*kind, id),
            }
        }
        let seen: Vec<_> = tx.tasks().map(|t| (t.id.clone(), t.service.clone(), t.node.clone())).collect();
        let changes = tx.into_changes();
        let next = base.apply(2, &changes);
        let got: Vec<_> = next.tasks().map(|t| (t.id.clone(), t.service.clone(), t.node.clone())).collect();
        prop_assert_eq!(got, seen);
        let untouched = next.tasks().filter(|t| t.meta.version == 1).all(|t| base.task(&t.id) == Some(t));
        prop_assert!(untouched);
    }
}
