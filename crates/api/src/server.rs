//! The listeners: a unix socket, and TCP with TLS client certificates.
//!
//! HTTP/1.1 only, because `attach` and `exec` leave HTTP by an upgrade. A connection's failure is its own; the number of
//! connections is bounded. When the token is cancelled, no connection is accepted any more, and requests get [`DRAIN`]: who
//! runs the server is to wait for it, not to drop it.

use std::{
    io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body};
use http::HeaderValue;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use malha_kit::{CancellationToken, Tasks};
use nix::unistd::Group;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::{http::middleware, routes, state::Api};

/// Connections served at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 4096;
/// For a request's header to arrive, and for an idle connection to be used again.
const HEADER_WAIT: Duration = Duration::from_secs(300);
const TLS_WAIT: Duration = Duration::from_secs(10);
/// For requests to end when the server does; streams and waits have no end of their own. Also for changes whose client has
/// gone.
const DRAIN: Duration = Duration::from_secs(2);
/// After a failed accept (out of descriptors), for the machine to recover.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The group that may use the socket, where it exists.
const GROUP: &str = "docker";

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{path}: another daemon answers there")]
    InUse { path: PathBuf },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// Makes the socket, mode 0660 and of group `docker` where there is one. A dead one at `path` is replaced.
pub async fn bind_unix(path: &Path) -> Result<UnixListener, BindError> {
    let failed = |source| BindError::Io { path: path.to_owned(), source };
    if UnixStream::connect(path).await.is_ok() {
        return Err(BindError::InUse { path: path.to_owned() });
    }
    // Made aside and moved into place, so that it is never there with other rights.
    let aside = path.with_extension(format!("{}.new", std::process::id()));
    let _ = std::fs::remove_file(&aside);
    let listener = UnixListener::bind(&aside).map_err(failed)?;
    let settle = || {
        std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o660))?;
        if let Ok(Some(group)) = Group::from_name(GROUP) {
            chown(&aside, None, Some(group.gid.as_raw()))?;
        }
        std::fs::rename(&aside, path)
    };
    settle().map_err(|e| {
        let _ = std::fs::remove_file(&aside);
        failed(e)
    })?;
    Ok(listener)
}

/// Serves until `token` is cancelled, and a moment longer.
pub async fn serve_unix(listener: UnixListener, api: Api, token: CancellationToken) {
    let server = Server::new(api, token);
    while let Some((permit, accepted)) = server.next(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => server.spawn(permit, async move { Ok(stream) }),
            Err(e) => pause(&e).await,
        }
    }
    server.drain().await;
}

/// Serves clients that `tls` lets in, until `token` is cancelled, and a moment longer.
pub async fn serve_tls(listener: TcpListener, tls: Arc<ServerConfig>, api: Api, token: CancellationToken) {
    let server = Server::new(api, token);
    let acceptor = TlsAcceptor::from(tls);
    while let Some((permit, accepted)) = server.next(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                let handshake = acceptor.accept(stream);
                server.spawn(permit, async move {
                    let done = tokio::time::timeout(TLS_WAIT, handshake).await;
                    let done = done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                    done.inspect_err(|error| tracing::warn!(%peer, %error, "a client was not let in"))
                });
            }
            Err(e) => pause(&e).await,
        }
    }
    server.drain().await;
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

struct Server {
    router: Router,
    name: HeaderValue,
    token: CancellationToken,
    connections: TaskTracker,
    /// Requests that change something: they outlive their connections.
    changes: Tasks,
    room: Arc<Semaphore>,
    /// Cancelled when the time to drain is over.
    end: CancellationToken,
}

impl Server {
    fn new(api: Api, token: CancellationToken) -> Self {
        let name = format!("Malha/{} (linux)", api.engine.version().version);
        Self {
            name: HeaderValue::try_from(name).unwrap_or(HeaderValue::from_static("Malha (linux)")),
            router: routes::router(Arc::new(api)),
            token,
            connections: TaskTracker::new(),
            changes: Tasks::new(),
            room: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            end: CancellationToken::new(),
        }
    }

    /// The next connection, once there is room for it; `None` when the server is to end.
    async fn next<T>(&self, accept: impl Future<Output = T>) -> Option<(OwnedSemaphorePermit, T)> {
        let both = async {
            let permit = self.room.clone().acquire_owned().await.ok()?;
            Some((permit, accept.await))
        };
        tokio::select! {
            biased;
            () = self.token.cancelled() => None,
            next = both => next,
        }
    }

    fn spawn<IO>(&self, permit: OwnedSemaphorePermit, ready: impl Future<Output = io::Result<IO>> + Send + 'static)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (router, name, changes) = (self.router.clone(), self.name.clone(), self.changes.clone());
        let (token, end) = (self.token.clone(), self.end.clone());
        self.connections.spawn(async move {
            let _permit = permit;
            // A client that has not asked for anything yet holds up no end.
            let Some(Ok(io)) = token.run_until_cancelled(ready).await else { return };
            let service = service_fn(move |request: hyper::Request<Incoming>| {
                let request = request.map(Body::new);
                let answer = middleware::answer(router.clone(), name.clone(), changes.clone(), request);
                async move { Ok::<_, std::convert::Infallible>(answer.await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_WAIT)
                .serve_connection(TokioIo::new(io), service)
                .with_upgrades();
            tokio::pin!(connection);
            let result = tokio::select! {
                biased;
                result = connection.as_mut() => result,
                () = token.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    tokio::select! { biased; result = connection => result, () = end.cancelled() => return }
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, "a connection ended badly");
            }
        });
    }

    async fn drain(&self) {
        let until = Instant::now() + DRAIN;
        self.connections.close();
        let _ = timeout_at(until, self.connections.wait()).await;
        self.end.cancel();
        self.connections.wait().await;
        self.changes.drain(until.saturating_duration_since(Instant::now())).await;
    }
}
