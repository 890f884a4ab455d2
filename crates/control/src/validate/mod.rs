//! Checks of what users send that need nothing but the request itself.

mod image;
mod network;
mod service;

use malha_model::{ApiError, ApiResult};

pub(crate) use self::{network::network, service::service};

/// Services and networks are named like DNS labels, underscores allowed.
fn name(name: &str) -> ApiResult<()> {
    if name.is_empty() {
        return Err(ApiError::invalid("meta: name must be provided"));
    }
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inside = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if !inside || !edge(name.chars().next()) || !edge(name.chars().last()) {
        return Err(ApiError::invalid("name must be valid as a DNS name component"));
    }
    if name.len() > 63 {
        return Err(ApiError::invalid("name must be 63 characters or fewer"));
    }
    Ok(())
}
