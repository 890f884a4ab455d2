//! The swarm's own settings and its join tokens.

use std::{sync::Arc, time::Duration};

use malha_model::{ApiError, ApiResult, Cluster, ClusterSpec, Code, ControlResponse as Response, defaults};
use malha_store::Tx;
use serde_json::Value;

use super::check_version;
use crate::Ctx;

/// Shortest lifetime of a node certificate.
const MIN_CERT_EXPIRY: Duration = Duration::from_secs(3600);
/// The only one that a swarm has.
const NAME: &str = "default";

#[derive(Clone, Copy, Debug)]
pub(super) struct Rotate {
    pub(super) worker: bool,
    pub(super) manager: bool,
}

fn cluster(tx: &Tx) -> ApiResult<Arc<Cluster>> {
    tx.cluster().cloned().ok_or_else(|| ApiError::rpc(Code::NotFound, "cluster not found"))
}

/// The swarm as it is shown: without the root key.
fn shown(cluster: &Cluster) -> Response {
    let mut cluster = cluster.clone();
    cluster.root_ca.key_pem.clear();
    Response::Cluster(cluster)
}

pub(super) fn get(tx: &Tx) -> ApiResult<Response> {
    Ok(shown(&*cluster(tx)?))
}

pub(super) fn update(
    tx: &mut Tx,
    ctx: &mut Ctx<'_>,
    version: u64,
    mut spec: ClusterSpec,
    rotate: Rotate,
) -> ApiResult<Response> {
    // what is left out is as at the start
    if spec.name.is_empty() {
        spec.name = NAME.into();
    }
    if spec.ca_config.node_cert_expiry == 0 {
        spec.ca_config.node_cert_expiry = defaults::nanos(defaults::NODE_CERT_EXPIRY);
    }
    check_cluster_spec(&spec)?;
    let mut cluster = (*cluster(tx)?).clone();
    check_version(&cluster.meta, version)?;
    cluster.spec = spec;
    if rotate.worker {
        cluster.root_ca.worker_token = ctx.tokens.new_token(&cluster.root_ca.cert_pem)?;
    }
    if rotate.manager {
        cluster.root_ca.manager_token = ctx.tokens.new_token(&cluster.root_ca.cert_pem)?;
    }
    let answer = shown(&cluster);
    tx.put(cluster);
    Ok(answer)
}

/// Refuses what no swarm may be set to, at its start and later.
pub fn check_cluster_spec(spec: &ClusterSpec) -> ApiResult<()> {
    if spec.ca_config.node_cert_expiry < i64::try_from(MIN_CERT_EXPIRY.as_nanos()).unwrap_or(i64::MAX) {
        return Err(ApiError::invalid("minimum certificate expiry time is: 1h0m0s"));
    }
    if spec.dispatcher.heartbeat_period < 0 {
        return Err(ApiError::invalid("heartbeat time period cannot be a negative duration"));
    }
    if spec.name != NAME {
        return Err(ApiError::invalid("modification of cluster name is not allowed"));
    }
    if spec.encryption_config.auto_lock_managers {
        return Err(ApiError::unsupported("locking managers (autolock)"));
    }
    if spec.ca_config.extra.values().any(is_set) {
        return Err(ApiError::unsupported("changing the root CA"));
    }
    Ok(())
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}
