//! `swarm.Swarm` and the swarm's part of `docker info`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use malha_model::{Cluster, Node, defaults};
use serde_json::{Value, json};
use x509_parser::pem::Pem;

use super::{extend, swarm_object};
use crate::backend::{LocalState, SwarmInfo};

/// Go's `ClusterInfo`.
pub(crate) fn info(c: &Cluster) -> Value {
    let mut map = swarm_object(c.id.as_str(), &c.meta);
    let pools: Vec<String> = match c.default_addr_pool.is_empty() {
        true => vec![defaults::DEFAULT_ADDR_POOL.into()],
        false => c.default_addr_pool.iter().map(ToString::to_string).collect(),
    };
    extend(
        &mut map,
        json!({
            "Spec": c.spec,
            "TLSInfo": tls_info(&c.root_ca.cert_pem),
            "RootRotationInProgress": false,
            "DefaultAddrPool": pools,
            "SubnetSize": if c.subnet_size == 0 { defaults::SUBNET_SIZE } else { c.subnet_size },
            "DataPathPort": if c.data_path_port == 0 { defaults::DATA_PATH_PORT } else { c.data_path_port },
        }),
    );
    map.into()
}

/// With the join tokens, for `GET /swarm`.
pub(crate) fn swarm(c: &Cluster) -> Value {
    let mut value = info(c);
    value["JoinTokens"] = json!({ "Worker": c.root_ca.worker_token, "Manager": c.root_ca.manager_token });
    value
}

fn tls_info(pem: &str) -> Value {
    let subject_and_key = Pem::iter_from_buffer(pem.as_bytes()).next().and_then(Result::ok).and_then(|pem| {
        let cert = pem.parse_x509().ok()?;
        Some((STANDARD.encode(cert.subject().as_raw()), STANDARD.encode(cert.public_key().raw)))
    });
    match subject_and_key {
        Some((subject, key)) => {
            json!({ "TrustRoot": pem, "CertIssuerSubject": subject, "CertIssuerPublicKey": key })
        }
        None => json!({ "TrustRoot": pem }),
    }
}

/// What the leader adds to a manager's own knowledge.
pub(crate) struct ManagerView {
    pub(crate) cluster: Cluster,
    pub(crate) nodes: Vec<Node>,
}

const TWO_MANAGERS: &str = "\
WARNING: Running Swarm in a two-manager configuration. This configuration provides
         no fault tolerance, and poses a high risk to lose control over the cluster.
         Refer to https://docs.docker.com/engine/swarm/admin_guide/ to configure the
         Swarm for fault-tolerance.";

/// `Swarm` of `docker info`.
pub(crate) fn swarm_info(local: &SwarmInfo, view: Option<&ManagerView>) -> Value {
    let managers = match local.remote_managers.is_empty() {
        true => Value::Null,
        false => json!(local.remote_managers),
    };
    let mut value = json!({
        "NodeID": local.node_id,
        "NodeAddr": local.node_addr,
        "LocalNodeState": local.state,
        "ControlAvailable": local.control_available,
        "Error": local.error,
        "RemoteManagers": managers,
    });
    if let Some(view) = view {
        value["Nodes"] = json!(view.nodes.len());
        value["Managers"] = json!(manager_count(view));
        value["Cluster"] = info(&view.cluster);
        if manager_count(view) == 2 {
            value["Warnings"] = json!([TWO_MANAGERS]);
        }
    }
    value
}

fn manager_count(view: &ManagerView) -> usize {
    view.nodes.iter().filter(|n| n.manager.is_some()).count()
}

/// The `Swarm` header of `/_ping`.
pub(crate) fn ping_state(local: &SwarmInfo) -> &'static str {
    match (local.state, local.control_available) {
        (LocalState::Inactive, _) => "inactive",
        (LocalState::Pending, _) => "pending",
        (LocalState::Error, _) => "error",
        (LocalState::Locked, _) => "locked",
        (LocalState::Active, true) => "active/manager",
        (LocalState::Active, false) => "active/worker",
    }
}
