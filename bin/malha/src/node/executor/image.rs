//! The image of a task, here before its container.

use malha_agent::TaskError;
use malha_runtime::{PullOptions, RegistryAuth, Runtime};
use tracing::info;

/// Uses the image that is here, else pulls it.
///
/// Docker asks the registry for every tag, even where the image is present, and falls back to the local one. The CLI pins
/// a service's image to a digest whenever a registry knows it, so a plain tag that is here *is* what the user means; a
/// registry that does not answer then costs nothing (docs/decisions/0005).
pub(super) async fn ensure(runtime: &Runtime, image: &str, auth: Option<&str>) -> Result<(), TaskError> {
    match runtime.image_inspect(image).await {
        Ok(_) => return Ok(()),
        Err(e) if e.is_not_found() => {}
        Err(e) => return Err(TaskError(e.to_string())),
    }
    let auth = RegistryAuth::from_header(auth.unwrap_or_default()).map_err(|e| TaskError(e.to_string()))?;
    info!(image, "pulling");
    match runtime.image_pull(image, PullOptions { auth, platform: None }, None).await {
        Ok(_) => Ok(()),
        Err(e) => {
            info!(image, error = %e, "pull failed");
            Err(TaskError(format!("No such image: {image}")))
        }
    }
}
