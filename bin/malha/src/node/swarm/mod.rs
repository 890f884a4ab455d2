//! This node's membership: none, or one [`Member`] with its agent and, on managers, its manager.
//!
//! `init`, `join` and `leave` are one at a time; everything else reads the current member and never waits for them. What
//! a member is lies in `<data root>/swarm` and is taken up again by [`Swarm::load`].

mod address;
mod changes;
mod cluster_port;
mod events;
mod health;
mod init;
mod join;
mod leave;
mod member;
mod role;
mod saved;

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwapOption;
use malha_api::errors;
use malha_kit::{Rng, SharedClock, Tasks};
use malha_model::{ApiError, ApiResult, Code, ControlRequest, ControlResponse, NodeId};
use malha_pki::TlsMaterial;
use malha_runtime::Runtime;
use tokio::sync::Mutex;
use tracing::info;

use self::member::Member;
use super::{events::EventLog, network::NodeNet};
use crate::config::Config;

/// What the membership is made of.
#[derive(Clone)]
pub(crate) struct SwarmDeps {
    pub(crate) config: Arc<Config>,
    pub(crate) runtime: Runtime,
    pub(crate) net: Arc<NodeNet>,
    /// Where a manager tells what becomes of the swarm.
    pub(crate) events: Arc<EventLog>,
    pub(crate) clock: SharedClock,
    pub(crate) rng: Rng,
    pub(crate) tasks: Tasks,
}

pub(crate) struct Swarm {
    deps: SwarmDeps,
    dir: PathBuf,
    current: ArcSwapOption<Member>,
    /// Held by `init`, `join` and `leave`.
    changing: Mutex<()>,
}

impl Swarm {
    /// Takes up the membership that the state directory holds, if any.
    pub(crate) async fn load(deps: SwarmDeps) -> anyhow::Result<Arc<Self>> {
        let dir = saved::swarm_dir(&deps.config.data_root);
        let swarm = Arc::new(Self { deps, dir, current: ArcSwapOption::empty(), changing: Mutex::default() });
        let (Some(saved), Some(tls)) = (saved::load(&swarm.dir)?, TlsMaterial::load(&swarm.dir)?) else {
            // Members do so when they open their network.
            swarm.deps.net.reopen(member::occupied(&swarm.deps.runtime)).await;
            return Ok(swarm);
        };
        info!(node = %tls.certificate().identity.node, "member of a swarm");
        let member = Member::start(&swarm.deps, swarm.dir.clone(), saved, Arc::new(tls)).await?;
        // The node keeps its containers, can be asked what is wrong and can leave, whatever is wrong.
        member.resume_role().await.ok();
        swarm.current.store(Some(member));
        Ok(swarm)
    }

    fn member(&self) -> Option<Arc<Member>> {
        self.current.load_full()
    }

    /// `None` outside a swarm.
    pub(crate) async fn node_id(&self) -> Option<NodeId> {
        self.member().map(|m| m.node.clone())
    }

    /// Attachments of stand-alone containers: any member may ask for its own.
    pub(crate) async fn attach(&self, request: ControlRequest) -> ApiResult<ControlResponse> {
        let Some(member) = self.member() else {
            return Err(ApiError { code: Code::NotFound, ..errors::not_in_swarm_mode() });
        };
        Box::pin(member.ask_leader(request)).await
    }
}
