//! Network namespaces: made, kept alive by a bind mount, entered by threads of their own.
//!
//! A namespace belongs to a thread, and runtime threads are shared: nothing here ever moves one of them. Work that must
//! happen inside runs on a fresh thread that enters, does it and ends. Sockets keep the namespace they were opened in,
//! so that is also how the daemon holds sockets in many namespaces at once.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};
use tokio::sync::oneshot;

use crate::error::{Doing, NetResult};

const OWN: &str = "/proc/thread-self/ns/net";

/// An open network namespace. It lives at least as long as this value; by its path, until it is deleted.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
    path: PathBuf,
}

impl Netns {
    /// The namespace of the calling thread.
    pub fn current() -> NetResult<Self> {
        Self::open(Path::new(OWN))
    }

    pub fn open(path: &Path) -> NetResult<Self> {
        let file = File::open(path).doing(|| format!("open namespace {}", path.display()))?;
        Ok(Self { file: Arc::new(file), path: path.to_owned() })
    }

    /// A fresh namespace at `path`. Loopback is up; it forwards nothing and checks no return path, whatever the
    /// machine's first namespace does (settings are copied from there).
    pub async fn create(path: &Path) -> NetResult<Self> {
        let at = path.to_owned();
        on_thread(move || make(&at)).await.doing(|| format!("make namespace {}", path.display()))?;
        let ns = Self::open(path)?;
        let ready = async {
            let defaults = [
                ("net.ipv4.ip_forward", "0"),
                ("net.ipv4.conf.all.rp_filter", "0"),
                ("net.ipv4.conf.default.rp_filter", "0"),
            ];
            ns.set_sysctls(defaults.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec()).await?;
            crate::rtnl::Rtnl::open(&ns).await?.up("lo").await
        };
        if let Err(e) = ready.await {
            // half-made is worse than absent: the next attempt would take it for whole
            let _ = Self::delete(path);
            return Err(e);
        }
        Ok(ns)
    }

    /// Whether a namespace is kept at `path`: the file alone, left by a reboot, is none.
    pub fn exists(path: &Path) -> bool {
        nix::sys::statfs::statfs(path).is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
    }

    /// Lets go of the namespace at `path`; the kernel ends it with its last user. Absent is fine.
    pub fn delete(path: &Path) -> NetResult<()> {
        while Self::exists(path) {
            umount2(path, MntFlags::MNT_DETACH).doing(|| format!("unmount namespace {}", path.display()))?;
        }
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).doing(|| format!("remove namespace {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` on a thread inside this namespace.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let file = Arc::clone(&self.file);
        on_thread(move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })
        .await
    }

    /// The kernel's number for this namespace, never used again: what the packet programs know it by.
    pub async fn cookie(&self) -> NetResult<u64> {
        let cookie = self.run(own_cookie).await.and_then(|c| c);
        cookie.doing(|| format!("cookie of {}", self.path.display()))
    }

    /// Writes settings, dotted names as sysctl(8) has them (`/` stands for a dot inside a name).
    pub async fn set_sysctls(&self, settings: Vec<(String, String)>) -> NetResult<()> {
        let write = move || {
            settings.into_iter().try_for_each(|(name, value)| {
                fs::write(sysctl_path(&name), &value).map_err(|e| (format!("set {name}={value}"), e))
            })
        };
        let path = || self.path.display();
        match self.run(write).await.doing(|| format!("enter {}", path()))? {
            Ok(()) => Ok(()),
            Err((what, e)) => Err(e).doing(|| format!("{what} in {}", path())),
        }
    }

    pub async fn sysctl(&self, name: &str) -> NetResult<String> {
        let path = sysctl_path(name);
        let text = self.run(move || fs::read_to_string(path)).await.and_then(|r| r);
        Ok(text.doing(|| format!("read {name} in {}", self.path.display()))?.trim().to_owned())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Runs `work` on a thread of its own that ends with it.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let (tx, rx) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    thread::Builder::new().name("malha-netns".into()).spawn(move || {
        let _runtime = runtime.enter();
        let _ = tx.send(work());
    })?;
    rx.await.map_err(|_| io::Error::other("the thread in the namespace panicked"))?
}

fn make(path: &Path) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    OpenOptions::new().write(true).create_new(true).open(path)?;
    let made = unshare(CloneFlags::CLONE_NEWNET)
        .and_then(|()| mount(Some(OWN), path, None::<&str>, MsFlags::MS_BIND, None::<&str>));
    if made.is_err() {
        let _ = fs::remove_file(path);
    }
    Ok(made?)
}

fn sysctl_path(name: &str) -> PathBuf {
    let path: String = name
        .chars()
        .map(|c| {
            if c == '.' {
                '/'
            } else if c == '/' {
                '.'
            } else {
                c
            }
        })
        .collect();
    Path::new("/proc/sys").join(path)
}

#[allow(unsafe_code, reason = "no wrapper knows SO_NETNS_COOKIE")]
fn own_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` and `len` outlive the call, and `len` is the size of `cookie`.
    let rc = unsafe {
        let value = std::ptr::from_mut(&mut cookie).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, value, &raw mut len)
    };
    if rc == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
