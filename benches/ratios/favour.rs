//! Processor time for the measurement, whatever else the machine does.
//!
//! Containers get the greatest share there is, and what belongs to a measurement but runs outside of them the best
//! priority. Both sides of a comparison stand under the same rule.

use std::{fs, process::Command};

use crate::cluster::{Cluster, IMAGE, output};

/// The group above all containers: cgroup v2, or v1 where the processors are still handed out there.
const SHARES: [(&str, &str); 3] = [
    ("/sys/fs/cgroup/malha/cpu.weight", "10000"),
    ("/sys/fs/cgroup/cpu/malha/cpu.shares", "262144"),
    ("/sys/fs/cgroup/cpu,cpuacct/malha/cpu.shares", "262144"),
];
pub(crate) const FIRST: [&str; 3] = ["nice", "-n", "-20"];

/// Ends with the value.
pub(crate) struct Favoured(Vec<(&'static str, String)>);

impl Favoured {
    /// The group, and its share, may be there only when a first container was.
    pub(crate) fn containers(c: &Cluster) -> Self {
        let first = c.docker("node1", &["run", "-d", "--network", "none", IMAGE]);
        c.docker("node1", &["rm", "-f", first.trim()]);
        let mut before = Vec::new();
        for (path, most) in SHARES {
            if let Ok(old) = fs::read_to_string(path)
                && fs::write(path, most).is_ok()
            {
                before.push((path, old));
            }
        }
        assert!(!before.is_empty(), "no share of the processors to give to containers: {SHARES:?}");
        Self(before)
    }
}

impl Drop for Favoured {
    fn drop(&mut self) {
        for (path, old) in &self.0 {
            // Gone with the last container: nothing to put back.
            let _ = fs::write(path, old.trim());
        }
    }
}

/// All threads of a process.
pub(crate) fn process(pid: &str) {
    for entry in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        output(Command::new("renice").args(["-n", "-20", "-p"]).arg(entry.file_name()));
    }
}
