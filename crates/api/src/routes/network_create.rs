//! `POST /networks/create`: Docker's checks in Docker's order, then a network of the swarm or of this machine.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use malha_model::{
    ApiError, ApiResult, Code, ControlRequest, ControlResponse, IpamConfig, IpamSpec, Labels, NetworkId, NetworkSpec,
};
use serde::Deserialize;

use super::network_lookup;
use crate::{
    backend::{CreateNetwork, LocalState},
    errors,
    http::query::bad,
    json::nullable,
    state::{Api, unexpected},
};

/// The body. Addresses are text here, so that what is wrong with them is told in Docker's words.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Request {
    name: String,
    driver: String,
    scope: String,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: Option<bool>,
    #[serde(rename = "IPAM", deserialize_with = "nullable")]
    ipam: Ipam,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_only: bool,
    config_from: Option<ConfigFrom>,
    #[serde(deserialize_with = "nullable")]
    options: Labels,
    #[serde(deserialize_with = "nullable")]
    labels: Labels,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigFrom {
    network: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    driver: String,
    options: Option<Labels>,
    #[serde(deserialize_with = "nullable")]
    config: Vec<Subnet>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Subnet {
    subnet: String,
    #[serde(rename = "IPRange")]
    ip_range: String,
    gateway: String,
    #[serde(rename = "AuxiliaryAddresses", deserialize_with = "nullable")]
    auxiliary_addresses: BTreeMap<String, String>,
}

/// Names that nobody may take.
pub(super) const PREDEFINED: &[&str] = &["bridge", "host", "none", "default"];

/// Creates the network and returns its id.
pub(super) async fn create(api: &Api, request: Request) -> ApiResult<String> {
    if request.name.trim().is_empty() {
        return Err(bad("invalid network name: name is empty"));
    }
    let existing = network_lookup::all(api).await?;
    if PREDEFINED.contains(&request.name.as_str()) {
        return Err(forbidden(format!("{} is a pre-defined network and cannot be created", request.name)));
    }
    if existing.iter().any(|k| k.name() == request.name) {
        return Err(ApiError::plain(Code::AlreadyExists, format!("network with name {} already exists", request.name)));
    }
    let config = ipam_config(&request.ipam.config)?;
    check_features(&request)?;
    let driver = if request.driver.is_empty() { "bridge" } else { &request.driver };
    let ipam = IpamSpec { driver: "default".into(), options: request.ipam.options.clone(), config };
    match (driver, request.scope.as_str()) {
        ("overlay", "" | "swarm" | "global") => create_in_swarm(api, request, ipam).await,
        ("overlay", "local") => Err(forbidden("cannot downgrade network scope for overlay networks")),
        ("overlay", scope) => Err(bad(format!("overlay networks have swarm scope, not \"{scope}\""))),
        (other, "swarm") => Err(ApiError::unsupported(format!("a {other} network of swarm scope"))),
        ("bridge", _) => create_here(api, request, ipam).await,
        ("host" | "null", _) => Err(forbidden(format!("only one instance of \"{driver}\" network is allowed"))),
        (other, _) => Err(ApiError::plain(
            Code::NotFound,
            format!("could not find plugin {other} in v1 plugin registry: plugin \"{other}\" not found"),
        )),
    }
}

fn forbidden(text: impl Into<String>) -> ApiError {
    ApiError::plain(Code::PermissionDenied, text)
}

fn check_features(request: &Request) -> ApiResult<()> {
    if request.config_only || request.config_from.as_ref().is_some_and(|c| !c.network.is_empty()) {
        return Err(ApiError::unsupported("a configuration-only network (--config-only, --config-from)"));
    }
    if !matches!(request.ipam.driver.as_str(), "" | "default") {
        return Err(ApiError::unsupported(format!("the IPAM driver \"{}\"", request.ipam.driver)));
    }
    if request.ingress && request.driver != "overlay" {
        return Err(ApiError::unsupported("an ingress network of a driver other than overlay"));
    }
    Ok(())
}

async fn create_in_swarm(api: &Api, request: Request, ipam: IpamSpec) -> ApiResult<String> {
    let node = api.cluster.info().await;
    if node.state == LocalState::Inactive {
        return Err(errors::not_in_swarm_mode().with_status(403));
    }
    if !node.control_available {
        return Err(forbidden(
            "Cannot create a multi-host network from a worker node. Please create the network from a manager node.",
        ));
    }
    if request.enable_ipv4 == Some(false) {
        return Err(bad("IPv4 cannot be disabled in a Swarm scoped network"));
    }
    let spec = NetworkSpec {
        name: request.name,
        labels: request.labels,
        driver: "overlay".into(),
        options: request.options,
        enable_ipv6: request.enable_ipv6.unwrap_or(false),
        internal: request.internal,
        attachable: request.attachable,
        ingress: request.ingress,
        ipam,
    };
    match api.cluster.control(ControlRequest::NetworkCreate { spec }).await? {
        ControlResponse::NetworkCreated { id } => Ok(NetworkId::to_string(&id)),
        other => Err(unexpected(&other)),
    }
}

async fn create_here(api: &Api, request: Request, ipam: IpamSpec) -> ApiResult<String> {
    let request = CreateNetwork {
        name: request.name,
        driver: "bridge".into(),
        enable_ipv4: request.enable_ipv4.unwrap_or(true),
        enable_ipv6: request.enable_ipv6.unwrap_or(false),
        ipam,
        internal: request.internal,
        attachable: request.attachable,
        options: request.options,
        labels: request.labels,
    };
    api.engine.create_network(request).await
}

/// All that is wrong with the subnets, in one error.
fn ipam_config(subnets: &[Subnet]) -> ApiResult<Vec<IpamConfig>> {
    let mut wrong = Vec::new();
    let mut config = Vec::new();
    for s in subnets {
        match s.subnet.parse::<IpNet>() {
            Ok(subnet) => config.push(check_subnet(s, subnet, &mut wrong)),
            Err(_) => wrong.push(format!("invalid subnet {}: invalid CIDR block notation", s.subnet)),
        }
    }
    match &wrong[..] {
        [] => Ok(config),
        [one] => Err(bad(format!("invalid network config:\n{one}"))),
        many => Err(bad(format!("invalid network config:\n* {}", many.join("\n* ")))),
    }
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn check_subnet(s: &Subnet, subnet: IpNet, wrong: &mut Vec<String>) -> IpamConfig {
    if subnet != subnet.trunc() {
        wrong.push(format!("invalid subnet {subnet}: it should be {}", subnet.trunc()));
    }
    let ip_range = check_range(&s.ip_range, subnet, wrong);
    let mut address = |text: &str, what: String| match check_address(text, subnet) {
        Ok(ip) => ip,
        Err(why) => {
            wrong.push(format!("invalid {what}: {why}"));
            None
        }
    };
    let gateway = address(&s.gateway, format!("gateway {}", s.gateway));
    let auxiliary = s
        .auxiliary_addresses
        .iter()
        .filter_map(|(name, text)| address(text, format!("auxiliary address {name}")).map(|ip| (name.clone(), ip)));
    let auxiliary_addresses = auxiliary.collect();
    IpamConfig { subnet: Some(subnet.trunc()), ip_range, gateway, auxiliary_addresses }
}

fn check_range(text: &str, subnet: IpNet, wrong: &mut Vec<String>) -> Option<IpNet> {
    if text.is_empty() {
        return None;
    }
    let Ok(range) = text.parse::<IpNet>() else {
        wrong.push(format!("invalid ip-range {text}: invalid CIDR block notation"));
        return None;
    };
    if family(range.addr()) != family(subnet.addr()) {
        wrong.push(format!("invalid ip-range {text}: parent subnet is an {} block", family(subnet.addr())));
        return None;
    }
    if range.prefix_len() < subnet.prefix_len() {
        wrong.push(format!("invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}"));
    }
    if range != range.trunc() {
        wrong.push(format!("invalid ip-range {range}: it should be {}", range.trunc()));
    }
    if !subnet.contains(&range.network()) && !range.contains(&subnet.network()) {
        wrong.push(format!("invalid ip-range {text}: parent subnet {subnet} doesn't contain ip-range"));
    }
    Some(range.trunc())
}

fn check_address(text: &str, subnet: IpNet) -> Result<Option<IpAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let ip: IpAddr = text.parse().map_err(|_| "invalid address".to_owned())?;
    if family(ip) != family(subnet.addr()) {
        return Err(format!("parent subnet is an {} block", family(subnet.addr())));
    }
    if !subnet.contains(&ip) {
        return Err(format!("parent subnet {subnet} doesn't contain this address"));
    }
    Ok(Some(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(subnet: &str, range: &str, gateway: &str) -> String {
        let s = Subnet {
            subnet: subnet.into(),
            ip_range: range.into(),
            gateway: gateway.into(),
            auxiliary_addresses: BTreeMap::new(),
        };
        ipam_config(&[s]).unwrap_err().message.replace("invalid network config:\n", "")
    }

    #[test]
    fn addresses_are_refused_in_dockers_words() {
        assert_eq!(refused("10.0.9.1/24", "", ""), "invalid subnet 10.0.9.1/24: it should be 10.0.9.0/24");
        assert_eq!(refused("10.0.9/24", "", ""), "invalid subnet 10.0.9/24: invalid CIDR block notation");
        assert_eq!(
            refused("10.0.9.0/24", "10.0.0.0/16", ""),
            "invalid ip-range 10.0.0.0/16: CIDR block is bigger than its parent subnet 10.0.9.0/24"
        );
        assert_eq!(
            refused("10.0.9.0/24", "10.1.9.128/25", "10.2.0.1"),
            "* invalid ip-range 10.1.9.128/25: parent subnet 10.0.9.0/24 doesn't contain ip-range\n\
             * invalid gateway 10.2.0.1: parent subnet 10.0.9.0/24 doesn't contain this address"
        );
        assert_eq!(refused("10.0.9.0/24", "", "fd00::1"), "invalid gateway fd00::1: parent subnet is an IPv4 block");
        assert_eq!(refused("10.0.9.0/24", "", "x"), "invalid gateway x: invalid address");
    }
}
