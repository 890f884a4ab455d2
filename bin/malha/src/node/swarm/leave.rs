//! `docker swarm leave`: nothing of the swarm is left on this node.

use std::{collections::BTreeSet, time::Duration};

use malha_api::errors;
use malha_model::{ApiError, ApiResult, Code};
use malha_runtime::Runtime;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::{
    Swarm,
    member::{ASK_PAUSE, Member, UNAVAILABLE, occupied},
    saved,
};

const LOST: &str = "The only way to restore a swarm that has lost consensus is to reinitialize it with \
                    `--force-new-cluster`. Use `--force` to suppress this message.";

/// How long the seat waits for a leader that takes it back.
const ELECTION: Duration = Duration::from_secs(5);

impl Swarm {
    pub(super) async fn leave_cluster(&self, force: bool) -> ApiResult<()> {
        let _changing = self.changing.lock().await;
        let member = self.member().ok_or_else(errors::not_in_a_swarm)?;
        if !force {
            refuse_manager(&member)?;
        }
        if force {
            // From here on it leaves whoever answers; without `force` it may yet stay, and need a seat.
            member.leaving.cancel();
        }
        // Until the end: a seat that was given up is not to be asked for again while containers take their time to end.
        let _no_change = member.role_change.lock().await;
        member.leave_managers(force).await?;
        member.stop_manager().await;
        // Containers end and their sandboxes go before what they stand on does.
        member.agent.clear().await;
        member.stop().await;
        self.current.store(None);
        let closed = self.deps.net.close(occupied(&self.deps.runtime)).await;
        // whatever is left of the network: nobody could leave a second time, and the next start would take this one up again
        saved::clear(&self.dir)?;
        let gone = closed.map_err(|e| ApiError::internal(format!("the node's network: {e}")))?;
        warn_of_lost(&self.deps.runtime, &gone);
        info!(node = %member.node, "left the swarm");
        Ok(())
    }
}

/// Docker takes a container off the networks that it was attached to, and lets it run.
fn warn_of_lost(runtime: &Runtime, gone: &BTreeSet<String>) {
    let found = gone.iter().filter_map(|id| runtime.inspect(id).ok());
    let names: Vec<String> = found.filter(|c| c.state.status.is_running()).map(|c| c.name).collect();
    if !names.is_empty() {
        warn!(containers = ?names, "run on without a network: theirs was the swarm's");
    }
}

/// Docker refuses every manager without `--force`, and says what would be lost.
fn refuse_manager(member: &Member) -> ApiResult<()> {
    let mut text = "You are attempting to leave the swarm on a node that is participating as a manager. ".to_owned();
    let Some(managing) = member.managing.load_full() else {
        // What a manager that cannot run holds on its disk may be all that there is.
        let Some(why) = member.failed.load_full() else { return Ok(()) };
        text.push_str(&format!("Its state cannot be looked at: {why}. Use `--force` to ignore this message. "));
        return Err(ApiError::plain(Code::Unavailable, text));
    };
    let members: Vec<_> = managing.consensus.members().into_iter().filter(|m| m.voter).collect();
    let reachable = members.iter().filter(|m| m.reachability != malha_consensus::Reachability::Unreachable).count();
    if members.len() == 1 {
        text.push_str(
            "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. ",
        );
        return Err(ApiError::plain(Code::Unavailable, text));
    }
    let unreachable = members.len() - reachable;
    if reachable.saturating_sub(2) <= unreachable {
        text.push_str(&format!(
            "Removing this node leaves {} managers out of {}. Without a Raft quorum your swarm will be inaccessible. ",
            reachable.saturating_sub(1),
            members.len()
        ));
    }
    text.push_str(LOST);
    Err(ApiError::plain(Code::Unavailable, text))
}

impl Member {
    /// Gives the seat in the Raft group up. With `force` it goes all the same where nobody answers.
    async fn leave_managers(&self, force: bool) -> ApiResult<()> {
        let Some(managing) = self.managing.load_full() else { return Ok(()) };
        let mut members = managing.consensus.members().into_iter();
        if !members.any(|m| m.voter && m.node != self.node) {
            return Ok(());
        }
        let until = Instant::now() + ELECTION;
        loop {
            match malha_manager::leave_raft(&*self.connector, &self.manager_addrs()).await {
                // who goes while there is no leader leaves a seat behind that counts
                Err(e) if e.http_status() == UNAVAILABLE && Instant::now() < until => {
                    debug!(error = %e, "no leader to give the seat back to; asking again");
                    sleep(ASK_PAUSE).await;
                }
                Err(e) if force => {
                    warn!(error = %e, "the other managers do not know that this one leaves");
                    return Ok(());
                }
                left => return left,
            }
        }
    }
}
