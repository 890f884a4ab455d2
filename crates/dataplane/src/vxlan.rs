//! The node's one VXLAN device.
//!
//! All networks share it: it is `external`, so each packet carries its own VNI and peer, and the packet programs decide
//! both. A network costs map entries, not a device.

use crate::{
    error::{NetError, NetResult},
    netns::Netns,
    rtnl::{Link, Rtnl, Vxlan},
};

pub(crate) const VXLAN_DEVICE: &str = "malha0";
/// No network's MTU is above this; the size of packets is the containers' business.
const MTU: u32 = 65000;

/// The device, made or adopted. One that was made with another port (or by somebody else) is replaced.
pub(crate) async fn ensure(node: &Netns, rtnl: &Rtnl, port: u16) -> NetResult<Link> {
    let wanted = Vxlan { port, external: true, learning: false };
    match rtnl.link(VXLAN_DEVICE).await? {
        Some(link) if link.kind != "vxlan" => {
            return Err(NetError::WrongKind { name: VXLAN_DEVICE.into(), expected: "VXLAN device" });
        }
        Some(link) if link.vxlan.as_ref() == Some(&wanted) => {}
        Some(_) => {
            rtnl.delete_link(VXLAN_DEVICE).await?;
            rtnl.add_vxlan(VXLAN_DEVICE, port, MTU).await?;
        }
        None => rtnl.add_vxlan(VXLAN_DEVICE, port, MTU).await?,
    }
    // it has no address and speaks to nobody by itself; absent where the kernel has no IPv6
    let _ = node.set_sysctls(vec![(format!("net.ipv6.conf.{VXLAN_DEVICE}.disable_ipv6"), "1".into())]).await;
    rtnl.up(VXLAN_DEVICE).await?;
    let made = rtnl.link(VXLAN_DEVICE).await?;
    made.ok_or(NetError::WrongKind { name: VXLAN_DEVICE.into(), expected: "VXLAN device" })
}
