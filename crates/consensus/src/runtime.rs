//! openraft's view of the machine: tokio's tasks and timers, and the node's own generator.
//!
//! openraft draws election timeouts and its first tick from a generator that it asks its runtime for. Every task of a
//! node carries that node's [`Rng`] as a task-local, so that one seed gives one sequence of elections. Waiting is
//! tokio's, hence virtual where tokio's clock is paused. Readers of a watch wake in order. Outside such a task the operating system's generator answers.

use std::{convert::Infallible, future::Future, time::Duration};

use malha_kit::{Rng, watch as ordered};
use openraft::{
    AsyncRuntime, OptionalSend, OptionalSync,
    async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender},
};
use rand::RngCore;

#[allow(deprecated, reason = "its successor is a crate of its own that would have to be pinned in step")]
type Tokio = openraft::impls::TokioRuntime;

tokio::task_local! {
    static NODE_RNG: Rng;
}

/// Runs `future`, and all that openraft spawns from it, on `rng`.
pub(crate) async fn with_rng<F: Future>(rng: Rng, future: F) -> F::Output {
    NODE_RNG.scope(rng, future).await
}

/// Tokio, with the node's generator.
#[derive(Debug)]
pub(crate) struct SeededRuntime(Tokio);

/// The node's generator in the form that openraft's release of `rand` wants.
#[derive(Clone, Debug)]
pub(crate) struct NodeRng(Rng);

impl rand_core::TryRng for NodeRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.next_u32())
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }
    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill_bytes(dst);
        Ok(())
    }
}

impl AsyncRuntime for SeededRuntime {
    type JoinError = <Tokio as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Tokio as AsyncRuntime>::Sleep;
    type Instant = <Tokio as AsyncRuntime>::Instant;
    type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Tokio as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = NodeRng;
    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    type Watch = OrderedWatch;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match NODE_RNG.try_with(Clone::clone) {
            Ok(rng) => Tokio::spawn(NODE_RNG.scope(rng, future)),
            Err(_) => Tokio::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Tokio::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Tokio::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        Tokio::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        Tokio::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Tokio::is_panic(join_error)
    }

    fn thread_rng() -> NodeRng {
        NodeRng(NODE_RNG.try_with(Clone::clone).unwrap_or_else(|_| Rng::from_os()))
    }

    fn new(threads: usize) -> Self {
        Self(Tokio::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

/// openraft's watch channels, on [`malha_kit::watch`].
#[derive(Debug)]
pub(crate) struct OrderedWatch;

#[derive(Debug)]
pub(crate) struct OrderedSender<T>(ordered::Sender<T>);

#[derive(Debug)]
pub(crate) struct OrderedReceiver<T>(ordered::Receiver<T>);

impl Watch for OrderedWatch {
    type Sender<T: OptionalSend + OptionalSync> = OrderedSender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = OrderedReceiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = ordered::Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (OrderedSender<T>, OrderedReceiver<T>) {
        let (sender, receiver) = ordered::channel(init);
        (OrderedSender(sender), OrderedReceiver(receiver))
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<OrderedWatch, T> for OrderedSender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.0.send(value).map_err(|e| SendError(e.0))
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        self.0.send_if_modified(modify)
    }

    fn borrow_watched(&self) -> ordered::Ref<'_, T> {
        self.0.borrow()
    }

    fn subscribe(&self) -> OrderedReceiver<T> {
        OrderedReceiver(self.0.subscribe())
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<OrderedWatch, T> for OrderedReceiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        self.0.changed().await.map_err(|_| RecvError(()))
    }

    fn borrow_watched(&self) -> ordered::Ref<'_, T> {
        self.0.borrow()
    }

    fn borrow_and_update(&mut self) -> ordered::Ref<'_, T> {
        self.0.borrow_and_update()
    }
}

impl<T> Clone for OrderedSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Clone for OrderedReceiver<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
