//! Attaching to devices on kernels before 6.6, which have no TCX: a filter of the clsact qdisc.
//!
//! A filter lives with its device and needs nobody to hold it, so nothing of it can be pinned. The program is pinned in
//! the place of the link, and its name says as much as a link's would.

use std::{io, path::Path};

use aya::{
    programs::{
        ProgramError, SchedClassifier, TcAttachType,
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
    util::KernelVersion,
};

/// How programs are attached to devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcHook {
    /// Kernel 6.6 and later.
    Tcx,
    Clsact,
}

impl TcHook {
    /// The best one that this kernel has.
    pub fn of_kernel() -> Self {
        let tcx = KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(6, 6, 0));
        if tcx { Self::Tcx } else { Self::Clsact }
    }
}

/// Where our filter is among others on the device.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// Puts the program pinned at `program` on the receive side of a device, in the place of ours that may be there.
pub(super) fn attach(program: &Path, ifname: &str) -> io::Result<()> {
    let _ = tc::qdisc_add_clsact(ifname); // there already, or the next step says what is wrong
    let mut program = SchedClassifier::from_pin(program).map_err(io::Error::other)?;
    let link = match program.attach_to_link(ours(ifname)?) {
        Ok(link) => link,
        Err(_) => create(&mut program, ifname).map_err(io::Error::other)?,
    };
    let link = program.take_link(link).map_err(io::Error::other)?;
    // A link of this kind detaches when it is dropped; the filter is to stay.
    std::mem::forget(link);
    Ok(())
}

pub(super) fn detach(ifname: &str) -> io::Result<()> {
    ours(ifname).map(drop)
}

fn create(
    program: &mut SchedClassifier,
    ifname: &str,
) -> Result<aya::programs::tc::SchedClassifierLinkId, ProgramError> {
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    program.attach_with_options(ifname, TcAttachType::Ingress, TcAttachOptions::Netlink(options))
}

fn ours(ifname: &str) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(ifname, TcAttachType::Ingress, PRIORITY, HANDLE, None)
}
