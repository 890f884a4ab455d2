//! Ends sockets whose backend is gone: a program blocked on such a socket gets an error now, and reconnects, instead of
//! waiting for a timer of hours.
//!
//! inet_diag finds a socket only inside its own namespace, so each namespace gets a thread that enters it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    path::PathBuf,
    thread,
};

use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use nix::sched::{CloneFlags, setns};

use super::{apply::Gone, error::EbpfResult, layout::Connected, maps::Maps};
use crate::rawnl::{self, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, acknowledged};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `struct inet_diag_sockid` and where it is in `struct inet_diag_msg`; its cookie is the last eight bytes.
const SOCKID: usize = 48;
const SOCKID_AT: usize = 4;
const COOKIE_AT: usize = 40;
/// Every TCP state but LISTEN and TIME_WAIT.
const STATES: u32 = 0xfff & !(1 << 10) & !(1 << 6);

/// Sockets to end, by the cookie of their namespace.
pub(super) type Doomed = BTreeMap<u64, BTreeSet<u64>>;

impl Maps {
    /// Dooms the sockets that were connected through a VIP to an address that lost its owner. They are forgotten here.
    pub(super) fn take_doomed(&mut self, gone: &Gone, doomed: &mut Doomed) -> EbpfResult<()> {
        if gone.is_empty() {
            return Ok(());
        }
        let mut forgotten = Ok(());
        for (cookie, connected) in self.connected.rows()? {
            let Connected { vni, backend, netns, .. } = connected;
            if gone.contains(&(vni, backend)) {
                doomed.entry(netns).or_default().insert(cookie);
                forgotten = forgotten.and(self.connected.remove(&cookie));
            }
        }
        forgotten
    }
}

/// Ends these sockets in the namespace at `netns`; tells how many there were. Sockets that ended by themselves are fine.
pub(super) fn destroy(netns: PathBuf, cookies: BTreeSet<u64>) -> io::Result<usize> {
    let work = move || -> io::Result<usize> {
        setns(File::open(&netns)?, CloneFlags::CLONE_NEWNET)?;
        let mut ended = 0;
        for family in [libc::AF_INET, libc::AF_INET6] {
            for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
                ended += destroy_of(family as u8, protocol as u8, &cookies)?;
            }
        }
        Ok(ended)
    };
    let thread = thread::Builder::new().name("malha-sockets".to_owned()).spawn(work)?;
    thread.join().map_err(|_| io::Error::other("the thread in the namespace panicked"))?
}

fn destroy_of(family: u8, protocol: u8, cookies: &BTreeSet<u64>) -> io::Result<usize> {
    let socket = rawnl::open(NETLINK_SOCK_DIAG)?;
    let mut ended = 0;
    for id in list(&socket, family, protocol)? {
        if !cookies.contains(&cookie_of(&id)) {
            continue;
        }
        socket.send(&request(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, family, protocol, &id), 0)?;
        match acknowledged(&socket.recv_from_full()?.0) {
            Ok(()) => ended += 1,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(ended)
}

fn list(socket: &Socket, family: u8, protocol: u8) -> io::Result<Vec<[u8; SOCKID]>> {
    let all = request(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, family, protocol, &[0; SOCKID]);
    let mut ids = Vec::new();
    rawnl::dump(socket, &all, |body| {
        ids.extend(body.get(SOCKID_AT..SOCKID_AT + SOCKID).and_then(|id| <[u8; SOCKID]>::try_from(id).ok()));
    })?;
    Ok(ids)
}

/// With `struct inet_diag_req_v2`.
fn request(kind: u16, flags: u16, family: u8, protocol: u8, id: &[u8; SOCKID]) -> Vec<u8> {
    let mut body = vec![family, protocol, 0, 0];
    body.extend(STATES.to_ne_bytes());
    body.extend(id);
    rawnl::message(kind, flags, &body)
}

fn cookie_of(id: &[u8; SOCKID]) -> u64 {
    let half = |at: usize| u64::from(u32::from_ne_bytes([id[at], id[at + 1], id[at + 2], id[at + 3]]));
    half(COOKIE_AT) | half(COOKIE_AT + 4) << 32
}
