//! The one way to change the state: a plan and the reconciliation of what follows from it, in one write.

use std::{convert::Infallible, sync::Arc};

use malha_consensus::{Consensus, UpdateError};
use malha_control::{Ctx, Outlook, TokenSource, reconcile};
use malha_kit::{Rng, SharedClock, watch};
use malha_model::{ApiError, ApiResult, Timestamp};
use malha_pki::{JoinToken, TrustRoot};
use malha_store::{State, Tx};
use parking_lot::Mutex;

use crate::errors;

/// Join tokens with fresh secrets.
#[derive(Clone, Copy, Debug, Default)]
pub struct SwarmTokens;

impl TokenSource for SwarmTokens {
    fn new_token(&self, root_cert_pem: &str) -> ApiResult<String> {
        let root = TrustRoot::from_pem(root_cert_pem).map_err(ApiError::internal)?;
        Ok(JoinToken::generate(&root).map_err(ApiError::internal)?.to_string())
    }
}

/// Up to where the state is settled, and when it has to be looked at again although nothing changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    pub index: u64,
    pub wake: Option<Timestamp>,
}

/// What a pass left, and the index of the state that it did so for.
type Left = (u64, Arc<Outlook>);

#[derive(Clone)]
pub(crate) struct Decider {
    pub consensus: Consensus,
    pub clock: SharedClock,
    pub rng: Rng,
    settled: Arc<watch::Sender<Settled>>,
    /// Of the last pass here.
    outlook: Arc<Mutex<Option<Left>>>,
}

impl Decider {
    pub(crate) fn new(consensus: Consensus, clock: SharedClock, rng: Rng) -> Self {
        Self { consensus, clock, rng, settled: Arc::default(), outlook: Arc::default() }
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.consensus.state().borrow().clone()
    }

    pub(crate) fn settled(&self) -> watch::Receiver<Settled> {
        self.settled.subscribe()
    }

    /// Runs `plan` and settles what follows from it. Nothing is written where `plan` refuses.
    pub(crate) async fn request<R: Send>(
        &self,
        plan: impl FnOnce(&mut Tx, &mut Ctx<'_>) -> ApiResult<R> + Send,
    ) -> ApiResult<R> {
        self.decide(plan).await.map_err(errors::update)
    }

    /// As [`Decider::request`], for plans that cannot refuse.
    pub(crate) async fn write(
        &self,
        plan: impl FnOnce(&mut Tx, &mut Ctx<'_>) + Send,
    ) -> Result<(), UpdateError<Infallible>> {
        self.decide(|tx, ctx| {
            plan(tx, ctx);
            Ok(())
        })
        .await
    }

    async fn decide<R: Send, E: Send>(
        &self,
        plan: impl FnOnce(&mut Tx, &mut Ctx<'_>) -> Result<R, E> + Send,
    ) -> Result<R, UpdateError<E>> {
        let (clock, mut rng) = (self.clock.clone(), self.rng.clone());
        let last = self.outlook.lock().clone();
        let update = self.consensus.update(move |tx| {
            let mut ctx = Ctx { now: clock.now(), rng: &mut rng, tokens: &SwarmTokens };
            let result = plan(tx, &mut ctx)?;
            // another leader may have written since, or a write of unknown outcome got through
            let known = last.filter(|(index, _)| *index == tx.base().index());
            let outlook = reconcile(tx, &mut ctx, known.as_ref().map(|(_, outlook)| &**outlook));
            Ok((result, outlook))
        });
        // its future is large, and everything that decides would be
        let ((result, outlook), index) = Box::pin(update).await?;
        let wake = outlook.wake();
        *self.outlook.lock() = Some((index, Arc::new(outlook)));
        self.settled.send_if_modified(|settled| {
            let newer = index >= settled.index;
            if newer {
                *settled = Settled { index, wake };
            }
            newer
        });
        Ok(result)
    }

    /// The next pass looks at everything.
    pub(crate) fn forget_outlook(&self) {
        *self.outlook.lock() = None;
    }

    /// Answers a question from the state as it is.
    pub(crate) fn read<R>(&self, question: impl FnOnce(&mut Tx, &mut Ctx<'_>) -> R) -> R {
        let mut rng = self.rng.clone();
        let mut ctx = Ctx { now: self.clock.now(), rng: &mut rng, tokens: &SwarmTokens };
        question(&mut Tx::new(&self.state()), &mut ctx)
    }
}
