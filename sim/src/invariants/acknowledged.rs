//! No acknowledged write is lost: what a user was told is done stays done until a user asks for something else.

use malha_store::State;

use super::{Verdict, violated};
use crate::{ledger::Ledger, watch::Watch};

pub fn check(ledger: &Ledger, state: &State) -> Verdict {
    match ledger.broken_by(state) {
        Some(what) => Err(violated("acknowledged", format_args!("at index {}, {what}", state.index()))),
        None => Ok(()),
    }
}

/// Once everybody is back, whatever index they are at.
pub(crate) fn at_rest(watch: &Watch, state: &State) -> Verdict {
    let broken = watch.ledger(|ledger| ledger.broken_at_rest(state));
    broken.map_or(Ok(()), |what| Err(violated("acknowledged", format_args!("after the mending, {what}"))))
}
