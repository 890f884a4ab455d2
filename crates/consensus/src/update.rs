//! Changing the state: plan on the newest state, propose, wait until it is durable and applied.

use std::{io, sync::Arc};

use futures::future::BoxFuture;
use malha_store::{Change, State, Tx};
use openraft::errors::ClientWriteError;
use tokio::{sync::OwnedMutexGuard, time::timeout_at};

use crate::{
    Consensus, Leadership, StorageError, UpdateError,
    consensus::Shared,
    types::{Command, Metrics, Outcome, TypeConfig},
};

type Answer = openraft::raft::ClientWriteResult<TypeConfig>;
type Written = (OwnedMutexGuard<()>, u64);

/// The changes of one update, and how long they are in the log: finding out costs as much as the plan, so it is done once.
pub struct Measured {
    changes: Vec<Change>,
    bytes: usize,
}

impl Measured {
    /// As encoded. Where no entry holds them it is only known that they are longer than that.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Consensus {
    /// Runs `plan` on the state and makes its changes part of it, one update at a time.
    ///
    /// Returns what `plan` returned and the log index of the write. A plan that changes nothing proposes nothing; the
    /// index is then that of the state it saw. Dropping the future does not take back what was proposed.
    pub async fn update<R: Send, E: Send>(
        &self,
        plan: impl FnOnce(&mut Tx) -> Result<R, E> + Send,
    ) -> Result<(R, u64), UpdateError<E>> {
        let measured = |tx: &mut Tx| plan(tx).map(|result| (result, self.measured(tx)));
        self.update_and(measured, |result, index| (result, index)).await
    }

    /// As [`Consensus::update`], for a plan that had its changes measured; `after` gets the result and the index before the
    /// next update plans.
    pub async fn update_and<R: Send, E: Send, T: Send>(
        &self,
        plan: impl FnOnce(&mut Tx) -> Result<(R, Measured), E> + Send,
        after: impl FnOnce(R, u64) -> T + Send,
    ) -> Result<T, UpdateError<E>> {
        let now = self.shared.config.clock.now();
        self.propose(move |state| plan(&mut Tx::at(state, now)), after).await
    }

    /// What a plan has changed so far.
    pub fn measured(&self, tx: &Tx) -> Measured {
        self.measure(tx.changes())
    }

    pub(crate) fn measure(&self, changes: Vec<Change>) -> Measured {
        let bytes = encoded(&changes, self.shared.config.entry_bytes);
        Measured { changes, bytes }
    }

    /// The most that one update may write.
    pub fn entry_bytes(&self) -> usize {
        self.shared.config.entry_bytes
    }

    pub(crate) async fn propose<R: Send, E: Send, T: Send>(
        &self,
        plan: impl FnOnce(&State) -> Result<(R, Measured), E> + Send,
        after: impl FnOnce(R, u64) -> T + Send,
    ) -> Result<T, UpdateError<E>> {
        let (turn, term) = self.turn_to_plan().await.map_err(|failure| self.explain(failure))?;
        let state = self.shared.state.borrow().clone();
        let (result, Measured { changes, bytes }) = plan(&state).map_err(UpdateError::Rejected)?;
        if changes.is_empty() {
            return Ok(after(result, state.index()));
        }
        let limit = self.shared.config.entry_bytes;
        if bytes > limit {
            return Err(UpdateError::TooLarge { bytes, limit });
        }
        let command = Command { term, base: state.index(), changes: changes.into() };
        match self.write(turn, command).await {
            Ok((_turn, index)) => Ok(after(result, index)),
            Err(failure) => Err(self.explain(failure)),
        }
    }

    /// Proposes changes as planned in `term` on the state at `base`, whatever is the case now. Whether they were made.
    #[doc(hidden)]
    pub fn propose_as_planned(
        &self,
        term: u64,
        base: u64,
        changes: Vec<Change>,
    ) -> BoxFuture<'_, Result<bool, UpdateError<std::convert::Infallible>>> {
        Box::pin(async move {
            let command = Command { term, base, changes: changes.into() };
            let written = self.shared.raft.client_write(command).await;
            written.map(|done| done.data == Outcome::Applied).map_err(|_| UpdateError::Stopped)
        })
    }

    /// Waits for this update's turn; the term that this member leads in, once everything in its log is applied.
    fn turn_to_plan(&self) -> BoxFuture<'_, Result<(OwnedMutexGuard<()>, u64), Failure>> {
        Box::pin(async move {
            let turn = self.shared.planning.clone().lock_owned().await;
            let Leadership::Leader { term } = *self.shared.leadership.borrow() else {
                return Err(if self.metrics().running_state.is_err() { Failure::Stopped } else { Failure::NoLeader });
            };
            if let Some(error) = self.shared.health.borrow().clone() {
                return Err(Failure::Disk { error, proposed: false });
            }
            // an earlier update may have given up waiting for an entry that is still on its way
            let settled = |m: &Metrics| m.last_applied.as_ref().map(|id| id.index) == m.last_log_index;
            let wait = self.shared.raft.wait(Some(self.shared.config.timings.commit));
            wait.metrics(settled, "everything in the log is applied").await.map_err(|_| Failure::NoLeader)?;
            // where others may have elected another leader, nothing is proposed that could only time out
            if !self.confirm().await {
                return Err(Failure::NoLeader);
            }
            match *self.shared.leadership.borrow() {
                Leadership::Leader { term: now } if now == term => Ok((turn, term)),
                _ => Err(Failure::NoLeader),
            }
        })
    }

    /// Gives the turn back with the index.
    fn write(&self, turn: OwnedMutexGuard<()>, command: Command) -> BoxFuture<'_, Result<Written, Failure>> {
        Box::pin(async move {
            let shared = self.shared.clone();
            // a task of its own, so that a caller who loses interest does not let the next update plan too early
            let written = tokio::spawn(async move { Ok((turn, write(&shared, command).await?)) });
            written.await.unwrap_or(Err(Failure::Stopped))
        })
    }

    fn explain<E>(&self, failure: Failure) -> UpdateError<E> {
        match failure {
            Failure::NoLeader => self.no_leader(),
            Failure::Deposed => UpdateError::NotLeader { leader: self.shared.leadership.borrow().other().cloned() },
            Failure::Timeout => UpdateError::Timeout,
            Failure::Stopped => match self.shared.health.borrow().clone() {
                Some(error) => UpdateError::Storage { error, proposed: true },
                None => UpdateError::Stopped,
            },
            Failure::Disk { error, proposed } => UpdateError::Storage { error, proposed },
        }
    }
}

/// How long the encoding of the changes is, counted until it is longer than `limit`.
fn encoded(changes: &[Change], limit: usize) -> usize {
    struct Counter {
        bytes: usize,
        limit: usize,
    }

    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.bytes += bytes.len();
            // what follows need not be counted
            if self.bytes > self.limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes.len()) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut counter = Counter { bytes: 0, limit };
    // what cannot be encoded is the journal's to refuse
    drop(serde_json::to_writer(&mut counter, changes));
    counter.bytes
}

/// [`UpdateError`] without what the plan itself may say.
enum Failure {
    /// Nothing was proposed.
    NoLeader,
    /// Another leader took over before the entry was in the log, or the fence kept it out.
    Deposed,
    Timeout,
    Stopped,
    Disk {
        error: StorageError,
        proposed: bool,
    },
}

async fn write(shared: &Arc<Shared>, command: Command) -> Result<u64, Failure> {
    use openraft::impls::ProgressResponder;

    let deadline = tokio::time::Instant::now() + shared.config.timings.commit;
    let (responder, answer) = ProgressResponder::<TypeConfig, Answer>::complete_only();
    let term = openraft::vote::RaftLeaderId::to_committed(&openraft::impls::leader_id_std::LeaderId {
        term: command.term,
        voted_for: shared.config.node.clone(),
    });
    shared.raft.write(command).with_leader(term).responder(responder).await.map_err(|_| Failure::Stopped)?;
    let mut health = shared.health.clone();
    tokio::select! {
        biased;
        answer = timeout_at(deadline, answer) => match answer {
            Ok(Ok(Ok(response))) => match response.data {
                Outcome::Applied => Ok(response.log_id.index),
                Outcome::Fenced | Outcome::Nothing => Err(Failure::Deposed),
            },
            Ok(Ok(Err(ClientWriteError::ForwardToLeader(_)))) => Err(Failure::Deposed),
            // discarded here, yet another member may have it
            Ok(Ok(Err(_))) | Err(_) => Err(Failure::Timeout),
            Ok(Err(_)) => Err(Failure::Stopped),
        },
        // with others a majority may be found without this disk, so only a lone member gives up
        Ok(problem) = lone_disk_fails(shared, &mut health) => Err(Failure::Disk { error: problem, proposed: true }),
    }
}

/// Resolves when the only voter's disk takes no writes.
async fn lone_disk_fails(
    shared: &Shared,
    health: &mut malha_kit::watch::Receiver<Option<StorageError>>,
) -> Result<crate::StorageError, ()> {
    use openraft::async_runtime::WatchReceiver;

    let problem = health.wait_for(Option::is_some).await.map(|found| found.clone()).map_err(|_| ())?;
    let alone = shared.raft.metrics().borrow_watched().membership_config.voter_ids().count() == 1;
    match problem {
        Some(problem) if alone => Ok(problem),
        _ => std::future::pending().await,
    }
}
