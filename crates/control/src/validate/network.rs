//! A network's name, options and IPAM.

use std::{fmt::Display, net::IpAddr};

use ipnet::IpNet;
use malha_model::{ApiError, ApiResult, Code, IpamConfig, NetworkSpec};

use super::name;
use crate::allocator::{VNI_OPTION, is_edge, overlap, parse_list};

const PREDEFINED_LABEL: &str = "com.docker.swarm.predefined";
const MTU_OPTION: &str = "com.docker.network.driver.mtu";
/// What the tunnel's headers take of the underlay's MTU, and the least that IPv4 wants.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 68 + 50..=65535;

pub(crate) fn network(spec: &NetworkSpec) -> ApiResult<()> {
    if spec.attachable && spec.ingress {
        return Err(ApiError::invalid("ingress network cannot be attachable"));
    }
    name(&spec.name)?;
    if spec.labels.contains_key(PREDEFINED_LABEL) {
        let text = format!(
            "label {PREDEFINED_LABEL} is for internally created predefined networks and cannot be applied by users"
        );
        return Err(ApiError::rpc(Code::PermissionDenied, text));
    }
    match spec.driver.as_str() {
        "overlay" | "" => {}
        other if spec.ingress => return Err(ApiError::unsupported(format!("an ingress network of driver {other}"))),
        other => return Err(ApiError::unsupported(format!("a swarm network of driver {other}"))),
    }
    if !matches!(spec.ipam.driver.as_str(), "" | "default") {
        return Err(ApiError::unsupported(format!("IPAM driver {}", spec.ipam.driver)));
    }
    options(spec)?;
    let v6 = |c: &IpamConfig| matches!(c.subnet, Some(IpNet::V6(_)));
    if spec.enable_ipv6 || spec.ipam.config.iter().any(v6) {
        return Err(ApiError::unsupported("IPv6 on overlay networks"));
    }
    ipam(&spec.ipam.config)
}

fn options(spec: &NetworkSpec) -> ApiResult<()> {
    if let Some(value) = spec.options.get("encrypted") {
        match value.as_str() {
            "" | "true" | "1" => return Err(ApiError::unsupported("an encrypted overlay network")),
            "false" | "0" => {}
            other => return Err(ApiError::invalid(format!("invalid value \"{other}\" for option encrypted"))),
        }
    }
    if let Some(value) = spec.options.get(MTU_OPTION)
        && !value.parse::<u32>().is_ok_and(|mtu| MTU_RANGE.contains(&mtu))
    {
        return Err(ApiError::invalid(format!("invalid value \"{value}\" for option {MTU_OPTION}")));
    }
    spec.options.get(VNI_OPTION).map_or(Ok(()), |list| parse_list(list).map(drop))
}

/// All that is wrong at once, as the engine lists it.
fn ipam(configs: &[IpamConfig]) -> ApiResult<()> {
    let mut errors: Vec<String> = configs.iter().flat_map(config_errors).collect();
    for (i, a) in configs.iter().enumerate() {
        for b in &configs[i + 1..] {
            if let (Some(a), Some(b)) = (a.subnet, b.subnet)
                && overlap(&a, &b)
            {
                errors.push(format!("subnets {a} and {b} overlap"));
            }
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    let text = format!("invalid network config:\n{}", errors.join("\n"));
    Err(ApiError::plain(Code::InvalidArgument, text))
}

/// In the smallest subnets every address is a host's (RFC 3021, RFC 6164).
fn has_edges(subnet: IpNet) -> bool {
    subnet.max_prefix_len() - subnet.prefix_len() > 1
}

fn config_errors(config: &IpamConfig) -> Vec<String> {
    let mut errors = Vec::new();
    let Some(subnet) = config.subnet else {
        if config.ip_range.is_some() || config.gateway.is_some() || !config.auxiliary_addresses.is_empty() {
            errors.push("ip-range, gateway and auxiliary addresses need a subnet".to_owned());
        }
        return errors;
    };
    if subnet.trunc() != subnet {
        errors.push(format!("invalid subnet {subnet}: it should be {}", subnet.trunc()));
    }
    let base = subnet.network();
    if base.is_multicast() || base.is_loopback() || base.is_unspecified() {
        errors.push(format!("invalid subnet {subnet}: its addresses are not for hosts"));
    }
    if let Some(gateway) = config.gateway.filter(|g| has_edges(subnet) && is_edge(subnet, *g)) {
        errors.push(format!("invalid gateway {gateway}: not an address for a host in subnet {subnet}"));
    }
    if let Some(range) = config.ip_range {
        let invalid = |why: &dyn Display| format!("invalid ip-range {range}: {why}");
        if range.prefix_len() < subnet.prefix_len() {
            errors.push(invalid(&format_args!("CIDR block is bigger than its parent subnet {subnet}")));
        }
        if !subnet.contains(&range.addr()) {
            errors.push(invalid(&format_args!("parent subnet {subnet} doesn't contain ip-range")));
        }
        if range.trunc() != range {
            errors.push(invalid(&format_args!("it should be {}", range.trunc())));
        }
    }
    let outside = |what: &str, addr: IpAddr| {
        let text = format!("invalid {what} {addr}: parent subnet {subnet} doesn't contain this address");
        (!subnet.contains(&addr)).then_some(text)
    };
    errors.extend(config.gateway.and_then(|g| outside("gateway", g)));
    errors.extend(config.auxiliary_addresses.values().filter_map(|a| outside("auxiliary address", *a)));
    errors
}
