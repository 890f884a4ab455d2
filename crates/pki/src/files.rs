//! The files of a node's identity, for its owner alone.

use std::{fs, io, os::unix::fs::DirBuilderExt as _, path::Path};

use malha_kit::durable;

use crate::PkiError;

pub(crate) fn make_private_dir(dir: &Path) -> Result<(), PkiError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))
}

/// Replaces `path` with `content`, readable by the owner alone. After it returns, a power cut keeps the new one.
pub(crate) fn write_private(path: &Path, content: &str) -> Result<(), PkiError> {
    durable::replace(path, content.as_bytes(), durable::PRIVATE).map_err(at(path))
}

/// The content, or `None` where there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(content) => Ok(Some(content)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at(path)(e)),
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::File { path, source }
}
