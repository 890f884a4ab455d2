//! A request handler that reads the state, takes its time, and writes what it had decided: addresses that were free when
//! it looked are given once more.

use std::convert::Infallible;

use malha_control::{Ctx, TokenSource, handle, reconcile};
use malha_kit::Rng;
use malha_manager::Manager;
use malha_model::{ApiError, ApiResult, ControlRequest, ControlResponse, Kind, ServiceSpec, Timestamp};
use malha_store::{Change, State, Tx};

struct NoTokens;

impl TokenSource for NoTokens {
    fn new_token(&self, _: &str) -> ApiResult<String> {
        Err(ApiError::internal("no tokens in here"))
    }
}

/// As the leader would, yet on the state of a while ago.
pub(crate) async fn create_service(
    manager: &Manager,
    spec: ServiceSpec,
    stale: &State,
    now: Timestamp,
    rng: &mut Rng,
) -> ApiResult<ControlResponse> {
    let (answer, decided) = decide(spec, stale, now, rng)?;
    let write = manager.consensus().update(move |tx: &mut Tx| {
        for change in decided {
            match change {
                Change::Put(object) if is_new(tx, object.kind(), object.id()) => tx.put(object),
                _ => {}
            }
        }
        Ok::<_, Infallible>(())
    });
    write.await.map_err(ApiError::internal)?;
    Ok(answer)
}

fn decide(
    spec: ServiceSpec,
    stale: &State,
    now: Timestamp,
    rng: &mut Rng,
) -> ApiResult<(ControlResponse, Vec<Change>)> {
    let mut tx = Tx::at(stale, now);
    let mut ctx = Ctx { now, rng, tokens: &NoTokens };
    let answer = handle(&mut tx, &mut ctx, ControlRequest::ServiceCreate { spec, registry_auth: None })?;
    reconcile(&mut tx, &mut ctx, None);
    Ok((answer, tx.into_changes()))
}

fn is_new(state: &State, kind: Kind, id: &str) -> bool {
    match kind {
        Kind::Service => state.service(&id.into()).is_none(),
        Kind::Task => state.task(&id.into()).is_none(),
        _ => false,
    }
}
