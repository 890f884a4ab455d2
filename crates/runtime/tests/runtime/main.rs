//! The runtime on a real containerd, runc, overlayfs, registry and kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::too_many_lines, reason = "tests")]

mod adopt;
mod images;
mod mounts;
mod run;
mod streams;
mod support;
