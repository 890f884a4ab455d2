//! `docker swarm join`: a certificate for a token, then a session.

use std::{net::IpAddr, sync::Arc, time::Duration};

use malha_agent::Link;
use malha_api::{backend::JoinRequest, errors};
use malha_model::{ApiError, ApiResult, Code};
use tokio::time::sleep;
use tracing::{debug, info};

use super::{
    Swarm, address,
    init::Addresses,
    member::{ASK_PAUSE, Member, UNAVAILABLE},
    saved::{self, Saved},
};

/// Docker's. A node that has its certificate goes on trying by itself after that.
const JOIN_LIMIT: Duration = Duration::from_secs(20);

impl Swarm {
    pub(super) async fn join_cluster(&self, request: JoinRequest) -> ApiResult<()> {
        let _changing = self.changing.lock().await;
        if self.member().is_some() {
            return Err(errors::already_in_a_swarm());
        }
        if request.remote_addrs.is_empty() {
            return Err(ApiError::plain(Code::InvalidArgument, "at least 1 RemoteAddr is required to join"));
        }
        let remotes: Vec<String> = request.remote_addrs.iter().map(|a| with_port(a)).collect();
        let (listen, advertise) = (&request.listen_addr, &request.advertise_addr);
        // an address that is named goes first anyway
        let facing = if advertise.is_empty() { facing_any(&remotes).await } else { None };
        let addresses = Addresses::of(self, listen, advertise, &request.data_path_addr, facing)?;
        let joining =
            malha_wire::join(&remotes, &request.join_token, request.availability, Some(&self.dir), &self.deps.tasks);
        let joined = match tokio::time::timeout(JOIN_LIMIT, joining).await {
            Ok(Ok(joined)) => joined,
            Ok(Err(e)) => {
                self.abandon().await;
                return Err(e.into());
            }
            Err(_) => {
                self.abandon().await;
                return Err(errors::join_unanswered());
            }
        };
        let saved = Saved {
            listen: addresses.listen,
            advertise: addresses.advertise,
            data_path: addresses.data_path,
            data_path_port: joined.data_path_port,
            managers: remotes,
            subnets: joined.subnets,
        };
        saved::save(&self.dir, &saved)?;
        let member = Member::start(&self.deps, self.dir.clone(), saved, Arc::new(joined.tls))
            .await
            .map_err(|e| ApiError::internal(format!("{e:#}")));
        let member = match member {
            Ok(member) => member,
            Err(e) => {
                self.abandon().await;
                return Err(e);
            }
        };
        // From here on the node is a member: whatever is still missing it goes on trying by itself.
        self.current.store(Some(member.clone()));
        // without the limit: a manager that is left half started would keep its log open
        member.resume_role().await.map_err(|e| ApiError::internal(format!("{e:#}")))?;
        let becoming = async {
            // with a session it knows the leader, who alone gives seats
            member.wait_ready().await?;
            member.take_seat().await
        };
        match tokio::time::timeout(JOIN_LIMIT, becoming).await {
            Ok(result) => result,
            Err(_) => Err(errors::join_timeout()),
        }
    }
}

impl Member {
    /// Asks for a seat, where this node is to be a manager, until there is a leader to give it.
    async fn take_seat(&self) -> ApiResult<()> {
        loop {
            let asked = {
                let _one = self.role_change.lock().await;
                self.join_managers().await
            };
            match asked {
                Err(e) if e.http_status() == UNAVAILABLE => {
                    debug!(error = %e, "no seat yet; asking again");
                    sleep(ASK_PAUSE).await;
                }
                done => return done,
            }
        }
    }

    /// Waits for the agent's session with the leader.
    pub(super) async fn wait_ready(&self) -> ApiResult<()> {
        let mut link = self.agent.link();
        let connected = link.wait_for(|l| matches!(l, Link::Connected { .. }));
        match tokio::time::timeout(JOIN_LIMIT, connected).await {
            Ok(Ok(_)) => {
                info!(node = %self.node, "session with the leader stands");
                Ok(())
            }
            _ => Err(errors::join_timeout()),
        }
    }
}

/// This machine's address towards the first of the managers that there is a way to.
async fn facing_any(remotes: &[String]) -> Option<IpAddr> {
    for remote in remotes {
        if let Some(ip) = address::facing(remote).await {
            return Some(ip);
        }
    }
    None
}

/// A manager's address without a port means the default one.
fn with_port(addr: &str) -> String {
    if addr.parse::<std::net::SocketAddr>().is_ok() {
        return addr.to_owned();
    }
    if let Ok(ip) = addr.trim_matches(['[', ']']).parse::<IpAddr>() {
        return std::net::SocketAddr::new(ip, malha_model::defaults::CONTROL_PORT).to_string();
    }
    match addr.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => addr.to_owned(),
        _ => format!("{addr}:{}", malha_model::defaults::CONTROL_PORT),
    }
}
