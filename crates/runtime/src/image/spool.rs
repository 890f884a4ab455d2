//! A tar archive from the network, laid out on disk with plain names so that its parts can be read in any order.
//!
//! Names in the archive are only ever looked up, never used as paths.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use tokio::io::AsyncRead;
use tokio_util::io::SyncIoBridge;

use crate::{Result, RuntimeError};

/// One file of the archive.
#[derive(Clone, Debug)]
pub(crate) struct Spooled {
    pub(crate) path: PathBuf,
    pub(crate) digest: String,
    pub(crate) size: u64,
}

/// The archive's files by name; gone from disk when dropped.
#[derive(Debug)]
pub(crate) struct Spool {
    _dir: tempfile::TempDir,
    files: BTreeMap<String, Spooled>,
    /// Link name to target, both normalised.
    links: BTreeMap<String, String>,
}

impl Spool {
    /// Reads a tar, gzipped or not, to its end.
    pub(crate) async fn read(archive: impl AsyncRead + Send + Unpin + 'static, under: &Path) -> Result<Self> {
        let dir = scratch(under)?;
        let bridge = SyncIoBridge::new(archive);
        let read = tokio::task::spawn_blocking(move || read_blocking(bridge, dir)).await;
        read.map_err(RuntimeError::internal)?.map_err(|e| RuntimeError::invalid(format!("read the archive: {e}")))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Spooled> {
        let mut name = normal(name);
        for _ in 0..8 {
            match self.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => break,
            }
        }
        self.files.get(&name)
    }

    /// A small file's content.
    pub(crate) fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.get(name) else { return Ok(None) };
        let fail = |e| RuntimeError::io(format!("read {name} of the archive"), e);
        if file.size > 8 << 20 {
            return Err(RuntimeError::invalid(format!("{name} is too large")));
        }
        std::fs::read(&file.path).map(Some).map_err(fail)
    }
}

/// A directory for work in progress.
pub(crate) fn scratch(under: &Path) -> Result<tempfile::TempDir> {
    let fail = |e| RuntimeError::io(format!("make a directory in {}", under.display()), e);
    std::fs::create_dir_all(under).map_err(fail)?;
    tempfile::Builder::new().prefix("spool-").tempdir_in(under).map_err(fail)
}

fn read_blocking(raw: impl Read, dir: tempfile::TempDir) -> io::Result<Spool> {
    let mut input = BufReader::with_capacity(256 << 10, raw);
    let gzipped = input.fill_buf()?.starts_with(&GZIP);
    let plain: Box<dyn Read> =
        if gzipped { Box::new(flate2::bufread::MultiGzDecoder::new(input)) } else { Box::new(input) };
    let mut archive = tar::Archive::new(plain);
    let mut spool = Spool { files: BTreeMap::new(), links: BTreeMap::new(), _dir: dir };
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let path = spool._dir.path().join(spool.files.len().to_string());
                let file = spool_one(&mut entry, path)?;
                spool.files.insert(normal(&name), file);
            }
            tar::EntryType::Symlink | tar::EntryType::Link => {
                let Some(target) = entry.link_name()? else { continue };
                let base = match entry.header().entry_type() {
                    tar::EntryType::Symlink => Path::new(&name).parent().unwrap_or(Path::new("")).join(&target),
                    _ => target.into_owned(),
                };
                spool.links.insert(normal(&name), normal(&base.to_string_lossy()));
            }
            _ => {}
        }
    }
    Ok(spool)
}

fn spool_one(from: &mut impl Read, path: PathBuf) -> io::Result<Spooled> {
    let mut out = File::create(&path)?;
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        out.write_all(&buffer[..n])?;
        size += n as u64;
    }
    Ok(Spooled { path, digest: format!("sha256:{}", hex::encode(hash.finalize())), size })
}

/// Writes a stream to a file of its own.
pub(crate) async fn spool_stream(data: impl AsyncRead + Send + Unpin + 'static, path: PathBuf) -> Result<Spooled> {
    let mut bridge = SyncIoBridge::new(data);
    let spooled = tokio::task::spawn_blocking(move || spool_one(&mut bridge, path)).await;
    spooled.map_err(RuntimeError::internal)?.map_err(|e| RuntimeError::invalid(format!("read the archive: {e}")))
}

pub(crate) const GZIP: [u8; 2] = [0x1f, 0x8b];
pub(crate) const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The first bytes of a file: what compression it has.
pub(crate) fn magic(path: &Path) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(4);
    File::open(path)?.take(4).read_to_end(&mut start)?;
    Ok(start)
}

/// `./a/../b` as `b`.
fn normal(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
