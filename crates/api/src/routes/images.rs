//! `/images` and `/distribution`. Names hold slashes, so these paths are taken apart here.

use std::{io, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    routing::{get, post},
};
use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, StatusCode};
use malha_model::{ApiError, ApiResult, Code, Timestamp};

use super::image_names::{before, glob, parse, with_tag};
use crate::{
    backend::{ByteStream, Image, ImageImport, ImagePull, ProgressStream},
    convert,
    http::{
        filters::Filters,
        query::{Query, bad},
        reply::{self, Reply, empty, ok},
        version::ApiVersion,
    },
    state::{Api, Shared},
};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/images/json", get(list))
        .route("/images/create", post(create))
        .route("/images/load", post(load))
        .route("/images/{*path}", get(read).post(write).delete(remove))
        .route("/distribution/{*path}", get(distribution))
}

async fn list(State(api): Shared, query: Query, version: ApiVersion) -> Reply {
    let filters = query.filters()?.only(&["reference", "dangling", "label", "before", "since", "until"])?;
    if filters.has("until") {
        return Err(ApiError::unsupported("the filter until of docker images").into());
    }
    // Of several the narrowest counts.
    let oldest = times(&api, &filters, "before").await?.into_iter().min();
    let newest = times(&api, &filters, "since").await?.into_iter().max();
    let dangling = filters.flag("dangling")?;
    let images = api.engine.images().await?;
    let shown = images.into_iter().filter(|i| dangling.is_none_or(|d| d == i.repo_tags.is_empty()));
    let shown = shown.filter(|i| between(i.created, newest, oldest));
    let shown = shown.filter(|i| filters.labels("label", &i.labels)).filter_map(|i| named(i, &filters));
    ok(&shown.map(|i| convert::image::summary(&i, version)).collect::<Vec<_>>())
}

/// When the images that a filter names were made.
async fn times(api: &Api, filters: &Filters, key: &str) -> ApiResult<Vec<Timestamp>> {
    let mut times = Vec::new();
    for reference in filters.values(key) {
        times.push(api.engine.image(reference).await?.created);
    }
    Ok(times)
}

/// The bounds themselves do not count.
fn between(time: Timestamp, since: Option<Timestamp>, before: Option<Timestamp>) -> bool {
    since.is_none_or(|t| time > t) && before.is_none_or(|t| time < t)
}

/// The image under those of its names that were asked for; none where it has none of them.
fn named(mut image: Image, filters: &Filters) -> Option<Image> {
    if !filters.has("reference") {
        return Some(image);
    }
    let asked = |full: &String| {
        let name = parse(full).name;
        filters.any("reference", |pattern| glob(pattern, full) || glob(pattern, &name))
    };
    image.repo_tags.retain(asked);
    image.repo_digests.retain(asked);
    (!image.repo_tags.is_empty() || !image.repo_digests.is_empty()).then_some(image)
}

/// Pull (`fromImage`) or import (`fromSrc`).
async fn create(State(api): Shared, query: Query, headers: HeaderMap, body: Body) -> Reply {
    let progress = match (query.text("fromImage"), query.text("fromSrc")) {
        (image, _) if !image.is_empty() => {
            let image = with_tag(&image, &query.text("tag"));
            let registry_auth = auth(&headers);
            api.engine.pull_image(ImagePull { image, platform: query.text("platform"), registry_auth }).await?
        }
        (_, source) if source == "-" => {
            let image = with_tag(&query.text("repo"), &query.text("tag"));
            let request = ImageImport {
                image,
                message: query.text("message"),
                changes: query.all("changes"),
                platform: query.text("platform"),
            };
            api.engine.import_image(request, bytes(body)).await?
        }
        (_, source) if source.is_empty() => return Err(bad("either fromImage or fromSrc has to be set").into()),
        _ => return Err(ApiError::unsupported("importing an image from a URL").into()),
    };
    begun(progress).await
}

/// The answer begins with the first line of progress: what fails before it has a status of its own.
async fn begun(mut progress: ProgressStream) -> Reply {
    let first = progress.next().await.transpose()?;
    let all = stream::iter(first.map(Ok)).chain(progress).boxed();
    reply::stream("application/json", convert::progress::lines(all))
}

async fn load(State(api): Shared, body: Body) -> Reply {
    let progress = api.engine.load_images(bytes(body)).await?;
    reply::stream("application/json", convert::progress::lines(progress))
}

async fn read(State(api): Shared, Path(path): Path<String>, version: ApiVersion) -> Reply {
    if let Some(name) = before(&path, "json") {
        let image = api.engine.image(name).await?;
        let host = api.engine.host_info().await?;
        return ok(&convert::image::inspect(&image, &host.storage_driver, version));
    }
    if let Some(name) = before(&path, "history") {
        let steps = api.engine.image_history(name).await?;
        return ok(&steps.iter().map(convert::image::history).collect::<Vec<_>>());
    }
    match path.as_str() {
        "search" => Err(ApiError::unsupported("docker search").into()),
        "get" => Err(ApiError::unsupported("docker save").into()),
        _ if before(&path, "get").is_some() => Err(ApiError::unsupported("docker save").into()),
        _ if before(&path, "attestations").is_some() => Err(ApiError::unsupported("image attestations").into()),
        _ => Err(not_found()),
    }
}

async fn write(State(api): Shared, Path(path): Path<String>, query: Query) -> Reply {
    if let Some(name) = before(&path, "tag") {
        let target = with_tag(&query.text("repo"), &query.text("tag"));
        if target.name.is_empty() {
            return Err(bad("invalid reference format").into());
        }
        api.engine.tag_image(name, target).await?;
        return empty(StatusCode::CREATED);
    }
    match path.as_str() {
        "prune" => Err(ApiError::unsupported("docker image prune").into()),
        _ if before(&path, "push").is_some() => Err(ApiError::unsupported("docker push").into()),
        _ => Err(not_found()),
    }
}

async fn remove(State(api): Shared, Path(name): Path<String>, query: Query) -> Reply {
    let removed = api.engine.remove_image(&name, query.flag("force")).await?;
    ok(&removed.iter().map(convert::image::removed).collect::<Vec<_>>())
}

async fn distribution(State(api): Shared, Path(path): Path<String>, headers: HeaderMap) -> Reply {
    let name = before(&path, "json").ok_or_else(not_found_error)?;
    ok(&convert::image::distribution(&api.engine.distribution(name, auth(&headers)).await?))
}

fn auth(headers: &HeaderMap) -> Option<String> {
    headers.get("x-registry-auth").and_then(|v| v.to_str().ok()).filter(|v| !v.is_empty()).map(str::to_owned)
}

/// An archive is read as it comes; its size is the disk's business.
fn bytes(body: Body) -> ByteStream {
    body.into_data_stream().map_err(io::Error::other).boxed()
}

fn not_found_error() -> ApiError {
    ApiError::plain(Code::NotFound, "page not found")
}

fn not_found() -> crate::http::reply::Failure {
    not_found_error().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_images_are_strict() {
        let shown = |since: Option<i64>, before: Option<i64>| {
            let inside = |t: &i64| between(Timestamp(*t), since.map(Timestamp), before.map(Timestamp));
            (1..=3).filter(inside).collect::<Vec<_>>()
        };
        assert_eq!((shown(None, None), shown(Some(1), Some(3))), (vec![1, 2, 3], vec![2]));
        assert_eq!((shown(Some(2), None), shown(None, Some(2))), (vec![3], vec![1]));
    }

    #[test]
    fn only_the_names_that_were_asked_for_are_shown() {
        let image = Image {
            repo_tags: vec!["alpine:latest".into(), "foo/bar:1".into(), "foo/bar:2".into()],
            repo_digests: vec!["alpine@sha256:00".into()],
            ..Image::default()
        };
        let tags = |reference: &str| {
            let filters = Filters::parse(&format!(r#"{{"reference":["{reference}"]}}"#)).unwrap();
            named(image.clone(), &filters).map(|i| i.repo_tags.join(" "))
        };
        assert_eq!(tags("foo/bar").unwrap(), "foo/bar:1 foo/bar:2");
        assert_eq!(tags("foo/*:2").unwrap(), "foo/bar:2");
        assert_eq!(tags("alp*").unwrap(), "alpine:latest");
        assert_eq!(tags("foo"), None);
    }
}
