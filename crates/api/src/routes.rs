//! Every path of the API: what is served, what is known and refused with 501, and 404 for the rest.

mod container_create;
mod container_streams;
mod containers;
mod events;
mod exec;
mod image_names;
mod images;
mod network_create;
mod network_lookup;
mod networks;
mod nodes;
mod services;
mod swarm;
mod system;
mod tasks;
mod unbuilt;
mod volumes;

use std::sync::Arc;

use axum::{Router, response::IntoResponse};
use malha_model::{ApiError, Code};

use crate::{http::reply::Failure, state::Api};

pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new()
        .merge(system::routes())
        .merge(events::routes())
        .merge(swarm::routes())
        .merge(nodes::routes())
        .merge(services::routes())
        .merge(tasks::routes())
        .merge(networks::routes())
        .merge(containers::routes())
        .merge(exec::routes())
        .merge(images::routes())
        .merge(volumes::routes())
        .merge(unbuilt::routes())
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .with_state(api)
}

async fn not_found() -> impl IntoResponse {
    Failure(ApiError::plain(Code::NotFound, "page not found"))
}
