//! `docker swarm init`: a new swarm with this node as its first manager.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use malha_api::{backend::InitRequest, errors};
use malha_manager::{NewSwarm, NewSwarmConfig, new_swarm};
use malha_model::{ApiError, ApiResult, ClusterSpec, Code, NodeDescription, NodeId, NodeRoute, defaults};
use malha_pki::{NodeKey, TlsMaterial};
use tracing::warn;

use super::{
    Swarm, address,
    member::{Member, occupied},
    saved::{self, Saved},
};
use crate::node::engine::host;

impl Swarm {
    pub(super) async fn init_cluster(&self, request: InitRequest) -> ApiResult<NodeId> {
        let _changing = self.changing.lock().await;
        if self.member().is_some() && !request.force_new_cluster {
            return Err(errors::already_in_a_swarm());
        }
        if request.force_new_cluster {
            return Err(ApiError::unsupported("docker swarm init --force-new-cluster"));
        }
        if request.auto_lock_managers || request.spec.encryption_config.auto_lock_managers {
            return Err(ApiError::unsupported("docker swarm init --autolock"));
        }
        // as an update would be checked, and before anything is made
        let spec = spec_with_defaults(request.spec);
        malha_control::check_cluster_spec(&spec)?;
        let (listen, advertise) = (&request.listen_addr, &request.advertise_addr);
        let addresses = Addresses::of(self, listen, advertise, &request.data_path_addr, None)?;
        let data_path_port = data_path_port(request.data_path_port)?;
        let routes = self.deps.net.routes().await.map_err(ApiError::internal)?;
        let (pools, subnet_size) = pools(&request.default_addr_pool, request.subnet_size, &routes)?;
        let now = self.deps.clock.now();
        let config = NewSwarmConfig {
            spec,
            availability: request.availability,
            description: NodeDescription { routes, ..host::description(&self.deps.config) },
            default_addr_pool: pools.clone(),
            subnet_size,
            data_path_port,
        };
        let new = new_swarm(config, now, &mut self.deps.rng.clone())?;
        let node = new.node.clone();
        let key = NodeKey::generate()?;
        let certificate = new.issue(&key.request_pem()?, now)?;
        let tls = TlsMaterial::create(Some(&self.dir), new.root().clone(), &key, &certificate)?;
        let saved = Saved {
            listen: addresses.listen,
            advertise: addresses.advertise,
            data_path: addresses.data_path,
            data_path_port,
            managers: vec![addresses.advertise.to_string()],
            subnets: pools,
        };
        match self.first_manager(saved, Arc::new(tls), new).await {
            Ok(member) => {
                self.current.store(Some(member));
                Ok(node)
            }
            Err(e) => {
                self.abandon().await;
                Err(e)
            }
        }
    }

    async fn first_manager(&self, saved: Saved, tls: Arc<TlsMaterial>, new: NewSwarm) -> ApiResult<Arc<Member>> {
        saved::save(&self.dir, &saved)?;
        let member = Member::start(&self.deps, self.dir.clone(), saved, tls)
            .await
            .map_err(|e| ApiError::internal(format!("{e:#}")))?;
        let started = async {
            member.start_first_manager(new).await?;
            member.wait_ready().await
        };
        if let Err(e) = started.await {
            member.stop().await;
            return Err(e);
        }
        Ok(member)
    }

    /// Undoes a membership that did not come about.
    pub(super) async fn abandon(&self) {
        if let Err(e) = self.deps.net.close(occupied(&self.deps.runtime)).await {
            warn!(error = %e, "cannot undo the node's network");
        }
        if let Err(e) = saved::clear(&self.dir) {
            warn!(error = %e, "cannot undo the membership");
        }
    }
}

/// What the user's address options come to on this machine.
pub(super) struct Addresses {
    pub(super) listen: SocketAddr,
    pub(super) advertise: SocketAddr,
    pub(super) data_path: IpAddr,
}

impl Addresses {
    /// `facing` is this machine's address towards the managers, where it joins some.
    pub(super) fn of(
        swarm: &Swarm,
        listen: &str,
        advertise: &str,
        data_path: &str,
        facing: Option<IpAddr>,
    ) -> ApiResult<Self> {
        let interfaces = address::interfaces()?;
        let listen = address::listen(listen, &interfaces)?;
        let default = swarm.deps.config.default_advertise_addr.as_deref();
        let advertise = address::advertise(advertise, default, listen, facing, &interfaces)?;
        let data_path = address::data_path(data_path, advertise, &interfaces)?;
        Ok(Self { listen, advertise, data_path })
    }
}

fn invalid(text: String) -> ApiError {
    ApiError::plain(Code::InvalidArgument, text)
}

fn data_path_port(asked: u32) -> ApiResult<u16> {
    match u16::try_from(asked) {
        Ok(0) => Ok(defaults::DATA_PATH_PORT),
        Ok(port) if (1024..=49151).contains(&port) => Ok(port),
        _ => Err(invalid("Data path port must be set between 1024 and 49151".into())),
    }
}

/// A pool may hold what the node reaches by itself: networks are cut beside it. One that lies within leaves nothing.
fn pools(asked: &[String], size: u32, routes: &[NodeRoute]) -> ApiResult<(Vec<IpNet>, u8)> {
    let size = if size == 0 { u32::from(defaults::SUBNET_SIZE) } else { size };
    let size = u8::try_from(size)
        .ok()
        .filter(|s| (1..=29).contains(s))
        .ok_or_else(|| invalid(format!("subnet size is out of range: {size}")))?;
    let asked = if asked.is_empty() { vec![defaults::DEFAULT_ADDR_POOL.to_owned()] } else { asked.to_vec() };
    let mut pools: Vec<IpNet> = Vec::new();
    for text in &asked {
        let pool: IpNet = text.parse().map_err(|_| invalid(format!("invalid CIDR address: {text}")))?;
        let pool = pool.trunc();
        if pool.prefix_len() > size {
            return Err(invalid(format!("subnet size {size} is larger than the pool {pool}")));
        }
        if let Some(other) = pools.iter().find(|p| p.contains(&pool) || pool.contains(*p)) {
            return Err(invalid(format!("default address pools {other} and {pool} overlap")));
        }
        if let Some(route) = routes.iter().find(|r| r.subnet.contains(&pool)) {
            return Err(invalid(format!("default address pool {pool} lies in the route {route} of this node")));
        }
        pools.push(pool);
    }
    Ok((pools, size))
}

/// The CLI sends zeros for what the user did not set.
fn spec_with_defaults(spec: ClusterSpec) -> ClusterSpec {
    let mut out = defaults::cluster_spec();
    out.labels = spec.labels;
    if let Some(limit) = spec.orchestration.task_history_retention_limit {
        out.orchestration.task_history_retention_limit = Some(limit);
    }
    if spec.raft.snapshot_interval > 0 {
        out.raft.snapshot_interval = spec.raft.snapshot_interval;
    }
    if let Some(kept) = spec.raft.keep_old_snapshots {
        out.raft.keep_old_snapshots = Some(kept);
    }
    // a negative one is refused, not overlooked
    if spec.dispatcher.heartbeat_period != 0 {
        out.dispatcher.heartbeat_period = spec.dispatcher.heartbeat_period;
    }
    if spec.ca_config.node_cert_expiry != 0 {
        out.ca_config.node_cert_expiry = spec.ca_config.node_cert_expiry;
    }
    out.extra = spec.extra;
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_completed_and_then_checked_as_an_update_is() {
        let checked = |set: &dyn Fn(&mut ClusterSpec)| {
            let mut spec = ClusterSpec::default();
            set(&mut spec);
            malha_control::check_cluster_spec(&spec_with_defaults(spec))
        };
        assert!(checked(&|_| {}).is_ok());
        let short = checked(&|s| s.ca_config.node_cert_expiry = 600_000_000_000).unwrap_err();
        assert!(short.message.contains("minimum certificate expiry time is: 1h0m0s"), "{short}");
        assert!(checked(&|s| s.dispatcher.heartbeat_period = -1).is_err());
    }

    #[test]
    fn pools_must_be_apart_and_large_enough() {
        let apart = |asked: &[&str], size| pools(&asked.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>(), size, &[]);
        assert_eq!(apart(&[], 0).unwrap().1, 24);
        assert!(apart(&["10.0.0.0/8", "10.9.0.0/16"], 24).unwrap_err().message.contains("overlap"));
        assert!(apart(&["10.0.0.0/28"], 24).is_err());
        assert!(apart(&[], 30).unwrap_err().message.contains("out of range"));
        let underlay = [NodeRoute { subnet: "10.7.0.0/16".parse().unwrap(), device: "eth0".into() }];
        let refused = pools(&["10.8.0.0/16".into(), "10.7.1.0/24".into()], 24, &underlay).unwrap_err();
        assert_eq!(refused.http_status(), 400);
        assert_eq!(
            refused.message,
            "default address pool 10.7.1.0/24 lies in the route 10.7.0.0/16 (eth0) of this node"
        );
        for around in [&[][..], &["10.0.0.0/8".into()]] {
            assert_eq!(pools(around, 24, &underlay).unwrap().0.len(), 1, "networks are cut beside it");
        }
        assert_eq!(data_path_port(0).unwrap(), 4789);
        assert!(data_path_port(80).is_err() && data_path_port(70_000).is_err());
    }
}
