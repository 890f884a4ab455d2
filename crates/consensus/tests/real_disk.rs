//! The redb file: durable, private, and honest when it is damaged or full.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers may panic as tests do")]

mod common;

use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write as _},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use common::{add, has, object};
use malha_consensus::{
    Config, Consensus, Leadership, RaftTransport, RedbStorage, Storage, StorageError, TransportError, UpdateError,
    Write,
};
use malha_kit::{Rng, SystemClock};
use malha_model::NodeId;
use malha_store::Change;
use parking_lot::Mutex;
use tempfile::TempDir;

/// Members of this process, by address.
#[derive(Clone, Default)]
struct Local(Arc<Mutex<std::collections::BTreeMap<String, Consensus>>>);

#[async_trait]
impl RaftTransport for Local {
    async fn send(&self, _: &NodeId, addr: &str, message: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        let member = self.0.lock().get(addr).cloned();
        match member {
            Some(member) => Ok(member.handle(&message).await),
            None => Err(TransportError::Unreachable(addr.to_owned())),
        }
    }
}

impl Local {
    async fn start(&self, name: &str, file: &Path) -> Consensus {
        let config = Config::new(name.into(), name.to_owned(), Rng::from_os(), Arc::new(SystemClock));
        let storage = RedbStorage::open(file).await.unwrap();
        let consensus = Consensus::start(config, storage, Arc::new(self.clone())).await.unwrap();
        self.0.lock().insert(name.to_owned(), consensus.clone());
        consensus
    }
}

async fn stop(local: &Local, name: &str) {
    let member = local.0.lock().remove(name).unwrap();
    member.shutdown().await;
}

async fn filled(dir: &Path) -> PathBuf {
    let file = dir.join("raft.redb");
    let local = Local::default();
    let a = local.start("a", &file).await;
    a.bootstrap(vec![Change::Put(object("first"))]).await.unwrap();
    for n in 0..50 {
        add(&a, &format!("n{n}")).await.unwrap();
    }
    stop(&local, "a").await;
    file
}

/// Takes a snapshot and waits until the member has it.
async fn snapshot(member: &Consensus) {
    member.snapshot().await.unwrap();
    let taken = async {
        while member.status().snapshot == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), taken).await.expect("no snapshot");
}

/// The file can be opened once nothing of the member is left.
async fn reopen(file: &Path) -> Result<RedbStorage, StorageError> {
    let start = Instant::now();
    loop {
        match RedbStorage::open(file).await {
            Err(StorageError::InUse { .. }) if start.elapsed() < Duration::from_secs(5) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            result => return result,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_finds_everything() {
    let dir = TempDir::new().unwrap();
    let file = filled(dir.path()).await;
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    drop(reopen(&file).await.unwrap());

    let local = Local::default();
    let a = local.start("a", &file).await;
    a.leadership().wait_for(Leadership::is_leader).await.unwrap();
    assert_eq!(a.state().borrow().nodes().count(), 51);
    snapshot(&a).await;
    add(&a, "after").await.unwrap();
    stop(&local, "a").await;
    drop(a);
    drop(reopen(&file).await.unwrap());

    let a = local.start("a", &file).await;
    a.leadership().wait_for(Leadership::is_leader).await.unwrap();
    assert_eq!(a.state().borrow().nodes().count(), 52);
    assert!(a.status().snapshot > 0);
    stop(&local, "a").await;
}

#[tokio::test]
async fn one_file_has_one_owner() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("raft.redb");
    let _owner = RedbStorage::open(&file).await.unwrap();
    assert!(matches!(RedbStorage::open(&file).await, Err(StorageError::InUse { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_named_and_never_read_as_truth() {
    let dir = TempDir::new().unwrap();
    let file = filled(dir.path()).await;
    drop(reopen(&file).await.unwrap());
    let intact = fs::read(&file).unwrap();
    let want = RedbStorage::open(&file).await.unwrap().load().await.unwrap();

    let refused = |result: Result<RedbStorage, StorageError>, what: &str| match result {
        Err(StorageError::Corrupt { path, .. }) => assert_eq!(path, file, "{what}"),
        Err(other) => panic!("{what}: {other}"),
        Ok(_) => panic!("{what}: accepted"),
    };
    fs::write(&file, b"this is no database").unwrap();
    refused(RedbStorage::open(&file).await, "text");
    for part in [1, 10, 50, 90] {
        fs::write(&file, &intact[..intact.len() * part / 100]).unwrap();
        refused(RedbStorage::open(&file).await, &format!("{part} % of the file"));
    }
    // a flipped bit is either in unused space or found
    let mut found = 0;
    for at in (0..intact.len()).step_by(intact.len() / 97) {
        fs::write(&file, &intact).unwrap();
        let mut handle = fs::OpenOptions::new().read(true).write(true).open(&file).unwrap();
        let mut byte = [0];
        handle.seek(SeekFrom::Start(at as u64)).unwrap();
        handle.read_exact(&mut byte).unwrap();
        handle.seek(SeekFrom::Start(at as u64)).unwrap();
        handle.write_all(&[byte[0] ^ 0x10]).unwrap();
        drop(handle);
        match RedbStorage::open(&file).await {
            Err(StorageError::Corrupt { .. }) => found += 1,
            Err(other) => panic!("bit at {at}: {other}"),
            Ok(storage) => match storage.load().await {
                Ok(loaded) => assert_eq!(loaded, want, "bit at {at} changed what was read"),
                Err(StorageError::Corrupt { .. }) => found += 1,
                Err(other) => panic!("bit at {at}: {other}"),
            },
        }
    }
    println!("{found} of 97 flipped bits hit something");
    assert!(found > 0);
}

#[tokio::test]
async fn writes_are_kept_in_order_and_whole() {
    let dir = TempDir::new().unwrap();
    let storage = RedbStorage::open(dir.path().join("raft.redb")).await.unwrap();
    let entry = |text: &'static str| Bytes::from_static(text.as_bytes());
    let append = |index, text| Write::Append { index, entry: entry(text) };
    storage.commit((1..=9).map(|n| append(n, "old")).collect()).await.unwrap();
    let rest = vec![
        Write::Vote(entry("vote")),
        Write::Truncate { from: 6 },
        append(6, "new"),
        Write::Purge { upto: 3, marker: entry("three") },
        Write::Snapshot { meta: entry("meta"), data: entry("data") },
        Write::Committed(entry("committed")),
    ];
    storage.commit(rest).await.unwrap();
    let stored = storage.load().await.unwrap();
    assert_eq!(stored.log, vec![(4, entry("old")), (5, entry("old")), (6, entry("new"))]);
    assert_eq!(stored.purged, Some(entry("three")));
    assert_eq!((stored.vote, stored.committed), (Some(entry("vote")), Some(entry("committed"))));
    assert_eq!(storage.read_snapshot().await.unwrap(), Some((entry("meta"), entry("data"))));
}

/// A file system of its own, gone with the value.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(bytes: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let size = format!("size={bytes}");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), dir.path(), Some("tmpfs"), flags, Some(size.as_str())).unwrap();
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_and_needs_no_restart() {
    let disk = SmallDisk::new(4 << 20);
    let file = disk.0.path().join("raft.redb");
    let ballast = disk.0.path().join("ballast");
    let local = Local::default();
    let a = local.start("a", &file).await;
    a.bootstrap(vec![Change::Put(object("first"))]).await.unwrap();
    add(&a, "before").await.unwrap();

    // somebody else fills it
    let mut filler = fs::File::create(&ballast).unwrap();
    while filler.write_all(&[0; 4096]).is_ok() {}
    let mut acknowledged = 0;
    let failure = loop {
        let mut big = malha_model::Node { id: format!("n{acknowledged}").into(), ..Default::default() };
        big.status.message = "x".repeat(50_000);
        let plan = |tx: &mut malha_store::Tx| {
            tx.put(big);
            Ok::<_, String>(())
        };
        match a.update(plan).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 200, "the disk never became full");
    };
    assert!(
        matches!(failure, UpdateError::Storage { error: StorageError::DiskFull { .. }, proposed: true }),
        "{failure:?}"
    );
    let refused = add(&a, "refused").await;
    assert!(matches!(refused, Err(UpdateError::Storage { error: StorageError::DiskFull { .. }, proposed: false })));
    assert!(a.state().borrow().nodes().count() >= 2 + acknowledged);

    drop(filler);
    fs::remove_file(&ballast).unwrap();
    let start = Instant::now();
    while a.status().disk.is_some() {
        assert!(start.elapsed() < Duration::from_secs(10), "it did not recover: {:?}", a.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    add(&a, "after").await.unwrap();
    stop(&local, "a").await;
    drop(a);
    drop(reopen(&file).await.unwrap());
    let a = local.start("a", &file).await;
    a.leadership().wait_for(Leadership::is_leader).await.unwrap();
    let state = a.state().borrow().clone();
    assert!(has(&state, "before") && has(&state, "after") && !has(&state, "refused"));
    assert!((0..acknowledged).all(|n| has(&state, &format!("n{n}"))));
    stop(&local, "a").await;
    drop(a);
    drop(reopen(&file).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throughput_on_this_disk() {
    let dir = TempDir::new().unwrap();
    let local = Local::default();
    let a = local.start("a", &dir.path().join("a.redb")).await;
    a.bootstrap(vec![Change::Put(object("first"))]).await.unwrap();
    for name in ["b", "c"] {
        local.start(name, &dir.path().join(name)).await;
        a.add_manager(name.into(), name.to_owned()).await.unwrap();
    }
    let mut times = Vec::new();
    for n in 0..300 {
        let start = Instant::now();
        add(&a, &format!("n{n}")).await.unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    let total: Duration = times.iter().sum();
    println!(
        "three members, one update at a time: p50 {:?}, p99 {:?}, {:.0}/s",
        times[150],
        times[297],
        300.0 / total.as_secs_f64()
    );
    for name in ["a", "b", "c"] {
        stop(&local, name).await;
    }
}

/// Nobody may write the file, whoever has it open, until this is dropped.
struct Immutable(PathBuf);

impl Immutable {
    fn new(file: &Path) -> Self {
        Self::set("+i", file);
        Self(file.to_owned())
    }

    fn set(flag: &str, file: &Path) {
        let status = std::process::Command::new("chattr").arg(flag).arg(file).status().unwrap();
        assert!(status.success(), "chattr {flag} {}", file.display());
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        Self::set("-i", &self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_disk_stops_the_member_and_a_fresh_start_has_all_that_was_acknowledged() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("raft.redb");
    let local = Local::default();
    let a = local.start("a", &file).await;
    a.bootstrap(vec![Change::Put(object("first"))]).await.unwrap();
    for n in 0..20 {
        add(&a, &format!("n{n}")).await.unwrap();
    }
    snapshot(&a).await;
    add(&a, "behind the snapshot").await.unwrap();

    let broken = Immutable::new(&file);
    let failure = add(&a, "lost").await.unwrap_err();
    assert!(matches!(failure, UpdateError::Storage { error: StorageError::Io { .. }, .. }), "{failure:?}");
    let start = Instant::now();
    while !a.status().stopped {
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", a.status());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(matches!(a.status().disk, Some(StorageError::Io { .. })));
    stop(&local, "a").await;
    drop(a);
    assert!(matches!(RedbStorage::open_afresh(&file).await, Err(StorageError::Io { .. })), "still broken");

    drop(broken);
    drop(RedbStorage::open_afresh(&file).await.unwrap());
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["raft.redb"]);
    let a = local.start("a", &file).await;
    a.leadership().wait_for(Leadership::is_leader).await.unwrap();
    let state = a.state().borrow().clone();
    assert!((0..20).all(|n| has(&state, &format!("n{n}"))) && has(&state, "behind the snapshot"));
    assert!(a.status().snapshot > 0);
    add(&a, "after").await.unwrap();
    stop(&local, "a").await;
}
