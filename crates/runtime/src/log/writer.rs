//! The log writer process: one thread, one `poll` loop, from two pipes to a file and to connected clients.
//!
//! It ends when both pipes have ended, not before: signals that shims send to loggers are ignored. A full disk costs
//! the lines that do not fit, never a broken file and never a blocked container. A client that does not read holds the
//! container up, as with Docker; a client that is gone does not.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{SigHandler, Signal, signal},
};

use super::{
    FROM_FIFOS, LOG_FILE, STDERR_FIFO, STDOUT_FIFO,
    entry::{self, LineBuffer},
    writer_clients::Clients,
};
use crate::{clock, container::StdStream};

/// A pipe that nobody ever opened is given up after this.
const OPEN_PATIENCE: Duration = Duration::from_secs(60);

/// Body of the hidden `log-writer` subcommand: `args` is what follows it.
pub fn logger_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let from_fifos = args.first().is_some_and(|a| a == FROM_FIFOS);
    if from_fifos {
        args.remove(0);
    }
    let Some(dir) = args.first() else { return ExitCode::FAILURE };
    match run(Path::new(dir), from_fifos) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // The shim's log is the only place left to complain.
            let _ = writeln!(io::stderr(), "log writer for {}: {e}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &Path, from_fifos: bool) -> io::Result<()> {
    ignore_signals()?;
    let writer = Writer::open(dir, from_fifos, OPEN_PATIENCE)?;
    ready(from_fifos);
    writer.run()
}

/// The daemon's stop, a terminal's Ctrl-C or a shim's SIGTERM must not cost output that is still on its way.
#[allow(unsafe_code, reason = "ignoring a signal installs no handler")]
fn ignore_signals() -> io::Result<()> {
    for number in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
        // SAFETY: SIG_IGN runs no code.
        unsafe { signal(number, SigHandler::SigIgn) }?;
    }
    Ok(())
}

/// containerd's contract for `binary://` loggers: 3 is stdout, 4 is stderr.
fn inherited() -> [Option<Input>; 2] {
    [3, 4].map(|number| take_fd(number).map(|fd| Input::new(File::from(fd))))
}

#[allow(unsafe_code, reason = "descriptors that containerd's shim hands over by number")]
fn take_fd(number: i32) -> Option<OwnedFd> {
    // SAFETY: fcntl on a number that may be closed only fails; an open one is ours alone by the shim's contract.
    let open = unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
    open.then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// Tells whoever started us: descriptor 5 for a shim, stdout for the daemon.
fn ready(from_fifos: bool) {
    if from_fifos {
        let _ = io::stdout().write_all(b"ready\n").and_then(|()| io::stdout().flush());
    } else {
        drop(take_fd(5));
    }
}

struct Input {
    file: File,
    lines: LineBuffer,
}

impl Input {
    fn new(file: File) -> Self {
        Self { file, lines: LineBuffer::default() }
    }
}

struct Writer {
    log: File,
    clients: Clients,
    inputs: [Option<Input>; 2],
    /// Until when somebody has to open a pipe; `None` once somebody has.
    patience: Option<Instant>,
}

const STREAMS: [StdStream; 2] = [StdStream::Stdout, StdStream::Stderr];

impl Writer {
    fn open(dir: &Path, from_fifos: bool, patience: Duration) -> io::Result<Self> {
        let log = OpenOptions::new().create(true).append(true).read(true).mode(0o640).open(dir.join(LOG_FILE))?;
        // After the log: who connects looks for it next.
        let clients = Clients::listen(dir)?;
        let inputs = if from_fifos {
            let open = |name| {
                let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(dir.join(name));
                file.map(|f| Some(Input::new(f)))
            };
            [open(STDOUT_FIFO)?, open(STDERR_FIFO)?]
        } else {
            inherited()
        };
        Ok(Self { log, clients, inputs, patience: from_fifos.then(|| Instant::now() + patience) })
    }

    fn run(mut self) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        while self.inputs.iter().any(Option::is_some) {
            let ready = self.wait()?;
            for (n, flags) in ready.inputs.iter().enumerate() {
                if let Some(flags) = flags {
                    self.read(n, *flags, &mut buffer);
                }
            }
            self.clients.serve(log_length(&self.log));
            if self.patience.is_some_and(|until| Instant::now() > until) {
                break;
            }
        }
        self.clients.finish(log_length(&self.log));
        Ok(())
    }

    /// Which inputs can be read, or are to be probed: those have no flags. While a client is behind, inputs wait.
    fn wait(&self) -> io::Result<Ready> {
        let congested = self.clients.congested();
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        let mut order = Vec::new();
        for (n, input) in self.inputs.iter().enumerate() {
            if let Some(input) = input.as_ref().filter(|_| !congested) {
                fds.push(PollFd::new(input.file.as_fd(), PollFlags::POLLIN));
                order.push(n);
            }
        }
        let clients: Vec<(BorrowedFd<'_>, PollFlags)> = self.clients.interests();
        fds.extend(clients.into_iter().map(|(fd, flags)| PollFd::new(fd, flags)));
        let timeout = if self.patience.is_some() { PollTimeout::from(1000_u16) } else { PollTimeout::NONE };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut ready = Ready { inputs: [None, None] };
        for (n, fd) in order.into_iter().zip(&fds) {
            ready.inputs[n] = fd.revents().filter(|f| !f.is_empty() || self.patience.is_some());
        }
        Ok(ready)
    }

    fn read(&mut self, n: usize, flags: PollFlags, buffer: &mut [u8]) {
        let Some(input) = &mut self.inputs[n] else { return };
        let probe = flags.is_empty();
        let result = if probe || flags.contains(PollFlags::POLLIN) { input.file.read(buffer) } else { Ok(0) };
        let (stream, now) = (STREAMS[n], clock::now());
        let mut entries = Vec::new();
        match result {
            // Nobody has opened it yet.
            Ok(0) if probe => {}
            Ok(0) => {
                input.lines.finish(|line| entry::encode(line, stream, now, &mut entries));
                self.inputs[n] = None;
            }
            Ok(length) => {
                self.patience = None;
                let data = &buffer[..length];
                input.lines.push(data, |line| entry::encode(line, stream, now, &mut entries));
                self.clients.send(stream, data);
            }
            // Somebody holds the other end, and may be silent for as long as it likes.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.patience = None,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.inputs[n] = None,
        }
        if !entries.is_empty() {
            self.append(&entries);
            self.clients.tick();
        }
    }

    /// All of it or nothing.
    fn append(&mut self, entries: &[u8]) {
        let Ok(before) = self.log.metadata().map(|m| m.len()) else { return };
        if self.log.write_all(entries).is_err() {
            let _ = self.log.set_len(before);
            // Lines of a batch that still fit one by one are better than none.
            for line in entries.split_inclusive(|b| *b == b'\n') {
                let Ok(at) = self.log.metadata().map(|m| m.len()) else { return };
                if self.log.write_all(line).is_err() {
                    let _ = self.log.set_len(at);
                    return;
                }
            }
        }
    }
}

fn log_length(log: &File) -> u64 {
    log.metadata().map(|m| m.len()).unwrap_or(0)
}

struct Ready {
    inputs: [Option<PollFlags>; 2],
}

#[cfg(test)]
mod tests {
    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn an_open_pipe_may_be_silent_and_one_that_nobody_opens_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        for name in [STDOUT_FIFO, STDERR_FIFO] {
            mkfifo(&dir.path().join(name), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        }
        let writer = Writer::open(dir.path(), true, Duration::from_millis(200)).unwrap();
        let writing = std::thread::spawn(move || writer.run());
        let end = |name| OpenOptions::new().write(true).open(dir.path().join(name)).unwrap();
        let (mut stdout, stderr) = (end(STDOUT_FIFO), end(STDERR_FIFO));
        std::thread::sleep(Duration::from_millis(1500));
        stdout.write_all(b"late\n").unwrap();
        drop((stdout, stderr));
        writing.join().unwrap().unwrap();
        let log = std::fs::read_to_string(dir.path().join(LOG_FILE)).unwrap();
        assert!(log.contains(r#""log":"late\n""#), "{log}");

        let (done, ended) = std::sync::mpsc::channel();
        let writer = Writer::open(dir.path(), true, Duration::ZERO).unwrap();
        std::thread::spawn(move || done.send(writer.run().is_ok()));
        assert_eq!(ended.recv_timeout(Duration::from_secs(10)), Ok(true));
    }
}
