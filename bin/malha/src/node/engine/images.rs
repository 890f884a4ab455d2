//! Images of this machine, for the API.

use futures::{StreamExt, TryStreamExt};
use malha_api::backend::{
    ByteStream, ContainerConfig, Distribution, Image, ImageHistory, ImageImport, ImagePull, ImageReference, Progress,
    ProgressStream, RemovedImage,
};
use malha_model::{ApiError, ApiResult, Platform};
use malha_runtime::{
    HistoryEntry, ImageDelete, ImageInfo, ImportOptions, PullOptions, RegistryAuth, Runtime, RuntimeError,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;

/// Lines of progress in flight between the work and the client.
const PROGRESS_CAPACITY: usize = 64;

pub(super) fn to_api(info: &ImageInfo) -> Image {
    let c = &info.config;
    let objects = |names: &[String]| names.iter().map(|n| (n.clone(), serde_json::json!({}))).collect();
    Image {
        id: info.id.clone(),
        repo_tags: info.repo_tags.clone(),
        repo_digests: info.repo_digests.clone(),
        created: info.created,
        size: info.size,
        author: info.author.clone(),
        comment: String::new(),
        architecture: info.architecture.clone(),
        variant: String::new(),
        os: info.os.clone(),
        labels: c.labels.clone(),
        config: ContainerConfig {
            user: c.user.clone(),
            exposed_ports: objects(&c.exposed_ports),
            env: c.env.clone(),
            cmd: (!c.cmd.is_empty()).then(|| c.cmd.clone()),
            entrypoint: (!c.entrypoint.is_empty()).then(|| c.entrypoint.clone()),
            volumes: (!c.volumes.is_empty()).then(|| objects(&c.volumes)),
            working_dir: c.working_dir.clone(),
            labels: c.labels.clone(),
            stop_signal: c.stop_signal.clone(),
            healthcheck: c.healthcheck.clone(),
            ..ContainerConfig::default()
        },
        layers: info.layers.clone(),
    }
}

pub(super) fn history(info: &ImageInfo) -> Vec<ImageHistory> {
    // Both lowest first; a step without a layer has changed no file.
    let mut sizes = info.layer_sizes.iter().copied();
    let step = |h: &HistoryEntry| ImageHistory {
        id: "<missing>".into(),
        created: h.created,
        created_by: h.created_by.clone(),
        tags: Vec::new(),
        size: if h.empty_layer { 0 } else { sizes.next().unwrap_or_default() },
        comment: h.comment.clone(),
    };
    let mut steps: Vec<ImageHistory> = info.history.iter().map(step).collect();
    steps.reverse();
    if let Some(top) = steps.first_mut() {
        top.id.clone_from(&info.id);
        top.tags.clone_from(&info.repo_tags);
    }
    steps
}

fn auth_of(header: Option<&str>) -> ApiResult<Option<RegistryAuth>> {
    Ok(RegistryAuth::from_header(header.unwrap_or_default())?)
}

pub(super) fn full_name(reference: &ImageReference) -> String {
    match reference.tag.as_str() {
        "" => reference.name.clone(),
        digest if digest.contains(':') => format!("{}@{digest}", reference.name),
        tag => format!("{}:{tag}", reference.name),
    }
}

pub(super) fn pull(runtime: &Runtime, request: ImagePull) -> ApiResult<ProgressStream> {
    let auth = auth_of(request.registry_auth.as_deref())?;
    let platform = Some(request.platform).filter(|p| !p.is_empty());
    let name = full_name(&request.image);
    let runtime = runtime.clone();
    Ok(with_progress(move |sink| async move {
        // The runtime itself reports `Digest:` and `Status:`.
        runtime.image_pull(&name, PullOptions { auth, platform }, Some(sink)).await.map(|_| Vec::new())
    }))
}

pub(super) fn load(runtime: &Runtime, archive: ByteStream) -> ProgressStream {
    let runtime = runtime.clone();
    with_progress(move |sink| async move {
        let reader = StreamReader::new(archive);
        let loaded = runtime.image_load(reader, Some(sink)).await?;
        Ok(loaded.iter().map(|l| Progress::Line(format!("{l}\n"))).collect())
    })
}

pub(super) fn import(runtime: &Runtime, request: ImageImport, archive: ByteStream) -> ProgressStream {
    let runtime = runtime.clone();
    with_progress(move |_sink| async move {
        let reference = Some(full_name(&request.image)).filter(|r| !r.is_empty());
        let options = ImportOptions { reference, changes: request.changes, message: request.message };
        let id = runtime.image_import(StreamReader::new(archive), options).await?;
        Ok(vec![Progress::Status { id: String::new(), status: id, current: None, total: None }])
    })
}

/// Runs `work` as a task of its own, so that a client that goes away does not leave half an image.
fn with_progress<F, Fut>(work: F) -> ProgressStream
where
    F: FnOnce(mpsc::Sender<malha_runtime::Progress>) -> Fut,
    Fut: Future<Output = Result<Vec<Progress>, RuntimeError>> + Send + 'static,
{
    let (sink, progress) = mpsc::channel(PROGRESS_CAPACITY);
    let work = tokio::spawn(work(sink));
    let lines = ReceiverStream::new(progress).map(|p| {
        Ok(Progress::Status { id: p.id.unwrap_or_default(), status: p.status, current: p.current, total: p.total })
    });
    let end = futures::stream::once(async move {
        match work.await {
            Ok(Ok(last)) => Ok(last),
            Ok(Err(e)) => Err(ApiError::from(e)),
            Err(e) => Err(ApiError::internal(format!("the work ended early: {e}"))),
        }
    });
    let end = end.map_ok(|last| futures::stream::iter(last.into_iter().map(Ok))).try_flatten();
    lines.chain(end).boxed()
}

pub(super) async fn remove(runtime: &Runtime, reference: &str, force: bool) -> ApiResult<Vec<RemovedImage>> {
    let removed = runtime.image_remove(reference, force).await?;
    Ok(removed
        .into_iter()
        .map(|r| match r {
            ImageDelete::Untagged(name) => RemovedImage::Untagged(name),
            ImageDelete::Deleted(id) => RemovedImage::Deleted(id),
        })
        .collect())
}

pub(super) async fn distribution(runtime: &Runtime, reference: &str, auth: Option<&str>) -> ApiResult<Distribution> {
    let info = runtime.distribution_inspect(reference, auth_of(auth)?).await?;
    Ok(Distribution {
        media_type: info.media_type,
        digest: info.digest,
        size: info.size,
        platforms: info.platforms.into_iter().map(|p| Platform { architecture: p.architecture, os: p.os }).collect(),
    })
}

pub(super) async fn list(runtime: &Runtime) -> ApiResult<Vec<Image>> {
    Ok(runtime.image_list().await?.iter().map(to_api).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn each_step_has_the_size_of_its_own_layer() {
        let step = |empty_layer| HistoryEntry { empty_layer, ..HistoryEntry::default() };
        let info = ImageInfo {
            id: "sha256:1".into(),
            repo_tags: vec!["x:1".into()],
            size: 12,
            layer_sizes: vec![10, 2],
            history: Arc::new(vec![step(false), step(true), step(false), step(true)]),
            ..ImageInfo::default()
        };
        let steps = history(&info);
        assert_eq!(steps.iter().map(|s| s.size).collect::<Vec<_>>(), [0, 2, 0, 10]);
        assert_eq!((steps[0].id.as_str(), steps[0].tags.len(), steps[3].id.as_str()), ("sha256:1", 1, "<missing>"));
    }
}
