//! The manager port: accepts, ends TLS, and hands each connection to the service together with who is on it.
//!
//! One task per connection. Whatever a stranger sends costs that connection only: handshakes have a deadline, their number
//! is bounded, and a connection without a certificate is short, narrow and takes small messages.

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use malha_kit::Tasks;
use malha_pki::{NodeCertificate, TlsMaterial, handshake_error};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, warn};

mod handler;

use self::handler::Handler;
use crate::{
    ManagerService, Peer,
    codec::{MAX_ANONYMOUS_MESSAGE, MAX_MESSAGE},
    http2,
    proto::manager_server::ManagerServer,
};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that have not shown a certificate, whether still shaking hands or joining.
const MAX_STRANGERS: usize = 256;
/// How long a connection without a certificate may last: a join takes well under a second, a slow leader a few.
const STRANGER_LIFE: Duration = Duration::from_secs(30);
/// Pause after the system refused to accept, for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const MAX_STREAMS: u32 = 1024;
const MAX_STRANGER_STREAMS: u32 = 4;

/// Serves `service` on `listener` until `tasks` ends, which also ends every connection.
pub fn serve(listener: TcpListener, tls: Arc<TlsMaterial>, service: Arc<dyn ManagerService>, tasks: &Tasks) {
    let port =
        Arc::new(Port { tls, service, tasks: tasks.clone(), strangers: Arc::new(Semaphore::new(MAX_STRANGERS)) });
    tasks.spawn("manager port", async move {
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => port.accepted(stream, remote),
                Err(error) => {
                    warn!(%error, "cannot accept on the manager port");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
}

struct Port {
    tls: Arc<TlsMaterial>,
    service: Arc<dyn ManagerService>,
    tasks: Tasks,
    strangers: Arc<Semaphore>,
}

impl Port {
    fn accepted(self: &Arc<Self>, stream: TcpStream, remote: SocketAddr) {
        let Ok(permit) = self.strangers.clone().try_acquire_owned() else {
            warn!(%remote, "connection refused: too many without a certificate");
            return;
        };
        let port = self.clone();
        self.tasks.spawn("manager connection", async move { port.connection(stream, remote, permit).await });
    }

    async fn connection(&self, stream: TcpStream, remote: SocketAddr, permit: OwnedSemaphorePermit) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%remote, %error, "cannot switch off Nagle's algorithm");
        }
        let acceptor = TlsAcceptor::from(self.tls.server_config());
        let mut stream = match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return warn!(%remote, error = handshake_error(&error), "TLS handshake refused"),
            Err(_) => return warn!(%remote, "TLS handshake took too long"),
        };
        let peer = match self.peer(&stream) {
            Ok(peer) => peer,
            Err(reason) => {
                warn!(%remote, reason, "connection refused");
                let _ = stream.shutdown().await; // the other end may be gone; we are done either way
                return;
            }
        };
        match peer {
            Some(peer) => {
                drop(permit);
                self.http2(stream, remote, Some(peer)).await;
            }
            None => {
                if timeout(STRANGER_LIFE, self.http2(stream, remote, None)).await.is_err() {
                    debug!(%remote, "connection without a certificate ended after its time");
                }
                drop(permit);
            }
        }
    }

    /// Who is on the other end. The handshake has verified the certificate against the root.
    fn peer(&self, stream: &TlsStream<TcpStream>) -> Result<Option<Peer>, String> {
        let Some(shown) = stream.get_ref().1.peer_certificates().and_then(<[_]>::first) else { return Ok(None) };
        let identity = NodeCertificate::from_der(shown).map_err(|e| e.to_string())?.identity;
        if identity.cluster != self.tls.certificate().identity.cluster {
            return Err(format!("certificate of cluster {}", identity.cluster));
        }
        Ok(Some(Peer { node: identity.node, role: identity.role, cluster: identity.cluster }))
    }

    async fn http2(&self, stream: TlsStream<TcpStream>, remote: SocketAddr, peer: Option<Peer>) {
        let (message, streams) = match &peer {
            Some(_) => (MAX_MESSAGE, MAX_STREAMS),
            None => (MAX_ANONYMOUS_MESSAGE, MAX_STRANGER_STREAMS),
        };
        let mut builder = hyper::server::conn::http2::Builder::new(Executor(self.tasks.clone()));
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(http2::INTERVAL)
            .keep_alive_timeout(http2::TIMEOUT)
            .max_concurrent_streams(streams);
        if peer.is_some() {
            builder
                .initial_stream_window_size(http2::STREAM_WINDOW)
                .initial_connection_window_size(http2::CONNECTION_WINDOW);
        }
        let handler = Handler { service: self.service.clone(), tasks: self.tasks.clone(), peer, remote };
        let service =
            ManagerServer::new(handler).max_decoding_message_size(message).max_encoding_message_size(MAX_MESSAGE);
        if let Err(error) = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).await {
            debug!(%remote, %error, "connection ended");
        }
    }
}

/// Runs the requests of a connection among our tasks, so that they end with the port.
#[derive(Clone)]
struct Executor(Tasks);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
{
    fn execute(&self, request: F) {
        let request: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            request.await;
        });
        self.0.spawn("manager request", request);
    }
}
