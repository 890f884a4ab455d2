//! The log writer's socket: who is connected and what each is owed.

use std::{
    collections::VecDeque,
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::{
            fs::MetadataExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{SOCKET, TAG_OFFSET, TAG_STDERR, TAG_STDOUT, WANT_OUTPUT, WANT_TICKS};
use crate::container::StdStream;

/// What may wait for one client before the container has to.
const BACKLOG: usize = 1 << 20;
/// How long the last output waits for clients to take it.
const FAREWELL: Duration = Duration::from_secs(10);

pub(super) struct Clients {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket: a later writer may have put its own in its place.
    file: (u64, u64),
    clients: Vec<Client>,
}

struct Client {
    stream: UnixStream,
    want: Want,
    owed: VecDeque<u8>,
    gone: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    /// Has not said yet.
    Unknown,
    Output,
    Ticks,
}

impl Clients {
    pub(super) fn listen(dir: &Path) -> io::Result<Self> {
        // Socket paths are limited to 107 bytes; through the descriptor any directory fits.
        let handle = fs::File::open(dir)?;
        let path = dir.join(SOCKET);
        let _ = fs::remove_file(&path);
        let short = format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd());
        let listener = UnixListener::bind(short)?;
        listener.set_nonblocking(true)?;
        let file = identity(&path)?;
        Ok(Self { listener, path, file, clients: Vec::new() })
    }

    pub(super) fn congested(&self) -> bool {
        self.clients.iter().any(|c| c.want == Want::Output && c.owed.len() > BACKLOG)
    }

    pub(super) fn interests(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut all = vec![(self.listener.as_fd(), PollFlags::POLLIN)];
        for client in &self.clients {
            let mut flags = PollFlags::POLLIN;
            if !client.owed.is_empty() {
                flags |= PollFlags::POLLOUT;
            }
            all.push((client.stream.as_fd(), flags));
        }
        all
    }

    /// Accepts, listens and pays what can be paid now. `length` is the log's.
    pub(super) fn serve(&mut self, length: u64) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client { stream, want: Want::Unknown, owed: VecDeque::new(), gone: false });
            }
        }
        for client in &mut self.clients {
            client.hear(length);
            client.pay();
        }
        self.clients.retain(|c| !c.gone);
    }

    pub(super) fn send(&mut self, stream: StdStream, data: &[u8]) {
        let tag = if stream == StdStream::Stdout { TAG_STDOUT } else { TAG_STDERR };
        for client in self.clients.iter_mut().filter(|c| c.want == Want::Output) {
            client.owe(tag, data);
        }
    }

    /// The log has grown.
    pub(super) fn tick(&mut self) {
        for client in self.clients.iter_mut().filter(|c| c.want == Want::Ticks && c.owed.is_empty()) {
            client.owed.push_back(0);
        }
    }

    /// Gives clients time to take the rest, then says goodbye. `length` is the log's.
    pub(super) fn finish(mut self, length: u64) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
        let until = Instant::now() + FAREWELL;
        loop {
            self.serve(length);
            let mut fds: Vec<PollFd<'_>> = self
                .clients
                .iter()
                .filter(|c| !c.owed.is_empty())
                .map(|c| PollFd::new(c.stream.as_fd(), PollFlags::POLLOUT))
                .collect();
            if fds.is_empty() || Instant::now() > until {
                return;
            }
            let _ = poll(&mut fds, PollTimeout::from(100_u8));
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|m| (m.dev(), m.ino()))
}

impl Client {
    fn hear(&mut self, length: u64) {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => self.gone = true,
            Ok(_) if self.want == Want::Unknown => match byte[0] {
                WANT_OUTPUT => {
                    self.want = Want::Output;
                    self.owe(TAG_OFFSET, &length.to_be_bytes());
                }
                WANT_TICKS => {
                    self.want = Want::Ticks;
                    // The log may have grown between the reader's last look and this moment.
                    self.owed.push_back(0);
                }
                _ => self.gone = true,
            },
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => self.gone = true,
            Ok(_) | Err(_) => {}
        }
    }

    fn owe(&mut self, tag: u8, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap_or(0);
        self.owed.push_back(tag);
        self.owed.extend(length.to_be_bytes());
        self.owed.extend(data);
    }

    fn pay(&mut self) {
        while !self.owed.is_empty() {
            match self.stream.write(self.owed.as_slices().0) {
                Ok(n) => drop(self.owed.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its reader may have seen the log's end before those lines, and waits for a tick to look again.
    #[test]
    fn lines_written_while_a_follower_connects_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut clients = Clients::listen(dir.path()).unwrap();
        let mut follower = UnixStream::connect(dir.path().join(SOCKET)).unwrap();
        follower.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        follower.write_all(&[WANT_TICKS]).unwrap();
        clients.tick();
        clients.serve(0);
        let mut tick = [1];
        follower.read_exact(&mut tick).unwrap();
        assert_eq!(tick, [0]);
    }

    /// What it asks to see again first is all of the log.
    #[test]
    fn one_that_connects_at_the_end_is_told_the_length_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let clients = Clients::listen(dir.path()).unwrap();
        let mut late = UnixStream::connect(dir.path().join(SOCKET)).unwrap();
        late.write_all(&[WANT_OUTPUT]).unwrap();
        clients.finish(7);
        let mut hello = Vec::new();
        late.read_to_end(&mut hello).unwrap();
        assert_eq!(hello, [TAG_OFFSET, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7]);
    }

    #[test]
    fn a_writer_takes_only_its_own_socket_away() {
        let dir = tempfile::tempdir().unwrap();
        let given_up = Clients::listen(dir.path()).unwrap();
        let next = Clients::listen(dir.path()).unwrap();
        given_up.finish(0);
        assert!(UnixStream::connect(dir.path().join(SOCKET)).is_ok());
        next.finish(0);
        assert!(!dir.path().join(SOCKET).exists());
    }
}
