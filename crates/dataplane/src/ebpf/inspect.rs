//! The pinned maps of a node, read from another process: for commands that show what the kernel forwards by.

use std::path::Path;

use super::{counters::MapDump, counters::Stats, error::EbpfResult, layout::LAYOUT_VERSION, maps::Maps};

/// Where the maps are pinned; the version keeps a new daemon from reading an old layout.
pub(super) fn maps_dir(pin_dir: &Path) -> std::path::PathBuf {
    pin_dir.join(format!("maps-v{LAYOUT_VERSION}"))
}

/// Every map and counter under `pin_dir`. Nothing is changed; the daemon need not run.
pub fn inspect(pin_dir: &Path) -> EbpfResult<(Vec<MapDump>, Stats)> {
    let maps = Maps::open(&maps_dir(pin_dir))?;
    Ok((maps.dump()?, maps.stats()?))
}
