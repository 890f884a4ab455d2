//! The one way to change the state: a plan and the reconciliation of what follows from it, in one write.

use std::{convert::Infallible, sync::Arc};

use malha_consensus::{Consensus, Measured, UpdateError};
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

/// Objects that the control loops touch in one write at most: others wait for it.
const ROOM: usize = 2048;
/// As long as a write may get by the control loops: its commit has to come in time, and nobody else is answered meanwhile.
/// What was planned may be longer.
const PASS_BYTES: usize = 4 << 20;

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
        let planned = |tx: &mut Tx| {
            let mut ctx = Ctx { now: clock.now(), rng: &mut rng, tokens: &SwarmTokens };
            let result = plan(tx, &mut ctx)?;
            let (outlook, changes) = self.settle(tx, &mut ctx);
            Ok(((result, outlook), changes))
        };
        let update = self.consensus.update_and(planned, |(result, outlook), index| {
            self.leave(index, outlook);
            result
        });
        // its future is large, and everything that decides would be
        Box::pin(update).await
    }

    /// Runs the control loops, as far as one write of moderate length holds what they change beside what was planned. What
    /// is left is due at once. Were it all or nothing, a large service could keep everybody from everything.
    fn settle(&self, tx: &mut Tx, ctx: &mut Ctx<'_>) -> (Outlook, Measured) {
        let known = self.known(tx.base());
        let planned = tx.clone();
        let mut room = ROOM;
        loop {
            tx.set_room(room);
            let outlook = reconcile(tx, ctx, known.as_deref());
            let changes = self.consensus.measured(tx);
            // one object is written however long it is: it would never be otherwise
            let most = if room > 1 { PASS_BYTES } else { usize::MAX }.min(self.consensus.entry_bytes());
            // without room nothing is added: a plan that is too large by itself is for the one who made it to hear of
            if tx.writes() == planned.writes() || changes.bytes() <= most {
                return (outlook, changes);
            }
            let alone = self.consensus.measured(&planned).bytes();
            room = if alone > PASS_BYTES { 0 } else { room / 4 };
            *tx = planned.clone();
        }
    }

    /// What the last pass left, where it was on this very state: another leader may have written since, or a write of
    /// unknown outcome got through. Only who has the turn to plan may ask.
    fn known(&self, base: &State) -> Option<Arc<Outlook>> {
        let last = self.outlook.lock();
        last.as_ref().filter(|(index, _)| *index == base.index()).map(|(_, outlook)| outlook.clone())
    }

    /// Before the next one plans.
    fn leave(&self, index: u64, outlook: Outlook) {
        let wake = outlook.wake();
        *self.outlook.lock() = Some((index, Arc::new(outlook)));
        self.settled.send_if_modified(|settled| {
            let newer = index >= settled.index;
            if newer {
                *settled = Settled { index, wake };
            }
            newer
        });
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

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use malha_consensus::{Config, RaftTransport, SimDisk, TransportError};
    use malha_control::{handle, status};
    use malha_kit::{Clock, TokioClock};
    use malha_model::{ClusterSpec, ContainerSpec, ControlRequest, NodeId, Replicated, ServiceSpec};

    use super::*;
    use crate::{NewSwarmConfig, new_swarm};

    struct Nobody;

    #[async_trait]
    impl RaftTransport for Nobody {
        async fn send(&self, _: &NodeId, _: &str, _: Vec<u8>) -> Result<Vec<u8>, TransportError> {
            Err(TransportError::Unreachable("nobody".to_owned()))
        }
    }

    /// A swarm of one, whose log takes entries of that size, and its node.
    pub(crate) async fn lone(entry_bytes: usize) -> (Decider, NodeId) {
        let (clock, rng) = (Arc::new(TokioClock::starting_at(Timestamp(1_000_000_000))), Rng::from_seed(1));
        let config = Config { entry_bytes, ..Config::new("n".into(), "n".to_owned(), rng.fork(), clock.clone()) };
        let disk = SimDisk::new(rng.fork(), Duration::from_millis(1)..=Duration::from_millis(8));
        let consensus = Consensus::start(config, disk.open(), Arc::new(Nobody)).await.unwrap();
        let swarm = NewSwarmConfig {
            spec: ClusterSpec::default(),
            availability: malha_model::Availability::Active,
            description: malha_model::NodeDescription::default(),
            default_addr_pool: Vec::new(),
            subnet_size: 24,
            data_path_port: 4789,
        };
        let swarm = new_swarm(swarm, clock.now(), &mut rng.fork()).unwrap();
        let node = swarm.node.clone();
        consensus.bootstrap(swarm.initial).await.unwrap();
        let decider = Decider::new(consensus, clock, rng);
        decider.write(|_, _| {}).await.unwrap();
        (decider, node)
    }

    #[tokio::test(start_paused = true)]
    async fn writers_that_queue_know_what_the_one_before_left() {
        let (decider, node) = lone(32 << 20).await;
        let writers = (0..8).map(|n: u32| {
            let (decider, node) = (decider.clone(), node.clone());
            tokio::spawn(async move {
                let plan = |tx: &mut Tx, _: &mut Ctx<'_>| {
                    let mut node = (**tx.node(&node).unwrap()).clone();
                    node.spec.labels.insert(n.to_string(), String::new());
                    tx.put(node);
                    Ok(decider.known(tx.base()).is_some())
                };
                decider.request(plan).await.unwrap()
            })
        });
        let writers: Vec<_> = writers.collect();
        for writer in writers {
            assert!(writer.await.unwrap());
        }
    }

    /// Passes until nothing is due any more; how many.
    async fn passes(decider: &Decider) -> usize {
        let due = || decider.settled.borrow().wake.is_some_and(|at| at <= decider.clock.now());
        let mut passes = 0;
        while due() {
            decider.write(|_, _| {}).await.unwrap();
            passes += 1;
        }
        passes
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_no_entry_holds_comes_and_goes_by_and_by() {
        let (decider, _) = lone(32 << 10).await;
        let mut spec = ServiceSpec { name: "web".into(), ..ServiceSpec::default() };
        spec.mode.replicated = Some(Replicated { replicas: Some(300) });
        spec.task_template.container_spec = Some(ContainerSpec { image: "hello:1".into(), ..ContainerSpec::default() });
        let create = ControlRequest::ServiceCreate { spec, registry_auth: None };
        decider.request(|tx, ctx| handle(tx, ctx, create)).await.unwrap();
        assert!(passes(&decider).await > 3, "it was too small to prove anything");
        let state = decider.state();
        assert_eq!(state.task_count(), 300);
        let refused = state.tasks().filter(|t| t.status.err.starts_with("no suitable node")).count();
        assert_eq!(refused, 300, "each was looked at");

        // why they wait changes for all of them at once
        let ready = |tx: &mut Tx, _: &mut Ctx<'_>| {
            let nodes: Vec<NodeId> = tx.nodes().map(|n| n.id.clone()).collect();
            nodes.iter().for_each(|id| status::node_up(tx, id, "192.168.0.1"));
        };
        decider.write(ready).await.unwrap();
        assert!(passes(&decider).await > 3);
        assert!(decider.state().tasks().all(|t| t.node.is_some()));

        let remove = ControlRequest::ServiceRemove { id: "web".into() };
        decider.request(|tx, ctx| handle(tx, ctx, remove)).await.unwrap();
        passes(&decider).await;
        let desired = malha_model::TaskState::Remove;
        assert!(decider.state().tasks().all(|t| t.desired_state == desired));
    }
}
