//! From what the kernel holds to what a plan wants, by the smallest number of writes and in an order in which every
//! packet meets a state that was or will be right: what others refer to is written first and removed last.

use std::collections::BTreeSet;

use super::{
    error::EbpfResult,
    layout::{Addr, Backend, Endpoint, EndpointKey, Front, Service, Slot},
    maps::Maps,
    tables::{Rows, arrange},
};

/// What one `apply` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Rows written or removed.
    pub writes: usize,
    /// Addresses that no longer lead where they led.
    pub gone: usize,
    /// Sockets ended because their backend is gone.
    pub sockets: usize,
}

/// An address of a network that lost its owner.
pub(super) type Gone = BTreeSet<(u32, Addr)>;

impl Maps {
    /// What lost its owner is in `gone`, also where it ends in an error: nobody will be told of it again.
    pub(super) fn apply(&mut self, rows: &Rows, gone: &mut Gone) -> EbpfResult<()> {
        for (vni, flags) in &rows.networks {
            self.networks.put(*vni, *flags)?;
        }
        for (peer, flags) in &rows.peers {
            self.peers.put(*peer, *flags)?;
        }
        for (key, row) in &rows.endpoints {
            if self.put_endpoint(*key, *row)? {
                gone.insert((key.vni, key.addr));
            }
        }
        for (front, (vni, backends)) in &rows.services {
            self.put_service(*front, *vni, backends)?;
        }
        let services: Vec<Front> = self.services.held().keys().copied().collect();
        for front in services.into_iter().filter(|f| !rows.services.contains_key(f)) {
            self.remove_service(front)?;
        }
        let held = self.endpoints.held().keys().copied();
        for key in held.filter(|k| !rows.endpoints.contains_key(k)).collect::<Vec<_>>() {
            self.endpoints.remove(&key)?;
            gone.insert((key.vni, key.addr));
        }
        self.peers.retain(|k| rows.peers.contains_key(k))?;
        self.networks.retain(|k| rows.networks.contains_key(k)).map(drop)
    }

    /// Writes an endpoint. A new owner of the address gets a serial of its own, which makes everything stale that
    /// remembers the old one. True when there was another owner.
    pub(super) fn put_endpoint(&mut self, key: EndpointKey, row: Endpoint) -> EbpfResult<bool> {
        let held = self.endpoints.get(&key);
        if held.is_some_and(|h| h.is_as(&row)) {
            return Ok(false);
        }
        let replaced = held.is_some();
        let serial = self.next_serial();
        self.endpoints.put(key, Endpoint { serial, ..row })?;
        Ok(replaced)
    }

    /// Grows as long as the machine runs, across daemons.
    pub(super) fn next_serial(&mut self) -> u64 {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .map(|t| std::time::Duration::from(t).as_nanos() as u64)
            .unwrap_or_default();
        self.last_serial = now.max(self.last_serial + 1);
        self.last_serial
    }

    /// Slots first, then their number, then the slots that are past it.
    fn put_service(&mut self, front: Front, vni: u32, wanted: &BTreeSet<Backend>) -> EbpfResult<()> {
        let old = self.backends_of(front);
        let new = arrange(&old, wanted);
        for (slot, backend) in slots(front, 0).zip(&new) {
            self.backends.put(slot, *backend)?;
        }
        self.services.put(front, Service { count: new.len() as u32, vni })?;
        self.remove_slots(front, new.len())
    }

    fn remove_service(&mut self, front: Front) -> EbpfResult<()> {
        self.services.remove(&front)?;
        self.remove_slots(front, 0)?;
        self.cursors.remove(&front)
    }

    fn remove_slots(&mut self, front: Front, from: usize) -> EbpfResult<()> {
        let past: Vec<Slot> = self.slots_held(front, from).map(|(slot, _)| slot).collect();
        past.iter().try_for_each(|slot| self.backends.remove(slot))
    }

    fn backends_of(&self, front: Front) -> Vec<Backend> {
        let count = self.services.get(&front).map_or(0, |s| s.count) as usize;
        self.slots_held(front, 0).take(count).map(|(_, backend)| backend).collect()
    }

    fn slots_held(&self, front: Front, from: usize) -> impl Iterator<Item = (Slot, Backend)> {
        let range = Slot { front, index: from as u32 }..=Slot { front, index: u32::MAX };
        self.backends.held().range(range).map(|(slot, backend)| (*slot, *backend))
    }

    pub(super) fn take_writes(&mut self) -> usize {
        self.networks.take_writes()
            + self.peers.take_writes()
            + self.endpoints.take_writes()
            + self.services.take_writes()
            + self.backends.take_writes()
    }
}

fn slots(front: Front, from: u32) -> impl Iterator<Item = Slot> {
    (from..).map(move |index| Slot { front, index })
}
