//! What the node's ends of container links are called, and whose they are.
//!
//! An interface name has 15 characters, a sandbox id up to 64: the name is a hash, the alias tells the truth. With both,
//! a daemon that comes back finds every link and its owner in the kernel.

use ipnet::IpNet;
use malha_netplan::SandboxId;

use crate::rtnl::Link;

/// Alias of a `docker_gwbridge` that we made.
pub(crate) const BRIDGE_ALIAS: &str = "malha gateway bridge";
const PREFIX: &str = "malha";

/// Which of its sandbox's links this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkKey {
    /// On the network of this VNI.
    Overlay(u32),
    /// On the gateway bridge, with this address.
    Gateway(IpNet),
}

/// Whose link this is: the alias of its end on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) sandbox: SandboxId,
    pub(crate) key: LinkKey,
}

impl Owner {
    /// The owner that a link names; `None` for a link that is not a container's.
    pub(crate) fn of(link: &Link) -> Option<Self> {
        let mut words = link.alias.as_deref()?.split(' ');
        if words.next() != Some(PREFIX) {
            return None;
        }
        let sandbox = words.next()?.to_owned();
        let (kind, value) = words.next()?.split_once('=')?;
        let key = match kind {
            "vni" => LinkKey::Overlay(value.parse().ok()?),
            "gw" => LinkKey::Gateway(value.parse().ok()?),
            _ => return None,
        };
        Some(Self { sandbox, key })
    }

    pub(crate) fn alias(&self) -> String {
        match &self.key {
            LinkKey::Overlay(vni) => format!("{PREFIX} {} vni={vni}", self.sandbox),
            LinkKey::Gateway(addr) => format!("{PREFIX} {} gw={addr}", self.sandbox),
        }
    }

    /// Name of the node's end.
    pub(crate) fn ifname(&self) -> String {
        // the gateway link has one name whatever its address
        let key = match &self.key {
            LinkKey::Overlay(vni) => vni.to_string(),
            LinkKey::Gateway(_) => "gw".to_owned(),
        };
        format!("mh{}", malha_model::base36(fnv1a(&[&self.sandbox, "/", &key]).into(), 13))
    }
}

/// FNV-1a, 64 bits: names must stay the same from build to build.
fn fnv1a(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|p| p.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_tells_its_owner() {
        for key in [LinkKey::Overlay(4097), LinkKey::Gateway("172.18.0.2/16".parse().unwrap())] {
            let owner = Owner { sandbox: "x".repeat(64), key };
            assert_eq!(owner.ifname().len(), 15);
            let link = Link { alias: Some(owner.alias()), ..Link::default() };
            assert_eq!(Owner::of(&link), Some(owner));
        }
        for alias in ["", "malha", BRIDGE_ALIAS, "other x vni=1", "malha x vni=y"] {
            assert_eq!(Owner::of(&Link { alias: Some(alias.into()), ..Link::default() }), None, "{alias}");
        }
    }

    #[test]
    fn names_are_stable_and_differ_by_network() {
        let name = |key| Owner { sandbox: "task".into(), key }.ifname();
        assert_eq!(name(LinkKey::Overlay(4097)), name(LinkKey::Overlay(4097)));
        assert_ne!(name(LinkKey::Overlay(4097)), name(LinkKey::Overlay(4098)));
        let gw = |addr: &str| name(LinkKey::Gateway(addr.parse().unwrap()));
        assert_eq!(gw("172.18.0.2/16"), gw("172.18.0.3/16"));
    }
}
