//! The machine's wall clock: containers are real, and so is their time.

use malha_kit::{Clock, SystemClock};
use malha_model::Timestamp;

pub(crate) fn now() -> Timestamp {
    SystemClock.now()
}
