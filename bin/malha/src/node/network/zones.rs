//! The zones that the node's name server answers from: one for each network, put together for each sandbox.

use std::{collections::BTreeMap, sync::Arc};

use malha_model::{NetworkId, NetworkView};
use malha_netplan::{NetZone, Zone, build_net_zone, build_zone};

use super::Sandbox;

/// Zones of networks, shared by all sandboxes on them.
#[derive(Default)]
pub(super) struct Zones(BTreeMap<NetworkId, Built>);

/// A zone and what it was built from.
struct Built {
    view: Arc<NetworkView>,
    ingress: Option<Arc<NetworkView>>,
    zone: Arc<NetZone>,
}

impl Zones {
    /// Rebuilds the zones whose views changed; the others stay as they are.
    pub(super) fn refresh(&mut self, views: &BTreeMap<NetworkId, Arc<NetworkView>>) {
        let ingress = views.values().find(|v| v.network.spec.ingress);
        self.0.retain(|id, _| views.contains_key(id));
        for (id, view) in views {
            let same_ingress = |built: &Built| match (&built.ingress, ingress) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (a, b) => a.is_none() && b.is_none(),
            };
            if self.0.get(id).is_some_and(|built| Arc::ptr_eq(&built.view, view) && same_ingress(built)) {
                continue;
            }
            let zone = Arc::new(build_net_zone(view, ingress.map(AsRef::as_ref)));
            self.0.insert(id.clone(), Built { view: view.clone(), ingress: ingress.cloned(), zone });
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn of(&self, sandbox: &Sandbox) -> Arc<Zone> {
        let on = sandbox.networks.iter();
        let zones: BTreeMap<NetworkId, Arc<NetZone>> =
            on.filter_map(|id| self.0.get(id).map(|built| (id.clone(), built.zone.clone()))).collect();
        Arc::new(build_zone(sandbox.networks.iter(), &zones, &sandbox.resolver, sandbox.plan.gwbridge))
    }
}
