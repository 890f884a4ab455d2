//! `docker run --restart`: stand-alone containers that come back when they end, and when the daemon does.
//!
//! Docker's rules: 100 ms before the first time, twice as long each time after, a minute at most, and from the start again
//! once it ran for ten seconds. Who stopped or killed it meant it; `always` forgets that when the daemon starts.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use malha_api::backend::{Container, ContainerStatus, RestartPolicy};
use malha_model::ApiResult;
use malha_runtime::{ContainerInfo, ContainerStatus as Status, RuntimeError};
use parking_lot::Mutex;
use tracing::{info, warn};

use super::{
    LocalEngine,
    record::{self, Record},
};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
/// Who ran for that long starts well.
const STEADY: Duration = Duration::from_secs(10);
/// Of a start that failed.
const NEVER_RAN: i32 = 127;

#[derive(Default)]
pub(super) struct Restarts(Mutex<BTreeMap<String, Turn>>);

/// When it is asked whether a container comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    AtItsEnd,
    DaemonStarts,
}

/// What this daemon remembers of a container with a policy.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    delay: Duration,
    /// Number of the restart that is on its way; another number, or none, calls it off.
    waiting: Option<u64>,
    latest: u64,
    /// By its user.
    stopped: bool,
    /// Its user restarts it: the start after this end is not for its policy to make.
    held: bool,
    /// Its user starts it, which is no restart.
    starting: bool,
}

impl Restarts {
    pub(super) fn forget(&self, id: &str) {
        self.0.lock().remove(id);
    }

    /// The user has spoken: a restart on its way is called off.
    fn overrule(&self, id: &str, stopped: bool) {
        let mut turns = self.0.lock();
        let turn = turns.entry(id.to_owned()).or_default();
        *turn = Turn { stopped, latest: turn.latest, starting: turn.starting, ..Turn::default() };
    }

    /// Until `unhold`, its policy does not start it.
    fn hold(&self, id: &str) {
        let mut turns = self.0.lock();
        let turn = turns.entry(id.to_owned()).or_default();
        *turn = Turn { held: true, waiting: None, ..*turn };
    }

    pub(super) fn unhold(&self, id: &str) {
        if let Some(turn) = self.0.lock().get_mut(id) {
            turn.held = false;
        }
    }

    fn begin_start(&self, id: &str) {
        self.0.lock().entry(id.to_owned()).or_default().starting = true;
    }

    pub(super) fn end_start(&self, id: &str) {
        if let Some(turn) = self.0.lock().get_mut(id) {
            turn.starting = false;
        }
    }

    fn is_starting(&self, id: &str) -> bool {
        self.0.lock().get(id).is_some_and(|t| t.starting)
    }

    /// Takes the next number and says how long to wait. None where one is on its way already, or where its user has spoken
    /// since it was asked whether it comes back.
    fn plan(&self, id: &str, ran: Duration) -> Option<(u64, Duration)> {
        let mut turns = self.0.lock();
        let turn = turns.entry(id.to_owned()).or_default();
        if turn.stopped || turn.held || turn.waiting.is_some() {
            return None;
        }
        let next = if turn.delay.is_zero() || ran >= STEADY { FIRST } else { (2 * turn.delay).min(LONGEST) };
        let number = turn.latest + 1;
        *turn = Turn { delay: next, waiting: Some(number), latest: number, starting: turn.starting, ..Turn::default() };
        Some((number, next))
    }

    /// True where that restart has not been called off meanwhile.
    fn due(&self, id: &str, number: u64) -> bool {
        let mut turns = self.0.lock();
        turns.get_mut(id).is_some_and(|t| t.waiting.take_if(|n| *n == number).is_some())
    }

    fn is_overruled(&self, id: &str) -> bool {
        self.0.lock().get(id).is_some_and(|t| t.stopped || t.held)
    }
}

/// Whether a container that ended with `code` is to come back.
fn wanted(policy: &RestartPolicy, code: i32, restarts: u32) -> bool {
    match policy.name.as_str() {
        "always" | "unless-stopped" => true,
        "on-failure" => {
            code != 0 && (policy.maximum_retry_count == 0 || i64::from(restarts) < policy.maximum_retry_count)
        }
        _ => false,
    }
}

/// Tasks come back as their service says.
fn has_policy(record: &Record) -> bool {
    record.task.is_none() && !matches!(record.host_config.restart_policy.name.as_str(), "" | "no")
}

fn has_ended(container: &ContainerInfo) -> bool {
    container.state.status == Status::Exited && !container.state.started_at.is_zero()
}

impl LocalEngine {
    /// The container has ended, and what it held is given back.
    pub(super) fn restart_ended(self: &Arc<Self>, id: &str) {
        // Where it runs, the end was that of an earlier run.
        let Some(container) = self.runtime.inspect(id).ok().filter(has_ended) else { return };
        let state = &container.state;
        let ran = state.finished_at.since(state.started_at);
        self.restart_later(&container, state.exit_code, ran);
    }

    fn restart_later(self: &Arc<Self>, container: &ContainerInfo, code: i32, ran: Duration) {
        if self.comes_back(container, code, Moment::AtItsEnd) {
            self.come_back(&container.id, ran);
        }
    }

    /// Whether a container that has ended with `code` is to be started again.
    fn comes_back(&self, container: &ContainerInfo, code: i32, moment: Moment) -> bool {
        let record = Record::of(container);
        let policy = &record.host_config.restart_policy;
        let stopped = record.stopped || self.restarts.is_overruled(&container.id);
        let forgotten = moment == Moment::DaemonStarts && policy.name == "always";
        record.task.is_none() && (forgotten || !stopped) && wanted(policy, code, record.restarts)
    }

    /// It has ended and is about to be started again, not by its user.
    pub(super) fn is_restarting(&self, container: &ContainerInfo) -> bool {
        has_ended(container)
            && !self.restarts.is_starting(&container.id)
            && self.comes_back(container, container.state.exit_code, Moment::AtItsEnd)
    }

    /// Of what needs a process: soon there is one.
    pub(super) fn refuse_restarting(&self, container: &ContainerInfo) -> ApiResult<()> {
        if !self.is_restarting(container) {
            return Ok(());
        }
        let text = format!("Container {} is restarting, wait until the container is running", container.id);
        Err(RuntimeError::Conflict(text).into())
    }

    fn come_back(self: &Arc<Self>, id: &str, ran: Duration) {
        let Some((number, delay)) = self.restarts.plan(id, ran) else { return };
        let (engine, id) = (self.clone(), id.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            engine.restart(&id, number).await;
        });
    }

    async fn restart(self: &Arc<Self>, id: &str, number: u64) {
        let Err(error) = self.start_standalone(id, self.counted(id, number)).await else { return };
        // What was removed is not there any more.
        let Ok(container) = self.runtime.inspect(id) else { return self.restarts.forget(id) };
        warn!(container = id, %error, "cannot be restarted");
        if container.state.status.is_running() {
            // by its user, meanwhile
            return;
        }
        self.restart_later(&container, NEVER_RAN, Duration::ZERO);
    }

    /// In the container's turn: who called a restart off, or started the container himself, has had his. Also where it
    /// runs this restart is due no more.
    async fn counted(&self, id: &str, number: u64) -> ApiResult<bool> {
        if !self.restarts.due(id, number) || self.runs(id) {
            return Ok(false);
        }
        self.change_record(id, |r| Record { restarts: r.restarts + 1, stopped: false, ..r }).await?;
        info!(container = id, "restarting, as its policy says");
        Ok(true)
    }

    /// Before a stop or kill by the user, who means a run that is being wired as well, and one that is on its way: true
    /// where that was called off.
    pub(super) async fn user_ends(&self, reference: &str) -> ApiResult<(ContainerInfo, bool)> {
        let id = self.runtime.inspect(reference)?.id;
        let _turn = self.turns.take(&id).await;
        let info = self.runtime.inspect(&id)?;
        let called_off = self.is_restarting(&info);
        self.user_stops(&info).await?;
        Ok((info, called_off))
    }

    /// What its user could not start is left to its user, who is told why, unless somebody else had more luck with it.
    pub(super) async fn leave_to_user(&self, container: &ContainerInfo) {
        let _turn = self.turns.take(&container.id).await;
        if !self.runs(&container.id)
            && let Err(error) = self.user_stops(container).await
        {
            warn!(container = container.id, %error, "its policy may start what its user could not");
        }
    }

    pub(super) async fn user_stops(&self, container: &ContainerInfo) -> ApiResult<()> {
        self.user_says(container, true, |r| Record { stopped: true, ..r }).await
    }

    /// After a stop or kill by the user: where nothing came of it and the container runs on, so does its policy. One that
    /// was killed and takes its time to end is to stay away.
    pub(super) async fn unless_refused(
        &self,
        before: &ContainerInfo,
        done: Result<(), RuntimeError>,
    ) -> Result<(), RuntimeError> {
        let refused = matches!(&done, Err(e) if !matches!(e, RuntimeError::Internal(_)));
        if refused
            && !Record::of(before).stopped
            && self.runs(&before.id)
            && let Err(error) = self.user_says(before, false, |r| Record { stopped: false, ..r }).await
        {
            warn!(container = before.id, %error, "its policy does not restart it");
        }
        done
    }

    /// Before a restart by the user; `unhold` ends it.
    pub(super) fn user_restarts(&self, container: &ContainerInfo) {
        if has_policy(&Record::of(container)) {
            self.restarts.hold(&container.id);
        }
    }

    /// Before a start by the user, in the container's turn; `end_start` ends it. False where it runs.
    pub(super) async fn user_starts(&self, container: &ContainerInfo) -> ApiResult<bool> {
        if self.runs(&container.id) {
            return Ok(false);
        }
        if has_policy(&Record::of(container)) {
            self.restarts.begin_start(&container.id);
        }
        self.user_says(container, false, |r| Record { stopped: false, restarts: 0, ..r }).await?;
        Ok(true)
    }

    async fn user_says(
        &self,
        container: &ContainerInfo,
        stopped: bool,
        note: impl FnOnce(Record) -> Record,
    ) -> ApiResult<()> {
        if has_policy(&Record::of(container)) {
            self.restarts.overrule(&container.id, stopped);
            let noted = self.change_record(&container.id, note).await;
            if matches!(noted, Err(RuntimeError::NoSuchContainer(_))) {
                // Removed meanwhile: who removed it has forgotten it before it was remembered again.
                self.restarts.forget(&container.id);
            }
            noted?;
        }
        Ok(())
    }

    /// Containers that ended while no daemon ran, or with the machine.
    pub(super) fn restart_found(self: &Arc<Self>) {
        for container in self.runtime.list() {
            if has_ended(&container) && self.comes_back(&container, container.state.exit_code, Moment::DaemonStarts) {
                self.come_back(&container.id, Duration::ZERO);
            }
        }
    }

    /// As the API shows it.
    pub(super) fn shown(&self, container: &ContainerInfo) -> Container {
        let mut shown = record::to_api(container);
        if self.is_restarting(container) {
            shown.state.status = ContainerStatus::Restarting;
        }
        if self.net.has_lost(&container.id) {
            shown.networks.clear();
            shown.sandbox_key.clear();
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_decide_by_exit_code_and_count() {
        let policy = |name: &str, max| RestartPolicy { name: name.into(), maximum_retry_count: max };
        assert!(wanted(&policy("always", 0), 0, 99) && wanted(&policy("unless-stopped", 0), 0, 99));
        assert!(!wanted(&policy("no", 0), 1, 0) && !wanted(&policy("", 0), 1, 0));
        assert!(!wanted(&policy("on-failure", 0), 0, 0) && wanted(&policy("on-failure", 0), 1, 99));
        assert!(wanted(&policy("on-failure", 2), 1, 1) && !wanted(&policy("on-failure", 2), 1, 2));
    }

    #[test]
    fn delays_double_and_the_user_overrules() {
        let restarts = Restarts::default();
        let plan = |ran: u64| restarts.plan("c", Duration::from_secs(ran));
        let next = |ran: u64| {
            let (number, delay) = plan(ran).unwrap();
            assert!(restarts.due("c", number) && !restarts.due("c", number), "once");
            delay
        };
        let delays: Vec<u128> = (0..4).map(|_| next(0).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800]);
        assert_eq!(next(10), FIRST, "from the start again");
        let (number, _) = plan(0).unwrap();
        assert_eq!(plan(0), None, "it is on its way");
        restarts.overrule("c", true);
        assert!(restarts.is_overruled("c") && !restarts.due("c", number), "called off");
        assert_eq!(plan(0), None, "it was stopped after it was asked whether it comes back");
        restarts.overrule("c", false);
        let (number, delay) = plan(0).unwrap();
        assert!(delay == FIRST && !restarts.due("c", number - 1) && restarts.due("c", number));
        let (number, _) = plan(0).unwrap();
        restarts.hold("c");
        assert!(restarts.is_overruled("c") && !restarts.due("c", number), "held");
        assert_eq!(plan(0), None);
        restarts.unhold("c");
        assert!(!restarts.is_overruled("c") && plan(0).is_some());
        restarts.begin_start("c");
        restarts.overrule("c", false);
        assert!(plan(0).is_some() && restarts.is_starting("c"), "whatever becomes of the run before");
        restarts.end_start("c");
        assert!(!restarts.is_starting("c"));
    }
}
