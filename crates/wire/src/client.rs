//! One connection to a manager, and the questions asked over it.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture};
use http::{Request, Response, Uri};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use malha_kit::{CancellationToken, Tasks};
use malha_model::{
    AgentMessage, ApiError, ApiResult, Code, ControlRequest, ControlResponse, LogOptions, LogSelector, ManagerMessage,
};
use malha_pki::{MANAGER_NAME, handshake_error};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, body::Body};
use tracing::debug;

use crate::{
    ConnectError, Duplex, IssueRequest, IssueResponse, LogReceiver, ManagerClient, SESSION_CAPACITY,
    codec::{MAX_MESSAGE, decode, encode, result, sized, transport_error},
    http2,
    proto::{self, Empty, Frame, LogsRequest, Reply, manager_client::ManagerClient as Stub, request::Call},
};

/// For TCP, TLS and HTTP/2 together.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
/// Docker's own limit for a request to the managers.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection. It stays open for as long as this or a stream opened through it exists.
#[derive(Clone, Debug)]
pub struct GrpcClient {
    addr: String,
    connection: Connection,
}

impl GrpcClient {
    /// Connects to the manager at `addr` (`ip:port`) with the certificate and the trust of `tls`.
    pub async fn connect(addr: &str, tls: Arc<ClientConfig>, tasks: &Tasks) -> Result<Self, ConnectError> {
        match timeout(CONNECT_TIMEOUT, Self::try_connect(addr, tls, tasks)).await {
            Ok(result) => result,
            Err(_) => Err(unreachable(addr, "timed out")),
        }
    }

    async fn try_connect(addr: &str, tls: Arc<ClientConfig>, tasks: &Tasks) -> Result<Self, ConnectError> {
        let stream = TcpStream::connect(addr).await.map_err(|e| unreachable(addr, e))?;
        stream.set_nodelay(true).map_err(|e| unreachable(addr, e))?;
        let name = ServerName::try_from(MANAGER_NAME).map_err(|e| unreachable(addr, e))?;
        let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(|e| tls_error(addr, &e))?;
        let (sender, driver) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(http2::INTERVAL)
            .keep_alive_timeout(http2::TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(http2::STREAM_WINDOW)
            .initial_connection_window_size(http2::CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| unreachable(addr, e))?;
        let remote = addr.to_owned();
        tasks.spawn("connection to manager", async move {
            if let Err(error) = driver.await {
                debug!(remote, %error, "connection to manager ended");
            }
        });
        Ok(Self { addr: addr.to_owned(), connection: Connection(sender) })
    }

    /// Whether the connection is gone for good.
    pub fn is_closed(&self) -> bool {
        self.connection.0.is_closed()
    }

    fn stub(&self) -> Stub<Connection> {
        Stub::with_origin(self.connection.clone(), Uri::from_static("https://swarm-manager"))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Waits for as long as the connection lives.
    async fn ask(&self, call: Call) -> ApiResult<Bytes> {
        let mut stub = self.stub();
        let answer = stub.call(proto::Request { call: Some(call) }).await;
        result(answer.map_err(|s| self.lost(&s))?.into_inner())
    }

    async fn call(&self, call: Call) -> ApiResult<Bytes> {
        match timeout(CALL_TIMEOUT, self.ask(call)).await {
            Ok(result) => result,
            Err(_) => Err(ApiError::rpc(Code::DeadlineExceeded, format!("no answer from manager {}", self.addr))),
        }
    }

    fn lost(&self, status: &tonic::Status) -> ApiError {
        debug!(addr = self.addr, %status, "request failed");
        transport_error(status)
    }

    /// Waits for the reply that accepts or refuses a stream.
    async fn accepted(
        &self,
        open: impl Future<Output = Result<tonic::Response<Streaming<Reply>>, tonic::Status>>,
    ) -> ApiResult<Streaming<Reply>> {
        let opened = async {
            let mut replies = open.await.map_err(|s| self.lost(&s))?.into_inner();
            match replies.message().await.map_err(|s| self.lost(&s))? {
                Some(first) => result(first).map(|_| replies),
                None => Err(ApiError::rpc(Code::Unavailable, "stream ended before it was accepted")),
            }
        };
        match timeout(CALL_TIMEOUT, opened).await {
            Ok(result) => result,
            Err(_) => Err(ApiError::rpc(Code::DeadlineExceeded, format!("no answer from manager {}", self.addr))),
        }
    }
}

#[async_trait]
impl ManagerClient for GrpcClient {
    async fn root_certificate(&self) -> ApiResult<String> {
        let pem = self.call(Call::RootCertificate(Empty {})).await?;
        String::from_utf8(pem.into()).map_err(|e| ApiError::invalid(format!("malformed root certificate: {e}")))
    }

    async fn issue_certificate(&self, request: IssueRequest) -> ApiResult<IssueResponse> {
        decode(&self.call(Call::IssueJson(encode(&request)?)).await?)
    }

    async fn raft(&self, message: Vec<u8>) -> ApiResult<Vec<u8>> {
        // the group's protocol knows how long each of its messages may take
        self.ask(Call::Raft(sized(message)?)).await.map(Into::into)
    }

    async fn raft_join(&self, addr: String) -> ApiResult<()> {
        self.call(Call::RaftJoin(addr)).await.map(drop)
    }

    async fn raft_leave(&self) -> ApiResult<()> {
        self.call(Call::RaftLeave(Empty {})).await.map(drop)
    }

    async fn control(&self, request: ControlRequest) -> ApiResult<ControlResponse> {
        decode(&self.call(Call::ControlJson(encode(&request)?)).await?)
    }

    async fn logs(&self, selector: LogSelector, options: LogOptions) -> ApiResult<LogReceiver> {
        let request = LogsRequest { selector_json: encode(&selector)?, options_json: encode(&options)? };
        let mut stub = self.stub();
        let mut replies = self.accepted(stub.logs(request)).await?;
        let (tx, rx) = mpsc::channel(SESSION_CAPACITY);
        tokio::spawn(async move {
            loop {
                let reply = tokio::select! {
                    biased;
                    () = tx.closed() => return,
                    reply = replies.next() => reply,
                };
                let line = match reply {
                    Some(Ok(reply)) => result(reply).and_then(|line| decode(&line)),
                    Some(Err(status)) => Err(transport_error(&status)),
                    None => return,
                };
                if tx.send(line.map_err(|e| e.message)).await.is_err() {
                    return;
                }
            }
        });
        Ok(rx)
    }

    async fn session(&self) -> ApiResult<Duplex<AgentMessage, ManagerMessage>> {
        let (tx, outgoing) = mpsc::channel::<AgentMessage>(SESSION_CAPACITY);
        // The stream is over for the manager only once both directions are: whoever stops listening stops talking too.
        let over = CancellationToken::new();
        let frames = tokio_stream::StreamExt::filter_map(ReceiverStream::new(outgoing), frame);
        let frames = frames.take_until(over.clone().cancelled_owned());
        let over = over.drop_guard();
        let mut stub = self.stub();
        let replies = self.accepted(stub.session(frames)).await?;
        let (to_agent, rx) = mpsc::channel(SESSION_CAPACITY);
        let addr = self.addr.clone();
        tokio::spawn(async move {
            read_replies(replies, to_agent, addr).await;
            drop(over);
        });
        Ok(Duplex { tx, rx })
    }
}

fn frame(message: AgentMessage) -> Option<Frame> {
    let json = encode(&message).inspect_err(|error| tracing::error!(%error, "session message dropped"));
    json.ok().map(|json| Frame { json })
}

/// Passes what the manager says to the agent, until either ends.
async fn read_replies(mut replies: Streaming<Reply>, to_agent: mpsc::Sender<ManagerMessage>, addr: String) {
    loop {
        let reply = tokio::select! {
            biased;
            () = to_agent.closed() => return,
            reply = replies.next() => reply,
        };
        let message = match reply {
            Some(Ok(reply)) => result(reply).and_then(|message| decode(&message)),
            Some(Err(status)) => return debug!(addr, %status, "session lost"),
            None => return,
        };
        match message {
            Ok(message) => {
                if to_agent.send(message).await.is_err() {
                    return;
                }
            }
            Err(error) => return tracing::warn!(addr, %error, "session ended by the manager"),
        }
    }
}

fn unreachable(addr: &str, reason: impl std::fmt::Display) -> ConnectError {
    ConnectError::Unreachable { addr: addr.to_owned(), reason: reason.to_string() }
}

/// A handshake that failed for its content means somebody else; one that broke off, nobody.
fn tls_error(addr: &str, error: &std::io::Error) -> ConnectError {
    let reason = handshake_error(error);
    match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(_) => ConnectError::Untrusted { addr: addr.to_owned(), reason },
        None => unreachable(addr, reason),
    }
}

/// HTTP/2 as the generated code wants it.
#[derive(Clone, Debug)]
struct Connection(SendRequest<Body>);

impl tower::Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
