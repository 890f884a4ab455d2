//! Names of what a node keeps in shared places of the machine: cgroups, pinned maps.

use std::path::{Path, PathBuf};

/// Programs and maps of a node, in the BPF file system.
pub(crate) fn pin_dir(instance: &str) -> PathBuf {
    Path::new("/sys/fs/bpf/malha").join(instance)
}

/// Parent cgroup of a node's containers, relative to each hierarchy's root.
pub(crate) fn cgroup_parent(instance: &str) -> String {
    format!("/malha/{instance}")
}

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or beside the v1 hierarchies.
pub(crate) fn cgroup2_mount() -> Option<PathBuf> {
    malha_dataplane::ebpf::cgroup2_root().ok()
}
