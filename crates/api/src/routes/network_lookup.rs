//! Which network a reference means, among those of the swarm and those of this machine.

use std::collections::BTreeMap;

use malha_model::{ApiError, ApiResult, Code};

use crate::{convert::network::Known, http::query::bad, state::Api};

/// Every network that this node shows, by id. Managers know all of the swarm's; a worker those in use on it.
pub(super) async fn all(api: &Api) -> ApiResult<Vec<Known>> {
    let mut known = with_hidden(api).await?;
    known.retain(|k| !is_hidden(k));
    Ok(known)
}

/// The network that an inspect means. The swarm's `host` and `bridge`, which lists hide, are found by id, and by name
/// where swarm scope is asked for, as the CLI does for `service create --network host`.
pub(super) async fn inspected(api: &Api, reference: &str, scope: &str) -> ApiResult<Known> {
    let mut known = with_hidden(api).await?;
    known.retain(|k| scope == "swarm" || !is_hidden(k) || k.id().starts_with(reference));
    find(known, reference, scope)
}

fn is_hidden(k: &Known) -> bool {
    k.swarm.as_ref().is_some_and(|n| n.predefined)
}

async fn with_hidden(api: &Api) -> ApiResult<Vec<Known>> {
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    let mut complete = false;
    if api.is_manager().await {
        match api.swarm_networks().await {
            Ok(networks) => {
                for n in networks {
                    let known = known.entry(n.id.to_string()).or_default();
                    known.swarm = Some(n);
                }
                complete = true;
            }
            // Without a leader the machine's own networks are still worth showing.
            Err(e) => tracing::warn!(error = %e, "the swarm's networks are not known at the moment"),
        }
    }
    for l in api.engine.networks().await? {
        let known = known.entry(l.id.clone()).or_default();
        known.local = Some(l);
    }
    // Removed from the swarm, its last containers about to go: its name is free for another.
    known.retain(|_, k| !complete || k.swarm.is_some() || k.scope() != "swarm");
    Ok(known.into_values().collect())
}

/// Docker's order: full id, full name, id prefix; each has to be unique. `scope` narrows to `swarm` or `local`.
pub(super) fn find(known: Vec<Known>, reference: &str, scope: &str) -> ApiResult<Known> {
    let mut inside: Vec<Known> = known.into_iter().filter(|k| scope.is_empty() || k.scope() == scope).collect();
    if let Some(at) = inside.iter().position(|k| k.id() == reference) {
        return Ok(inside.swap_remove(at));
    }
    let by_name = positions(&inside, |k| k.name() == reference);
    let by_prefix = positions(&inside, |k| !reference.is_empty() && k.id().starts_with(reference));
    for (found, what) in [(by_name, "name"), (by_prefix, "ID prefix")] {
        match found[..] {
            [] => {}
            [one] => return Ok(inside.swap_remove(one)),
            _ => {
                return Err(bad(format!(
                    "network {reference} is ambiguous ({} matches found based on {what})",
                    found.len()
                )));
            }
        }
    }
    Err(ApiError::plain(Code::NotFound, format!("network {reference} not found")))
}

fn positions(all: &[Known], test: impl Fn(&Known) -> bool) -> Vec<usize> {
    all.iter().enumerate().filter(|(_, k)| test(k)).map(|(i, _)| i).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::LocalNetwork;

    fn local(id: &str, name: &str, scope: &str) -> Known {
        let l = LocalNetwork { id: id.into(), name: name.into(), scope: scope.into(), ..LocalNetwork::default() };
        Known { swarm: None, local: Some(l) }
    }

    #[test]
    fn ids_win_over_names_and_names_over_prefixes() {
        let all = || vec![local("aa1", "web", "swarm"), local("aa2", "aa1", "local"), local("bb3", "aa", "local")];
        assert_eq!(find(all(), "aa1", "").unwrap().name(), "web");
        assert_eq!(find(all(), "aa", "").unwrap().id(), "bb3");
        assert_eq!(find(all(), "aa1", "local").unwrap().id(), "aa2");
        assert_eq!(
            find(all(), "a", "").unwrap_err().message,
            "network a is ambiguous (2 matches found based on ID prefix)"
        );
        assert_eq!(find(all(), "zz", "").unwrap_err().http_status(), 404);
    }
}
