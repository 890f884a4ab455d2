//! What can go wrong while the kernel's objects are made.

use std::io;

use malha_model::Protocol;

/// One step that the kernel refused, or a state of the node that leaves no way on.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// `what` says what was being done to which object.
    #[error("{what}: {source}")]
    Kernel { what: String, source: io::Error },
    #[error("nftables refused the rules: {0}")]
    Nft(String),
    #[error("{what} is not as a plan may be: {why}")]
    BadPlan { what: String, why: String },
    #[error("{name} exists and is not a {expected}")]
    WrongKind { name: String, expected: &'static str },
    #[error("no free subnet for {bridge}: all of {pools} overlap routes of this node")]
    NoSubnet { bridge: String, pools: String },
    #[error("no free address on {bridge}")]
    NoAddress { bridge: String },
    /// By the routing mesh, a task or another container.
    #[error("Bind for 0.0.0.0:{port} failed: port is already allocated")]
    PortAllocated { port: u16 },
    /// By a process of the node.
    #[error("failed to bind host port 0.0.0.0:{port}/{protocol}: address already in use")]
    PortInUse { port: u16, protocol: Protocol },
    /// The packet programs could not be attached or told.
    #[error("packet programs: {0}")]
    Programs(String),
    /// Several steps of a removal failed; each was tried.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Many(Vec<NetError>),
}

pub type NetResult<T> = Result<T, NetError>;

/// Says of a failed system call what it was for.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> NetResult<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> NetResult<T> {
        self.map_err(|source| NetError::Kernel { what: what(), source })
    }
}

impl<T> Doing<T> for Result<T, rtnetlink::Error> {
    fn doing(self, what: impl FnOnce() -> String) -> NetResult<T> {
        self.map_err(|e| NetError::Kernel { what: what(), source: netlink_io(e) })
    }
}

impl<T> Doing<T> for nix::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> NetResult<T> {
        self.map_err(|e| NetError::Kernel { what: what(), source: e.into() })
    }
}

/// The kernel's error number where there is one.
fn netlink_io(e: rtnetlink::Error) -> io::Error {
    match e {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

// === impl NetError ===

impl NetError {
    /// The kernel said that the object is not there.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Kernel { source, .. } => {
                source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(libc::ENODEV)
            }
            _ => false,
        }
    }

    /// `Ok` where nothing failed, the one error, or all of them.
    pub fn collect(mut errors: Vec<Self>) -> NetResult<()> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Many(errors)),
        }
    }
}
