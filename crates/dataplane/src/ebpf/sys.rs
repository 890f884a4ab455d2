//! The few `bpf(2)` calls that aya keeps to itself: opening pins, attaching by interface number, swapping the program
//! of a link in place. A swap is atomic, so an update of the daemon loses no packet.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// `union bpf_attr`, zeroed; each call fills the front of it.
#[repr(C, align(8))]
struct Attr([u32; 32]);

fn bpf(command: libc::c_long, attr: &mut Attr) -> io::Result<i32> {
    // SAFETY: `attr` outlives the call and is larger than every part of the union that these commands read.
    #[allow(unsafe_code, reason = "no wrapper for bpf(2)")]
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<Attr>()) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc as i32) }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel just made this descriptor for us.
    #[allow(unsafe_code, reason = "descriptor from bpf(2)")]
    unsafe {
        OwnedFd::from_raw_fd(fd)
    }
}

fn path_attr(path: &CString) -> Attr {
    let mut attr = Attr([0; 32]);
    let pointer = path.as_ptr() as u64;
    attr.0[0] = pointer as u32;
    attr.0[1] = (pointer >> 32) as u32;
    attr
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Opens what is pinned at `path`.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    bpf(BPF_OBJ_GET, &mut path_attr(&path)).map(owned)
}

pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = path_attr(&path);
    attr.0[2] = fd.as_raw_fd() as u32;
    bpf(BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Attaches a program; `target` is a cgroup's descriptor or an interface number.
pub(super) fn link(program: BorrowedFd<'_>, target: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attr = Attr([0; 32]);
    attr.0[0] = program.as_raw_fd() as u32;
    attr.0[1] = target;
    attr.0[2] = attach_type;
    bpf(BPF_LINK_CREATE, &mut attr).map(owned)
}

/// Puts another program in the place of the one that the link runs.
pub(super) fn swap(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attr([0; 32]);
    attr.0[0] = link.as_raw_fd() as u32;
    attr.0[1] = program.as_raw_fd() as u32;
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches now. Closing the last descriptor does it too, but some time later.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attr([0; 32]);
    attr.0[0] = link.as_raw_fd() as u32;
    bpf(BPF_LINK_DETACH, &mut attr).map(drop)
}

/// A number that the kernel tells about a descriptor: `prog_id`, `ifindex`, `cgroup_id`.
pub(super) fn fact(fd: BorrowedFd<'_>, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().parse().ok()
}
