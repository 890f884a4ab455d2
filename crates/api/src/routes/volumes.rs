//! `/volumes`.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    routing::{get, post},
};
use malha_model::ApiError;
use serde_json::json;

use crate::{
    backend::CreateVolume,
    convert,
    http::{
        body::MaybeJson,
        query::Query,
        reply::{Reply, created, no_content, ok},
    },
    state::{Api, Shared},
};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/volumes", get(list))
        .route("/volumes/create", post(create))
        .route("/volumes/{name}", get(inspect).delete(remove))
}

async fn list(State(api): Shared, query: Query) -> Reply {
    let filters = query.filters()?.only(&["dangling", "driver", "label", "name"])?;
    let dangling = filters.flag("dangling")?;
    let volumes = api.engine.volumes().await?;
    let shown = volumes.iter().filter(|v| {
        dangling.is_none_or(|d| d == v.used_by.is_empty())
            && filters.exact("driver", &v.driver)
            && filters.labels("label", &v.labels)
            && filters.pattern("name", &v.name)
    });
    ok(&json!({ "Volumes": shown.map(convert::volume::volume).collect::<Vec<_>>(), "Warnings": null }))
}

async fn inspect(State(api): Shared, Path(name): Path<String>) -> Reply {
    ok(&convert::volume::volume(&api.engine.volume(&name).await?))
}

async fn create(State(api): Shared, MaybeJson(request): MaybeJson<CreateVolume>) -> Reply {
    if !matches!(request.driver.as_str(), "" | "local") {
        return Err(ApiError::unsupported(format!("the volume driver \"{}\"", request.driver)).into());
    }
    created(&convert::volume::volume(&api.engine.create_volume(request).await?))
}

async fn remove(State(api): Shared, Path(name): Path<String>, query: Query) -> Reply {
    api.engine.remove_volume(&name, query.flag("force")).await?;
    no_content()
}
