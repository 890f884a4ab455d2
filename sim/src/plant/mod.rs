//! Bugs on purpose, to show that the invariants bite. None is in the product: each wraps something around it.

mod early_ack;
mod lost_delta;
mod stale_plan;

use std::str::FromStr;

pub(crate) use self::{early_ack::EarlyAck, lost_delta::LostDelta, stale_plan::create_service};

/// Which bug a run has. `docs/simulation.md` says what each stands for and who catches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// A disk that says a write is durable before it is.
    EarlyAck,
    /// An agent that misses a change of a network and does not notice.
    LostDelta,
    /// A request that is planned on a state which others have changed since.
    StalePlan,
}

impl FromStr for Plant {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "early-ack" => Ok(Self::EarlyAck),
            "lost-delta" => Ok(Self::LostDelta),
            "stale-plan" => Ok(Self::StalePlan),
            _ => Err("early-ack, lost-delta or stale-plan".to_owned()),
        }
    }
}

impl std::fmt::Display for Plant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::EarlyAck => "early-ack",
            Self::LostDelta => "lost-delta",
            Self::StalePlan => "stale-plan",
        })
    }
}
