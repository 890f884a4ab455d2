//! Records as JSON in files that are wholly old or wholly new.

use std::{fs, io, path::Path};

use malha_kit::durable;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Result, RuntimeError};

/// Replaces `path` with `value` as JSON.
pub(crate) async fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(RuntimeError::internal)?;
    let target = path.to_owned();
    let written = tokio::task::spawn_blocking(move || durable::replace(&target, &bytes, durable::PRIVATE)).await;
    written.map_err(RuntimeError::internal)?.map_err(|e| RuntimeError::io(format!("write {}", path.display()), e))
}

/// `None` where there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let context = || format!("read {}", path.display());
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| RuntimeError::io(context(), e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(RuntimeError::io(context(), e)),
    }
}
