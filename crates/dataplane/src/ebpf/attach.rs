//! Programs on their attach points. Each attachment is a pinned link, so it outlives the daemon; what it is for is in
//! the pin's name, so a daemon that returns knows its containers before anybody tells it.
//!
//! An existing attachment gets the program of another version in one step.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use super::{
    NodeDevices,
    clsact::{self, TcHook},
    error::{EbpfResult, While},
    namespace::Namespace,
    objects::{Loaded, Programs},
    sys,
};

const BPF_TCX_INGRESS: u32 = 46;

/// Socket programs by their attach type.
const SOCKET_PROGRAMS: [(&str, u32); 9] = [
    ("connect4", 10),
    ("connect6", 11),
    ("sendmsg4", 14),
    ("sendmsg6", 15),
    ("recvmsg4", 19),
    ("recvmsg6", 20),
    ("getpeername4", 29),
    ("getpeername6", 30),
    ("released", 34),
];

/// What a container's attachment is for; the name of its pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attachment {
    pub sandbox: String,
    pub vni: u32,
    pub ifindex: u32,
}

pub(super) struct Attachments {
    dir: PathBuf,
    /// Interface numbers mean something in the node's namespace only.
    namespace: Namespace,
    hook: TcHook,
}

impl Attachments {
    pub(super) fn open(dir: PathBuf, namespace: Namespace, hook: TcHook) -> EbpfResult<Self> {
        fs::create_dir_all(&dir).on(|| format!("make {}", dir.display()))?;
        Ok(Self { dir, namespace, hook })
    }

    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The endpoint program on the host side of a container's link.
    pub(super) fn container(&self, programs: &Programs, what: &Attachment) -> EbpfResult<()> {
        self.device(programs, "endpoint", &what.pin_name(), what.ifindex)
    }

    pub(super) fn remove_container(&self, what: &Attachment) -> EbpfResult<()> {
        self.remove(&what.pin_name())
    }

    /// Every container that has an attachment. Those whose device is gone are removed on the way.
    pub(super) fn containers(&self, programs: &Programs) -> EbpfResult<Vec<Attachment>> {
        let mut found = Vec::new();
        for name in self.names()? {
            let Some(what) = Attachment::parse(&name) else { continue };
            if self.is_at(&name, what.ifindex) {
                self.container(programs, &what)?;
                found.push(what);
            } else {
                self.remove(&name)?;
            }
        }
        Ok(found)
    }

    /// The node's own devices: tunnel, loopback, uplinks, bridges. Detaches from those that are none any more.
    pub(super) fn node(&self, programs: &Programs, node: &NodeDevices, lo: u32) -> EbpfResult<()> {
        let own = [("overlay", node.vxlan_ifindex), ("entry_lo", lo)].into_iter();
        let uplinks = node.uplinks.iter().map(|index| ("entry", *index));
        let bridges = node.bridges.iter().map(|index| ("entry_bridge", *index));
        let mut wanted = Vec::new();
        for (program, ifindex) in own.chain(uplinks).chain(bridges) {
            let name = format!("{program}@{ifindex}");
            self.device(programs, program, &name, ifindex)?;
            wanted.push(name);
        }
        for name in self.names()? {
            if node_device(&name).is_some() && !wanted.contains(&name) {
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    /// Gives the node's devices, as far as they are attached, the programs of this version.
    pub(super) fn update_node(&self, programs: &Programs) -> EbpfResult<()> {
        for name in self.names()? {
            let Some((program, ifindex)) = node_device(&name) else { continue };
            if self.is_at(&name, ifindex) {
                self.device(programs, program, &name, ifindex)?;
            } else {
                self.remove(&name)?; // the device is gone
            }
        }
        Ok(())
    }

    /// The socket programs, for all cgroups below `cgroup`.
    pub(super) fn sockets(&self, programs: &Programs, cgroup: &Path) -> EbpfResult<()> {
        let dir = File::open(cgroup).on(|| format!("open cgroup {}", cgroup.display()))?;
        let id = dir.metadata().on(|| format!("look at cgroup {}", cgroup.display()))?.ino();
        for (program, attach_type) in SOCKET_PROGRAMS {
            let name = format!("sock@{program}");
            let here = |link: &OwnedFd| sys::fact(link.as_fd(), "cgroup_id") == Some(id);
            self.link(programs, program, &name, dir.as_raw_fd() as u32, attach_type, here)?;
        }
        Ok(())
    }

    fn device(&self, programs: &Programs, program: &str, name: &str, ifindex: u32) -> EbpfResult<()> {
        if self.hook == TcHook::Clsact {
            return self.filter(programs, program, name, ifindex);
        }
        let here = |link: &OwnedFd| sys::fact(link.as_fd(), "ifindex") == Some(u64::from(ifindex));
        self.link(programs, program, name, ifindex, BPF_TCX_INGRESS, here)
    }

    fn filter(&self, programs: &Programs, program: &str, name: &str, ifindex: u32) -> EbpfResult<()> {
        let doing = || format!("attach {program} as {name}");
        let loaded = programs.get(program).ok_or_else(|| io::ErrorKind::NotFound.into()).on(doing)?;
        let old = self.existing(name).and_then(|old| sys::fact(old.as_fd(), "prog_id"));
        if old == Some(loaded.id) {
            return Ok(());
        }
        let attach = || clsact::attach(&programs.path(program), &if_indextoname(ifindex)?.to_string_lossy());
        self.namespace.run(|| attach().on(doing))?;
        if old.is_some() {
            fs::remove_file(self.dir.join(name)).on(doing)?;
        }
        sys::pin(loaded.fd.as_fd(), &self.dir.join(name)).on(doing)
    }

    /// Whether what is pinned as `name` is at work on this device.
    fn is_at(&self, name: &str, ifindex: u32) -> bool {
        let Some(pinned) = self.existing(name) else { return false };
        match self.hook {
            TcHook::Tcx => sys::fact(pinned.as_fd(), "ifindex") == Some(u64::from(ifindex)),
            TcHook::Clsact => self.namespace.run(|| if_indextoname(ifindex).on(String::new)).is_ok(),
        }
    }

    /// Makes the pinned link `name` run `program` at `target`. One that is there already, as `here` tells, is kept and
    /// given the program of this version.
    fn link(
        &self,
        programs: &Programs,
        program: &str,
        name: &str,
        target: u32,
        attach_type: u32,
        here: impl Fn(&OwnedFd) -> bool,
    ) -> EbpfResult<()> {
        let doing = || format!("attach {program} as {name}");
        let Loaded { fd, id } = programs.get(program).ok_or_else(|| io::ErrorKind::NotFound.into()).on(doing)?;
        if let Some(old) = self.existing(name) {
            if here(&old) {
                if sys::fact(old.as_fd(), "prog_id") != Some(*id) {
                    sys::swap(old.as_fd(), fd.as_fd()).on(doing)?;
                }
                return Ok(());
            }
            self.remove(name)?;
        }
        let link = self.namespace.run(|| sys::link(fd.as_fd(), target, attach_type).on(doing))?;
        sys::pin(link.as_fd(), &self.dir.join(name)).on(doing)
    }

    fn existing(&self, name: &str) -> Option<OwnedFd> {
        sys::open_pin(&self.dir.join(name)).ok()
    }

    /// Detaches everything.
    pub(super) fn remove_all(&self) -> EbpfResult<()> {
        self.names()?.iter().try_for_each(|name| self.remove(name))
    }

    fn remove(&self, name: &str) -> EbpfResult<()> {
        // Both fail where the device is gone, and with it the attachment.
        if let Some(link) = self.existing(name) {
            let _ = sys::detach(link.as_fd());
        }
        if let (TcHook::Clsact, Some(ifindex)) = (self.hook, device_of(name)) {
            let detach = || clsact::detach(&if_indextoname(ifindex)?.to_string_lossy());
            let _ = self.namespace.run(|| detach().on(String::new));
        }
        match fs::remove_file(self.dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).on(|| format!("detach {name}")),
            _ => Ok(()),
        }
    }

    fn names(&self) -> EbpfResult<Vec<String>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.on(|| format!("list {}", self.dir.display()))?,
        };
        Ok(entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect())
    }
}

/// Program and interface of a pin that [`Attachments::node`] made.
fn node_device(name: &str) -> Option<(&str, u32)> {
    let (program, ifindex) = name.split_once('@')?;
    let ours = ["overlay", "entry", "entry_bridge", "entry_lo"].contains(&program);
    Some((program, ifindex.parse().ok()?)).filter(|_| ours)
}

fn device_of(name: &str) -> Option<u32> {
    node_device(name).map(|(_, ifindex)| ifindex).or_else(|| Attachment::parse(name).map(|a| a.ifindex))
}

fn if_indextoname(ifindex: u32) -> io::Result<CString> {
    Ok(nix::net::if_::if_indextoname(ifindex)?)
}

// === impl Attachment ===

impl Attachment {
    fn pin_name(&self) -> String {
        format!("link@{}@{}@{}", self.vni, self.ifindex, self.sandbox)
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("link@")?.splitn(3, '@');
        let vni = parts.next()?.parse().ok()?;
        let ifindex = parts.next()?.parse().ok()?;
        Some(Self { sandbox: parts.next()?.to_owned(), vni, ifindex })
    }
}
