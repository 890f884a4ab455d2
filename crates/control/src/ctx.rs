//! What a decision may depend on besides the objects.

use malha_model::{ApiResult, Timestamp};
use rand::RngCore;

/// Makes join tokens; key material does not come from the simulation's generator.
pub trait TokenSource {
    /// A fresh `SWMTKN-1-…` for the given root certificate.
    fn new_token(&self, root_cert_pem: &str) -> ApiResult<String>;
}

pub struct Ctx<'a> {
    pub now: Timestamp,
    /// Ids and names are drawn from it.
    pub rng: &'a mut dyn RngCore,
    pub tokens: &'a dyn TokenSource,
}
