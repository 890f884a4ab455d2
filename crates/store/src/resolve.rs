//! From what a user typed to an object: id, then name, then unique id prefix, as Docker does everywhere.

use std::{fmt::Display, sync::Arc};

use malha_model::{ApiError, ApiResult, Code, Network, Node, Service, Task, TaskId};

use crate::State;

/// Kinds that users refer to.
pub trait Resolvable: Sized {
    /// The word in error texts.
    const NOUN: &'static str;
    fn by_id<'a>(state: &'a State, id: &str) -> Option<&'a Arc<Self>>;
    fn by_name(state: &State, name: &str) -> Vec<Arc<Self>>;
    fn by_prefix(state: &State, prefix: &str) -> Vec<Arc<Self>>;
}

impl State {
    /// Finds the one object that `reference` names. Objects that await their deletion are not found.
    pub fn resolve<T: Resolvable>(&self, reference: &str) -> ApiResult<Arc<T>> {
        if reference.is_empty() {
            return Err(not_found(T::NOUN, reference));
        }
        if let Some(found) = T::by_id(self, reference) {
            return Ok(found.clone());
        }
        let mut matches = T::by_name(self, reference);
        if matches.is_empty() {
            matches = T::by_prefix(self, reference);
        }
        match matches.len() {
            0 => Err(not_found(T::NOUN, reference)),
            1 => Ok(matches.remove(0)),
            n => Err(ambiguous(T::NOUN, reference, n)),
        }
    }
}

pub fn not_found(noun: &str, reference: impl Display) -> ApiError {
    ApiError::plain(Code::NotFound, format!("{noun} {reference} not found"))
}

pub fn ambiguous(noun: &str, reference: &str, matches: usize) -> ApiError {
    ApiError::plain(Code::InvalidArgument, format!("{noun} {reference} is ambiguous ({matches} matches found)"))
}

/// Values of an ordered map whose keys start with `prefix`.
macro_rules! prefixed {
    ($map:expr, $prefix:expr) => {
        $map.range::<str, _>((std::ops::Bound::Included($prefix), std::ops::Bound::Unbounded))
            .take_while(|(id, _)| id.as_str().starts_with($prefix))
            .map(|(_, object)| object)
    };
}

impl Resolvable for Node {
    const NOUN: &'static str = "node";
    fn by_id<'a>(state: &'a State, id: &str) -> Option<&'a Arc<Self>> {
        state.nodes.get(id)
    }
    fn by_name(state: &State, name: &str) -> Vec<Arc<Self>> {
        state.nodes_named(name).cloned().collect()
    }
    fn by_prefix(state: &State, prefix: &str) -> Vec<Arc<Self>> {
        prefixed!(state.nodes, prefix).cloned().collect()
    }
}

impl Resolvable for Network {
    const NOUN: &'static str = "network";
    fn by_id<'a>(state: &'a State, id: &str) -> Option<&'a Arc<Self>> {
        state.networks.get(id).filter(|n| !n.pending_delete)
    }
    fn by_name(state: &State, name: &str) -> Vec<Arc<Self>> {
        state.network_named(name).cloned().into_iter().collect()
    }
    fn by_prefix(state: &State, prefix: &str) -> Vec<Arc<Self>> {
        prefixed!(state.networks, prefix).filter(|n| !n.pending_delete).cloned().collect()
    }
}

impl Resolvable for Service {
    const NOUN: &'static str = "service";
    fn by_id<'a>(state: &'a State, id: &str) -> Option<&'a Arc<Self>> {
        state.services.get(id).filter(|s| !s.pending_delete)
    }
    fn by_name(state: &State, name: &str) -> Vec<Arc<Self>> {
        state.service_named(name).cloned().into_iter().collect()
    }
    fn by_prefix(state: &State, prefix: &str) -> Vec<Arc<Self>> {
        prefixed!(state.services, prefix).filter(|s| !s.pending_delete).cloned().collect()
    }
}

impl Resolvable for Task {
    const NOUN: &'static str = "task";
    fn by_id<'a>(state: &'a State, id: &str) -> Option<&'a Arc<Self>> {
        state.tasks.get(id)
    }
    /// A task's name ends with its id, so no index is needed.
    fn by_name(state: &State, name: &str) -> Vec<Arc<Self>> {
        let id = name.rsplit('.').next().map(TaskId::from);
        let found = id.and_then(|id| state.tasks.get(&id)).filter(|t| t.service.is_some() && t.name() == name);
        found.cloned().into_iter().collect()
    }
    fn by_prefix(state: &State, prefix: &str) -> Vec<Arc<Self>> {
        prefixed!(state.tasks, prefix).cloned().collect()
    }
}
