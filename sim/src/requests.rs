//! What users ask for.

use malha_kit::Rng;
use malha_model::{
    Availability, EndpointSpec, Kind, NetworkAttachmentConfig, NetworkSpec, PortConfig, Protocol, PublishMode,
    ServiceSpec,
};
use malha_simcluster::service;
use rand::Rng as _;

use crate::ledger::REV;

#[derive(Clone, Debug)]
pub(crate) enum Wish {
    CreateNetwork(NetworkSpec),
    CreateService(ServiceSpec),
    ChangeService(String, Change),
    Remove(Kind, String),
    SetAvailability(String, Availability),
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Scale(u64),
    Redeploy,
    Publish,
    Network(String),
}

/// What there is, for wishes to refer to.
pub(crate) struct Known {
    pub networks: Vec<String>,
    pub services: Vec<String>,
    pub nodes: Vec<String>,
}

/// `number` makes names differ; it is the rev of what is created.
pub(crate) fn draw(dice: &mut Rng, known: &Known, number: u64) -> Wish {
    let one = |dice: &mut Rng, of: &[String]| (!of.is_empty()).then(|| of[dice.random_range(0..of.len())].clone());
    let roll = dice.random_range(0..20);
    let wish = match roll {
        0 | 1 if known.networks.len() < 4 => Some(create_network(number)),
        2 => one(dice, &known.networks).map(|id| Wish::Remove(Kind::Network, id)),
        3..=9 => one(dice, &known.services).map(|id| Wish::ChangeService(id, change(dice, known))),
        10 | 11 => one(dice, &known.services).map(|id| Wish::Remove(Kind::Service, id)),
        12 | 13 => one(dice, &known.nodes).map(|id| {
            let to = if dice.random_ratio(1, 3) { Availability::Drain } else { Availability::Active };
            Wish::SetAvailability(id, to)
        }),
        _ => None,
    };
    wish.unwrap_or_else(|| create_service(dice, known, number))
}

pub(crate) fn create_network(number: u64) -> Wish {
    let mut spec =
        NetworkSpec { name: format!("net{number}"), driver: "overlay".into(), attachable: true, ..Default::default() };
    spec.labels.insert(REV.to_owned(), number.to_string());
    Wish::CreateNetwork(spec)
}

fn create_service(dice: &mut Rng, known: &Known, number: u64) -> Wish {
    let mut spec = service(&format!("s{number}"), dice.random_range(0..5), &[]);
    spec.labels.insert(REV.to_owned(), number.to_string());
    for id in &known.networks {
        if dice.random_ratio(1, 2) {
            let aliases = if dice.random_ratio(1, 3) { vec![format!("alias{number}")] } else { Vec::new() };
            let attachment = NetworkAttachmentConfig { target: id.clone(), aliases, ..Default::default() };
            spec.task_template.networks.push(attachment);
        }
    }
    if dice.random_ratio(1, 8) {
        spec.mode.replicated = None;
        spec.mode.global = Some(Default::default());
    }
    let endpoint = match dice.random_range(0..10) {
        0..=2 => published(0, PublishMode::Ingress),
        // few ports, so that some are asked for twice
        3 | 4 => published(8080 + dice.random_range(0..4), PublishMode::Ingress),
        5 => published(7000 + u16::try_from(number % 1000).unwrap_or_default(), PublishMode::Host),
        6 => EndpointSpec { mode: "dnsrr".into(), ports: Vec::new() },
        _ => EndpointSpec::default(),
    };
    if endpoint.ports.iter().any(|p| p.publish_mode == PublishMode::Host)
        && let Some(replicated) = &mut spec.mode.replicated
    {
        // one per node is all that fits, and some nodes may be drained
        replicated.replicas = Some(2);
    }
    spec.endpoint_spec = Some(endpoint);
    Wish::CreateService(spec)
}

fn published(published_port: u16, publish_mode: PublishMode) -> EndpointSpec {
    let port =
        PortConfig { protocol: Protocol::Tcp, target_port: 80, published_port, publish_mode, ..Default::default() };
    EndpointSpec { mode: String::new(), ports: vec![port] }
}

fn change(dice: &mut Rng, known: &Known) -> Change {
    match dice.random_range(0..8) {
        0..=3 => Change::Scale(dice.random_range(0..7)),
        4 | 5 => Change::Redeploy,
        6 => Change::Publish,
        _ if known.networks.is_empty() => Change::Redeploy,
        _ => Change::Network(known.networks[dice.random_range(0..known.networks.len())].clone()),
    }
}

impl Change {
    /// Applied to what the user read before.
    pub(crate) fn apply(&self, spec: &mut ServiceSpec) {
        let host = |p: &PortConfig| p.publish_mode == PublishMode::Host;
        let bound = spec.endpoint_spec.as_ref().is_some_and(|e| e.ports.iter().any(host));
        match self {
            Self::Scale(replicas) => {
                if let Some(replicated) = spec.mode.replicated.as_mut().filter(|_| !bound) {
                    replicated.replicas = Some(*replicas);
                }
            }
            Self::Redeploy => spec.task_template.force_update += 1,
            Self::Publish => {
                let dnsrr = spec.endpoint_spec.as_ref().is_some_and(|e| e.mode == "dnsrr");
                if !dnsrr && !bound {
                    spec.endpoint_spec = Some(published(0, PublishMode::Ingress));
                }
            }
            Self::Network(id) => {
                let networks = &mut spec.task_template.networks;
                if networks.iter().any(|n| n.target == *id) {
                    networks.retain(|n| n.target != *id);
                } else {
                    networks.push(NetworkAttachmentConfig { target: id.clone(), ..Default::default() });
                }
            }
        }
    }
}

impl std::fmt::Display for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::CreateNetwork(spec) => write!(f, "create network {}", spec.name),
            Self::CreateService(spec) => {
                let replicas = spec.mode.replicated.as_ref().and_then(|r| r.replicas);
                let networks = spec.task_template.networks.len();
                write!(f, "create service {} ×{replicas:?} on {networks} networks", spec.name)?;
                for port in spec.endpoint_spec.iter().flat_map(|e| &e.ports) {
                    write!(f, ", publish {} ({:?})", port.published_port, port.publish_mode)?;
                }
                Ok(())
            }
            Self::ChangeService(id, change) => write!(f, "update service {id}: {change:?}"),
            Self::Remove(kind, id) => write!(f, "remove {kind:?} {id}"),
            Self::SetAvailability(id, to) => write!(f, "set node {id} {to:?}"),
        }
    }
}
