//! Container logs: a file of JSON lines, written by a process of its own per container.
//!
//! The writer (this same executable, `log-writer` subcommand) belongs to containerd's shim, not to the daemon, so a
//! chatty container neither blocks nor loses a line while the daemon is away. It also hands live output to whoever
//! connects to its socket; attach and `logs -f` are built on that.

mod entry;
mod follow;
mod reader;
mod writer;
mod writer_clients;

pub(crate) use self::follow::{LiveOutput, Subscription, drained, replay};
pub use self::writer::logger_main;

/// The log in a container's directory.
pub(crate) const LOG_FILE: &str = "container.log";
/// The writer's socket beside it.
pub(crate) const SOCKET: &str = "output.sock";
/// Pipes of a container with stdin but no terminal.
pub(crate) const STDOUT_FIFO: &str = "stdout";
pub(crate) const STDERR_FIFO: &str = "stderr";
/// Name of the hidden subcommand.
pub(crate) const SUBCOMMAND: &str = "log-writer";
/// Its argument, before the directory, that makes it read the pipes above instead of inherited descriptors.
pub(crate) const FROM_FIFOS: &str = "--fifos";

/// What a client of the writer's socket asks for, as its first byte.
pub(crate) const WANT_OUTPUT: u8 = b'o';
pub(crate) const WANT_TICKS: u8 = b't';

/// Frame tags: stream number, or the log's length at the moment of connecting.
pub(crate) const TAG_STDOUT: u8 = 1;
pub(crate) const TAG_STDERR: u8 = 2;
pub(crate) const TAG_OFFSET: u8 = 0xff;
