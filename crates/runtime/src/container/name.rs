//! Container names and ids.

use rand::{Rng, seq::IndexedRandom};

use crate::{Result, RuntimeError};

/// 64 hex digits.
pub(crate) fn random_id() -> String {
    hex::encode(rand::rng().random::<[u8; 32]>())
}

pub(crate) fn check(name: &str) -> Result<()> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let good = name.len() > 1 && name.bytes().all(ok) && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if good {
        return Ok(());
    }
    Err(RuntimeError::invalid(format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")))
}

/// A pronounceable name; `attempt` above 0 adds a number.
pub(crate) fn made_up(attempt: u32) -> String {
    const QUALITIES: &[&str] = &[
        "amber", "brisk", "calm", "clear", "dapper", "eager", "fleet", "gentle", "hardy", "keen", "lively", "lucid",
        "mellow", "merry", "noble", "patient", "placid", "quick", "quiet", "ready", "sage", "silver", "spry", "steady",
        "sunny", "swift", "tidy", "upbeat", "vivid", "warm", "witty", "zesty",
    ];
    const WEAVERS: &[&str] = &[
        "anchor", "braid", "cable", "canvas", "cord", "darner", "fiber", "grid", "hammock", "heddle", "jacquard",
        "knot", "lace", "lattice", "linen", "loom", "mesh", "needle", "net", "plait", "rigging", "rope", "seine",
        "shuttle", "spindle", "splice", "tassel", "thread", "trellis", "twine", "weft", "yarn",
    ];
    let mut rng = rand::rng();
    let quality = QUALITIES.choose(&mut rng).unwrap_or(&"plain");
    let thing = WEAVERS.choose(&mut rng).unwrap_or(&"mesh");
    match attempt {
        0 => format!("{quality}_{thing}"),
        _ => format!("{quality}_{thing}{}", rng.random_range(0..100_000)),
    }
}
