//! Starting daemons inside their namespaces, detached from this command.

use std::{
    fs::{File, OpenOptions},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use super::cluster::Process;

/// A command that will run in the network namespace at `netns`.
pub(crate) fn in_netns(netns: &Path, mut command: Command) -> Result<Command> {
    let ns = File::open(netns).with_context(|| format!("cannot open {}", netns.display()))?;
    // SAFETY: between fork and exec only setns(2) runs, which is async-signal-safe and allocates nothing.
    #[allow(unsafe_code, reason = "the namespace must be entered in the child, before exec")]
    unsafe {
        command.pre_exec(move || nix::sched::setns(&ns, nix::sched::CloneFlags::CLONE_NEWNET).map_err(Into::into));
    }
    Ok(command)
}

/// Starts `command` in a session of its own with its output in `log`.
pub(crate) fn detach(mut command: Command, log: &Path) -> Result<Process> {
    let out = OpenOptions::new().create(true).append(true).open(log).with_context(|| format!("{}", log.display()))?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    // SAFETY: setsid(2) is async-signal-safe.
    #[allow(unsafe_code, reason = "a session of its own, so that it outlives this command's terminal")]
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into));
    }
    let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let pid = i32::try_from(child.id()).context("process id")?;
    Process::of(pid).with_context(|| format!("{command:?} ended at once; see {}", log.display()))
}
