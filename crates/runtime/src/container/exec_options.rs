//! What an exec is created from and what it is seen as.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecOptions {
    pub cmd: Vec<String>,
    /// On top of the container's.
    pub env: Vec<String>,
    /// `None` is the container's.
    pub working_dir: Option<String>,
    /// `None` is the container's.
    pub user: Option<String>,
    pub tty: bool,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub privileged: bool,
    /// What its terminal begins with, where the start does not say.
    pub console_size: Option<ConsoleSize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecInfo {
    pub id: String,
    pub container_id: String,
    pub options: ExecOptions,
    pub running: bool,
    /// `None` until it has ended.
    pub exit_code: Option<i32>,
    pub pid: u32,
}

/// Characters of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleSize {
    pub width: u16,
    pub height: u16,
}
