//! The pinned maps, opened. [`Table`] is a map that only the daemon writes: it knows what the kernel holds and writes
//! differences. [`Shared`] is one that the programs write as well.

use std::{collections::BTreeMap, path::Path};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
};

use super::{
    error::{EbpfError, EbpfResult},
    layout::{
        Addr, Backend, Connected, Counter, Datagram, DatagramKey, Endpoint, EndpointKey, Epoch, Flow, FlowKey, Front,
        Link, NetDropKey, PathRow, PeerKey, Port, RemapKey, Reply, ReplyKey, Scope, Service, Settings, Slot,
    },
};

pub(super) struct Maps {
    pub settings: Array<MapData, Settings>,
    pub epochs: Array<MapData, Epoch>,
    pub paths: Table<Addr, PathRow>,
    pub networks: Table<u32, u32>,
    pub peers: Table<PeerKey, u32>,
    pub endpoints: Table<EndpointKey, Endpoint>,
    pub links: Table<u32, Link>,
    pub services: Table<Front, Service>,
    pub backends: Table<Slot, Backend>,
    pub scopes: Table<u64, Scope>,
    pub node_addrs: Table<Addr, u32>,
    pub cursors: Shared<Front, u64>,
    pub connected: Shared<u64, Connected>,
    pub datagrams: Shared<DatagramKey, Datagram>,
    pub flows: Shared<FlowKey, Flow>,
    pub opening_flows: Shared<FlowKey, Flow>,
    pub udp_flows: Shared<FlowKey, Flow>,
    pub replies: Shared<ReplyKey, Reply>,
    pub opening_replies: Shared<ReplyKey, Reply>,
    pub udp_replies: Shared<ReplyKey, Reply>,
    pub remaps: Shared<RemapKey, Port>,
    pub udp_remaps: Shared<RemapKey, Port>,
    pub net_drops: Shared<NetDropKey, u64>,
    pub drops: PerCpuArray<MapData, Counter>,
    pub traffic: PerCpuArray<MapData, Counter>,
    /// Of the endpoint that was written last, or of the last generation.
    pub last_serial: u64,
}

impl Maps {
    pub(super) fn open(dir: &Path) -> EbpfResult<Self> {
        let endpoints = Table::<EndpointKey, Endpoint>::open(dir, "endpoints")?;
        Ok(Self {
            last_serial: endpoints.held().values().map(|e| e.serial).max().unwrap_or_default(),
            settings: typed(dir, "settings")?,
            epochs: typed(dir, "epochs")?,
            paths: Table::open(dir, "paths")?,
            networks: Table::open(dir, "networks")?,
            peers: Table::open(dir, "peers")?,
            endpoints,
            links: Table::open(dir, "links")?,
            services: Table::open(dir, "services")?,
            backends: Table::open(dir, "backends")?,
            scopes: Table::open(dir, "scopes")?,
            node_addrs: Table::open(dir, "node_addrs")?,
            cursors: Shared::open(dir, "cursors")?,
            connected: Shared::open(dir, "connected")?,
            datagrams: Shared::open(dir, "datagrams")?,
            flows: Shared::open(dir, "flows")?,
            opening_flows: Shared::open(dir, "opening_flows")?,
            udp_flows: Shared::open(dir, "udp_flows")?,
            replies: Shared::open(dir, "replies")?,
            opening_replies: Shared::open(dir, "opening_replies")?,
            udp_replies: Shared::open(dir, "udp_replies")?,
            remaps: Shared::open(dir, "remaps")?,
            udp_remaps: Shared::open(dir, "udp_remaps")?,
            net_drops: Shared::open(dir, "net_drops")?,
            drops: typed(dir, "drops")?,
            traffic: typed(dir, "traffic")?,
        })
    }
}

fn typed<T: TryFrom<Map, Error = MapError>>(dir: &Path, name: &'static str) -> EbpfResult<T> {
    let path = dir.join(name);
    let open = || MapData::from_pin(&path).and_then(Map::from_map_data).and_then(T::try_from);
    open().map_err(|e| EbpfError::OpenMap { map: name, path: path.clone(), source: Box::new(e) })
}

/// A map that only the daemon writes, and what is in it.
pub(super) struct Table<K, V> {
    name: &'static str,
    map: HashMap<MapData, K, V>,
    held: BTreeMap<K, V>,
    writes: usize,
}

impl<K: Pod + Ord, V: Pod + PartialEq> Table<K, V> {
    fn open(dir: &Path, name: &'static str) -> EbpfResult<Self> {
        let shared = Shared::<K, V>::open(dir, name)?;
        let held = shared.rows()?.into_iter().collect();
        Ok(Self { name, map: shared.map, held, writes: 0 })
    }

    pub(super) fn held(&self) -> &BTreeMap<K, V> {
        &self.held
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.held.get(key)
    }

    /// Writes unless the map says so already.
    pub(super) fn put(&mut self, key: K, value: V) -> EbpfResult<()> {
        if self.held.get(&key) == Some(&value) {
            return Ok(());
        }
        self.map.insert(key, value, 0).map_err(failed(self.name))?;
        self.held.insert(key, value);
        self.writes += 1;
        Ok(())
    }

    pub(super) fn remove(&mut self, key: &K) -> EbpfResult<()> {
        if !self.held.contains_key(key) {
            return Ok(());
        }
        absent_is_fine(self.map.remove(key)).map_err(failed(self.name))?;
        self.held.remove(key);
        self.writes += 1;
        Ok(())
    }

    /// Removes what `keep` refuses; tells what that was.
    pub(super) fn retain(&mut self, keep: impl Fn(&K) -> bool) -> EbpfResult<Vec<K>> {
        let gone: Vec<K> = self.held.keys().filter(|k| !keep(k)).copied().collect();
        gone.iter().try_for_each(|key| self.remove(key))?;
        Ok(gone)
    }

    /// Writes since the last time this was asked.
    pub(super) fn take_writes(&mut self) -> usize {
        std::mem::take(&mut self.writes)
    }
}

const RESTARTS: usize = 8;

/// A map that the kernel programs write.
pub(super) struct Shared<K, V> {
    name: &'static str,
    map: HashMap<MapData, K, V>,
}

impl<K: Pod + PartialEq, V: Pod> Shared<K, V> {
    pub(super) fn open(dir: &Path, name: &'static str) -> EbpfResult<Self> {
        Ok(Self { name, map: typed(dir, name)? })
    }

    /// What it holds now. Rows that come or go meanwhile may be missing or twice: the kernel starts over when the row
    /// that it is to go on from is gone, so a map that changes all the time is read only so often.
    pub(super) fn rows(&self) -> EbpfResult<Vec<(K, V)>> {
        let mut rows: Vec<(K, V)> = Vec::new();
        let mut restarts = 0;
        for row in self.map.iter() {
            match row {
                Ok(row) => {
                    restarts += usize::from(rows.first().is_some_and(|(first, _)| *first == row.0));
                    if restarts > RESTARTS {
                        break;
                    }
                    rows.push(row);
                }
                Err(MapError::KeyNotFound) => break,
                Err(e) => return Err(failed(self.name)(e)),
            }
        }
        Ok(rows)
    }

    pub(super) fn get(&self, key: &K) -> EbpfResult<Option<V>> {
        match self.map.get(key, 0) {
            Ok(row) => Ok(Some(row)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(e) => Err(failed(self.name)(e)),
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> EbpfResult<()> {
        absent_is_fine(self.map.remove(key)).map_err(failed(self.name))
    }
}

pub(super) fn failed(map: &'static str) -> impl Fn(MapError) -> EbpfError {
    move |e| EbpfError::Map { map, source: Box::new(e) }
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}
