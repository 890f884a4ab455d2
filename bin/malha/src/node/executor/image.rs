//! The image of a task, here before its container.
//!
//! Images come one beside a few others, and each of them once however many tasks wait for it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use malha_agent::TaskError;
use malha_runtime::{PullOptions, RegistryAuth, Runtime};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tracing::info;

/// Docker's.
const PULLS: usize = 3;

/// Pulls under way.
pub(crate) struct Pulls {
    room: Semaphore,
    /// By image and credentials.
    under_way: Mutex<BTreeMap<(String, String), Weak<Pull>>>,
}

/// Held by whoever pulls; those who wait learn why it failed.
#[derive(Default)]
struct Pull(tokio::sync::Mutex<Option<TaskError>>);

impl Default for Pulls {
    fn default() -> Self {
        Self { room: Semaphore::new(PULLS), under_way: Mutex::default() }
    }
}

impl Pulls {
    /// Uses the image that is here, else pulls it.
    ///
    /// Docker asks the registry for every tag, even where the image is present, and falls back to the local one. The CLI
    /// pins a service's image to a digest whenever a registry knows it, so a plain tag that is here *is* what the user
    /// means; a registry that does not answer then costs nothing (docs/decisions/0005).
    pub(super) async fn ensure(&self, runtime: &Runtime, image: &str, auth: Option<&str>) -> Result<(), TaskError> {
        if is_here(runtime, image).await? {
            return Ok(());
        }
        let key = (image.to_owned(), auth.unwrap_or_default().to_owned());
        let pull = self.join(&key);
        let mut failed = pull.0.lock().await;
        if let Some(error) = &*failed {
            return Err(error.clone());
        }
        // by the one who pulled before
        if is_here(runtime, image).await? {
            return Ok(());
        }
        // never closed
        let _room = self.room.acquire().await;
        let pulled = pull_image(runtime, image, &key.1).await;
        if let Err(error) = &pulled {
            *failed = Some(error.clone());
            // who asks from now on tries again
            self.under_way.lock().remove(&key);
        }
        pulled
    }

    fn join(&self, key: &(String, String)) -> Arc<Pull> {
        let mut under_way = self.under_way.lock();
        under_way.retain(|_, pull| pull.strong_count() > 0);
        if let Some(pull) = under_way.get(key).and_then(Weak::upgrade) {
            return pull;
        }
        let pull = Arc::new(Pull::default());
        under_way.insert(key.clone(), Arc::downgrade(&pull));
        pull
    }
}

async fn is_here(runtime: &Runtime, image: &str) -> Result<bool, TaskError> {
    match runtime.image_inspect(image).await {
        Ok(_) => Ok(true),
        Err(e) if e.is_not_found() => Ok(false),
        Err(e) => Err(TaskError(e.to_string())),
    }
}

async fn pull_image(runtime: &Runtime, image: &str, auth: &str) -> Result<(), TaskError> {
    let auth = RegistryAuth::from_header(auth).map_err(|e| TaskError(e.to_string()))?;
    info!(image, "pulling");
    match runtime.image_pull(image, PullOptions { auth, platform: None }, None).await {
        Ok(_) => Ok(()),
        Err(e) => {
            info!(image, error = %e, "pull failed");
            Err(TaskError(format!("No such image: {image}")))
        }
    }
}
