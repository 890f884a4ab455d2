//! The compiled programs, and how they get into the kernel: once per version, then pinned.
//!
//! A daemon that returns finds the programs of its own version where it pinned them and loads nothing. Another version
//! loads beside the old one, shares its maps, and takes over link by link.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{Ebpf, EbpfLoader, programs::Program};

use super::{
    error::{EbpfError, EbpfResult, While},
    sys,
};

macro_rules! object {
    ($name:literal, $($program:literal),+) => {
        Object {
            name: $name,
            bytes: aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/", $name, ".o")),
            programs: &[$($program),+],
        }
    };
}

struct Object {
    name: &'static str,
    bytes: &'static [u8],
    programs: &'static [&'static str],
}

fn objects() -> [Object; 4] {
    [
        object!("endpoint", "endpoint"),
        object!("overlay", "overlay"),
        object!("ingress", "entry", "entry_bridge", "entry_lo"),
        object!(
            "sock",
            "connect4",
            "connect6",
            "sendmsg4",
            "sendmsg6",
            "recvmsg4",
            "recvmsg6",
            "getpeername4",
            "getpeername6",
            "released"
        ),
    ]
}

/// Tables of published flows, and which part of the capacity they have.
const FLOW_TABLES: [(&str, u32); 6] =
    [("flows", 1), ("replies", 1), ("udp_flows", 2), ("udp_replies", 2), ("opening_flows", 4), ("opening_replies", 4)];

/// The programs of this build, in the kernel.
pub(super) struct Programs {
    dir: PathBuf,
    open: BTreeMap<&'static str, Loaded>,
}

pub(super) struct Loaded {
    pub fd: OwnedFd,
    pub id: u64,
}

impl Programs {
    /// Opens the pinned programs of this version, or loads and pins them. `flows` sizes the flow tables where they do
    /// not exist yet.
    pub(super) fn open(maps: &Path, programs: &Path, flows: u32) -> EbpfResult<Self> {
        let dir = programs.join(version());
        if let Some(open) = pinned(&dir) {
            return Ok(Self { dir, open });
        }
        remove_dir(&dir)?; // what a load that was interrupted left
        fs::create_dir_all(&dir).on(|| format!("make {}", dir.display()))?;
        for object in objects() {
            load(&object, maps, &dir, flows)?;
        }
        let open = pinned(&dir).ok_or_else(|| EbpfError::Io {
            what: format!("open the programs in {}", dir.display()),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        Ok(Self { dir, open })
    }

    /// Where a program is pinned.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Loaded> {
        self.open.get(name)
    }

    /// Unpins other versions. Where a link still runs one, it lives on.
    pub(super) fn forget_others(programs: &Path) -> EbpfResult<()> {
        let own = version();
        for entry in fs::read_dir(programs).on(|| format!("list {}", programs.display()))?.flatten() {
            if entry.file_name().to_str() != Some(&own) {
                remove_dir(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Names the programs by content, so that any change of them is a new version.
fn version() -> String {
    let mut hasher = DefaultHasher::new();
    for object in objects() {
        object.bytes.hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

fn pinned(dir: &Path) -> Option<BTreeMap<&'static str, Loaded>> {
    let mut open = BTreeMap::new();
    for name in objects().iter().flat_map(|o| o.programs) {
        let fd = sys::open_pin(&dir.join(name)).ok()?;
        let id = sys::fact(fd.as_fd(), "prog_id")?;
        open.insert(*name, Loaded { fd, id });
    }
    Some(open)
}

fn load(object: &Object, maps: &Path, dir: &Path, flows: u32) -> EbpfResult<()> {
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(maps);
    for (table, share) in FLOW_TABLES {
        loader.map_max_entries(table, flows / share);
    }
    let mut ebpf =
        loader.load(object.bytes).map_err(|e| EbpfError::Load { object: object.name, source: Box::new(e) })?;
    for name in object.programs {
        let program = pick(&mut ebpf, name)?;
        let failed = |e| EbpfError::Program { program: name, source: Box::new(e) };
        match program {
            Program::SchedClassifier(p) => p.load().map_err(failed)?,
            Program::CgroupSockAddr(p) => p.load().map_err(failed)?,
            Program::CgroupSock(p) => p.load().map_err(failed)?,
            other => return Err(failed(unexpected(other))),
        }
        let fd = program.fd().map_err(failed)?;
        let path: PathBuf = dir.join(name);
        sys::pin(fd.as_fd(), &path).on(|| format!("pin {}", path.display()))?;
    }
    Ok(())
}

fn pick<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> EbpfResult<&'a mut Program> {
    ebpf.program_mut(name).ok_or_else(|| EbpfError::Io {
        what: format!("find program {name} in its object"),
        source: std::io::ErrorKind::NotFound.into(),
    })
}

fn unexpected(_: &Program) -> aya::programs::ProgramError {
    aya::programs::ProgramError::UnexpectedProgramType
}

/// Unpins maps of other layouts. They go with the last program that uses them.
pub(super) fn forget_other_maps(own: &Path) -> EbpfResult<()> {
    let Some(dir) = own.parent() else { return Ok(()) };
    for entry in fs::read_dir(dir).on(|| format!("list {}", dir.display()))?.flatten() {
        if entry.path() != own && entry.file_name().to_string_lossy().starts_with("maps-") {
            remove_dir(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_dir(dir: &Path) -> EbpfResult<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).on(|| format!("remove {}", dir.display())),
        _ => Ok(()),
    }
}
