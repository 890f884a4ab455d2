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
use tokio::sync::Mutex as AsyncMutex;

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
    last: AsyncMutex<Option<Result<Cached, ConnectError>>>,
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
        let mut last = address.last.lock().await;
        let certificate = self.tls.certificate();
        match &*last {
            Some(Ok(cached)) if !cached.client.is_closed() && Arc::ptr_eq(&cached.certificate, &certificate) => {
                return Ok(Arc::new(cached.client.clone()));
            }
            Some(Err(error)) if address.attempts.load(Ordering::Acquire) > seen => return Err(error.clone()),
            _ => {}
        }
        let made = GrpcClient::connect(addr, self.tls.client_config(), &self.tasks).await;
        let made = made.map(|client| Cached { client, certificate });
        address.attempts.fetch_add(1, Ordering::Release);
        let made = last.insert(made);
        match made {
            Ok(cached) => Ok(Arc::new(cached.client.clone())),
            Err(error) => Err(error.clone()),
        }
    }
}
