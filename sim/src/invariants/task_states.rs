//! Task states only advance, what is asked of a task too; a task never moves to another node, and an ended one stays as
//! it ended.

use malha_model::Task;
use malha_store::State;

use super::{Verdict, violated};

pub fn check(before: &State, after: &State) -> Verdict {
    for old in before.tasks() {
        if let Some(new) = after.task(&old.id)
            && !std::sync::Arc::ptr_eq(old, new)
            && let Some(what) = went_back(old, new)
        {
            let index = after.index();
            return Err(violated("task_states", format_args!("at index {index}, {}: {what}", old.id)));
        }
    }
    Ok(())
}

fn went_back(old: &Task, new: &Task) -> Option<String> {
    let (was, is) = (old.status.state, new.status.state);
    if is < was {
        return Some(format!("{was} became {is}"));
    }
    if new.desired_state < old.desired_state {
        return Some(format!("was to be {} and now {}", old.desired_state, new.desired_state));
    }
    if old.node.is_some() && old.node != new.node {
        return Some(format!("moved from {:?} to {:?}", old.node, new.node));
    }
    (was.is_terminal() && old.status != new.status).then(|| format!("changed after it was {was}"))
}
