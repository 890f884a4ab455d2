//! The views of all networks, made anew only for networks that a change touched.
//!
//! A view is computed once per state, however many sessions show it, and the step to it as well: a session that shows the
//! view before sends the shared delta. Sequence numbers start at the term, so those of two terms never meet.

use malha_kit::watch;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use malha_control::network_view;
use malha_model::{Kind, NetworkDelta, NetworkId, NetworkView, NodeId};
use malha_store::State;

/// What sessions send from.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    pub state: Arc<State>,
    pub views: BTreeMap<NetworkId, Shown>,
}

#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub view: Arc<NetworkView>,
    /// The step from the view before.
    pub step: Option<Arc<NetworkDelta>>,
}

impl Board {
    pub(crate) fn first(state: Arc<State>, term: u64) -> Self {
        let mut board = Self { state: Arc::default(), views: BTreeMap::new() };
        board.move_to(state, term);
        board
    }

    /// Follows the state; true where any view changed.
    pub(crate) fn move_to(&mut self, state: Arc<State>, term: u64) {
        for id in touched(&self.state, &state) {
            let Some(mut view) = network_view(&state, &id) else {
                self.views.remove(&id);
                continue;
            };
            match self.views.get_mut(&id) {
                Some(shown) => {
                    view.seq = shown.view.seq + 1;
                    if let Some(step) = shown.view.delta_to(&view) {
                        *shown = Shown { view: Arc::new(view), step: Some(Arc::new(step)) };
                    }
                }
                None => {
                    view.seq = (term << 32) + 1;
                    self.views.insert(id, Shown { view: Arc::new(view), step: None });
                }
            }
        }
        self.state = state;
    }
}

/// Keeps `board` at the newest state.
pub(crate) async fn run(mut state: watch::Receiver<Arc<State>>, board: watch::Sender<Arc<Board>>, term: u64) {
    while state.changed().await.is_ok() {
        let newest = state.borrow_and_update().clone();
        board.send_modify(|board| Arc::make_mut(board).move_to(newest, term));
    }
}

/// Networks whose view may differ between the two states.
fn touched(old: &State, new: &State) -> BTreeSet<NetworkId> {
    let Some(objects) = new.touched_since(old) else {
        // a snapshot, or one that was far behind
        return [old, new].into_iter().flat_map(State::networks).map(|n| n.id.clone()).collect();
    };
    let mut touched = BTreeSet::new();
    let mut services: BTreeSet<&str> = BTreeSet::new();
    for (kind, id) in objects {
        match kind {
            Kind::Network => drop(touched.insert(id.into())),
            Kind::Task => {
                let task = |state: &State| state.task(&id.into()).map(|t| t.network_ids()).unwrap_or_default();
                touched.extend(task(old).into_iter().chain(task(new)));
            }
            Kind::Service => drop(services.insert(id)),
            Kind::Node if shows_differently(old, new, &id.into()) => {
                for state in [old, new] {
                    touched.extend(state.tasks_of_node(&id.into()).flat_map(|t| t.network_ids()));
                    touched.extend(state.ingress().map(|n| n.id.clone()));
                }
            }
            Kind::Node | Kind::Cluster => {}
        }
    }
    if !services.is_empty() {
        for state in [old, new] {
            let on = |n: &NetworkId| state.services_of_network(n).any(|s| services.contains(s.id.as_str()));
            touched.extend(state.networks().map(|n| n.id.clone()).filter(on));
        }
    }
    touched
}

/// Whether views show the node otherwise than before; most writes to nodes do not matter to them.
fn shows_differently(old: &State, new: &State, node: &NodeId) -> bool {
    let shown = |state: &State| {
        let node = state.node(node)?;
        Some((node.status.state, node.data_path_addr, node.description.hostname.clone()))
    };
    shown(old) != shown(new)
}

#[cfg(test)]
mod tests {
    use malha_model::{Network, NetworkAttachment, Node, NodeState, Object, Service, Task, TaskState};
    use malha_store::Change;

    use super::*;

    fn put(state: &State, objects: impl IntoIterator<Item = Object>) -> Arc<State> {
        let changes: Vec<Change> = objects.into_iter().map(Change::Put).collect();
        Arc::new(state.apply(state.index() + 1, &changes))
    }

    fn network(id: &str) -> Network {
        Network { id: id.into(), vnis: vec![5000], ..Network::default() }
    }

    fn task(id: &str, network: &str, state: TaskState) -> Task {
        let mut task =
            Task { id: id.into(), node: Some("a".into()), desired_state: TaskState::Running, ..Task::default() };
        task.status.state = state;
        task.networks = vec![NetworkAttachment { network: network.into(), ..NetworkAttachment::default() }];
        task
    }

    fn node(state: NodeState) -> Node {
        let mut node = Node { id: "a".into(), data_path_addr: Some([10, 9, 0, 1].into()), ..Node::default() };
        node.status.state = state;
        node
    }

    #[test]
    fn only_what_a_change_touches_is_shown_anew() {
        let objects = [network("x").into(), network("y").into(), node(NodeState::Ready).into()];
        let state = put(&State::default(), objects);
        let mut board = Board::first(state.clone(), 3);
        assert_eq!(board.views.len(), 2);
        let before = board.clone();

        let state = put(&state, [task("t", "x", TaskState::Running).into()]);
        board.move_to(state.clone(), 3);
        assert!(Arc::ptr_eq(&board.views["y"].view, &before.views["y"].view));
        let mut view = (*before.views["x"].view).clone();
        assert!(view.apply(board.views["x"].step.as_ref().unwrap()));
        assert_eq!(view, *board.views["x"].view);
        assert!(view.endpoints["t"].serving);

        let state = put(&state, [node(NodeState::Down).into()]);
        board.move_to(state, 3);
        assert!(board.views["x"].view.endpoints.is_empty(), "the endpoints of a node that is down are gone");
    }

    #[test]
    fn a_service_shows_on_its_networks_and_leaves_them() {
        let service = |networks: &[&str]| {
            let mut service = Service { id: "s".into(), ..Service::default() };
            let target = |n: &&str| malha_model::NetworkAttachmentConfig { target: (*n).into(), ..Default::default() };
            service.spec.task_template.networks = networks.iter().map(target).collect();
            service
        };
        let state = put(&State::default(), [network("x").into(), network("y").into(), service(&["x"]).into()]);
        let mut board = Board::first(state.clone(), 1);
        let shown = |board: &Board, on: &str| board.views[on].view.services.contains_key("s");
        assert!(shown(&board, "x") && !shown(&board, "y"));
        board.move_to(put(&state, [service(&["y"]).into()]), 1);
        assert!(!shown(&board, "x") && shown(&board, "y"));
    }

    #[test]
    fn a_board_that_is_far_behind_looks_at_everything() {
        let mut state =
            put(&State::default(), [network("x").into(), network("y").into(), node(NodeState::Ready).into()]);
        let mut board = Board::first(state.clone(), 1);
        let before = board.clone();
        state = put(&state, [task("t", "x", TaskState::Running).into()]);
        for n in 0..50 {
            state = put(&state, [Service { id: format!("s{n}").as_str().into(), ..Service::default() }.into()]);
        }
        board.move_to(state, 1);
        assert!(board.views["x"].view.endpoints.contains_key("t"));
        assert!(Arc::ptr_eq(&board.views["y"].view, &before.views["y"].view), "what is the same is not sent again");
    }

    #[test]
    fn boards_that_took_any_path_show_the_same() {
        let one = put(&State::default(), [network("x").into(), node(NodeState::Ready).into()]);
        let two = put(&one, [task("t", "x", TaskState::Running).into(), task("u", "x", TaskState::Assigned).into()]);
        let three = put(&two, [task("t", "x", TaskState::Failed).into()]);
        let mut walked = Board::first(one, 1);
        walked.move_to(two, 1);
        walked.move_to(three.clone(), 1);
        let fresh = Board::first(three, 1);
        assert_eq!(walked.views["x"].view.endpoints, fresh.views["x"].view.endpoints);
        assert_eq!(walked.views["x"].view.peers, fresh.views["x"].view.peers);
    }
}
