//! Connections to managers, one per address, with this node's current certificate.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use malha_kit::Tasks;
use malha_pki::{NodeCertificate, TlsMaterial};
use tokio::sync::{Mutex as AsyncMutex, oneshot};

use crate::{ConnectError, Connector, GrpcClient, ManagerClient};

/// Keeps one connection per address for as long as it lives. A renewed certificate shows in the next [`connect`]: users
/// of the old connection keep it, everybody else moves on.
///
/// [`connect`]: Connector::connect
#[derive(Debug)]
pub struct GrpcConnector {
    tls: Arc<TlsMaterial>,
    tasks: Tasks,
    addresses: Mutex<BTreeMap<String, Arc<Address>>>,
}

#[derive(Debug, Default)]
struct Address {
    /// Finished attempts to connect; tells those who waited behind one that it was made for them too.
    attempts: AtomicU64,
    /// Held while there is an attempt.
    last: Arc<AsyncMutex<Option<Result<Cached, ConnectError>>>>,
}

#[derive(Debug)]
struct Cached {
    client: GrpcClient,
    /// What was shown when it was made.
    certificate: Arc<NodeCertificate>,
}

impl GrpcConnector {
    pub fn new(tls: Arc<TlsMaterial>, tasks: &Tasks) -> Self {
        Self { tls, tasks: tasks.clone(), addresses: Mutex::default() }
    }

    fn address(&self, addr: &str) -> Arc<Address> {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = addresses.get(addr) {
            return known.clone();
        }
        addresses.retain(|_, a| Arc::strong_count(a) > 1 || a.is_open());
        addresses.entry(addr.to_owned()).or_default().clone()
    }
}

impl Address {
    fn is_open(&self) -> bool {
        self.last.try_lock().is_ok_and(|last| matches!(&*last, Some(Ok(cached)) if !cached.client.is_closed()))
    }
}

#[async_trait]
impl Connector for GrpcConnector {
    async fn connect(&self, addr: &str) -> Result<Arc<dyn ManagerClient>, ConnectError> {
        let address = self.address(addr);
        let seen = address.attempts.load(Ordering::Acquire);
        let mut last = address.last.clone().lock_owned().await;
        let certificate = self.tls.certificate();
        match &*last {
            Some(Ok(cached)) if !cached.client.is_closed() && Arc::ptr_eq(&cached.certificate, &certificate) => {
                return Ok(Arc::new(cached.client.clone()));
            }
            Some(Err(error)) if address.attempts.load(Ordering::Acquire) > seen => return Err(error.clone()),
            _ => {}
        }
        let (tell, told) = oneshot::channel();
        let (addr, tls, tasks) = (addr.to_owned(), self.tls.client_config(), self.tasks.clone());
        let ended = ConnectError::Unreachable { addr: addr.clone(), reason: "this node is stopping".to_owned() };
        // a task of its own: who asked may be in more of a hurry than the handshake, and the next one finds it made
        self.tasks.spawn("connecting to manager", async move {
            let made = GrpcClient::connect(&addr, tls, &tasks).await;
            // nobody may wait any more
            tell.send(made.clone()).ok();
            *last = Some(made.map(|client| Cached { client, certificate }));
            address.attempts.fetch_add(1, Ordering::Release);
        });
        match told.await {
            Ok(made) => Ok(Arc::new(made?)),
            Err(_) => Err(ended),
        }
    }
}
