//! A container's attachment as the API shows it.

use std::collections::BTreeMap;

use malha_api::backend::{EndpointIpam, EndpointSettings};
use malha_model::{Network, NetworkAttachment};
use sha2::{Digest, Sha256};

pub(super) fn host_network() -> BTreeMap<String, EndpointSettings> {
    [("host".to_owned(), EndpointSettings::default())].into()
}

/// Docker's 64-digit id of an endpoint; derived, so that it is the same whenever it is asked for.
pub(crate) fn endpoint_id(sandbox: &str, network: &str) -> String {
    let digest = Sha256::digest(format!("{sandbox}/{network}"));
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) fn endpoint_settings(sandbox: &str, network: &Network, attachment: &NetworkAttachment) -> EndpointSettings {
    let v4 = attachment.addresses.iter().find(|a| a.addr().is_ipv4());
    let v6 = attachment.addresses.iter().find(|a| a.addr().is_ipv6());
    let text = |a: &ipnet::IpNet| a.addr().to_string();
    let mac = attachment.addresses.first().map(|a| malha_netplan::mac_of(a.addr()).to_string());
    EndpointSettings {
        ipam_config: Some(EndpointIpam {
            ipv4_address: v4.map(text).unwrap_or_default(),
            ipv6_address: v6.map(text).unwrap_or_default(),
            link_local_ips: Vec::new(),
        }),
        mac_address: mac.unwrap_or_default(),
        network_id: network.id.to_string(),
        endpoint_id: endpoint_id(sandbox, network.id.as_str()),
        ip_address: v4.map(text).unwrap_or_default(),
        ip_prefix_len: v4.map(ipnet::IpNet::prefix_len).unwrap_or_default(),
        global_ipv6_address: v6.map(text).unwrap_or_default(),
        global_ipv6_prefix_len: v6.map(ipnet::IpNet::prefix_len).unwrap_or_default(),
        ..EndpointSettings::default()
    }
}
