//! The questions of one connection, decoded, checked and passed to the service.

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use malha_kit::Tasks;
use malha_model::{AgentMessage, ApiError, ApiResult, Code, LogOptions, LogSelector, ManagerMessage};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, warn};

use crate::{
    Duplex, IssueRequest, ManagerService, Peer, SESSION_CAPACITY,
    codec::{decode, encode, reply, sized},
    edge::{Ask, authorise},
    proto::{self, Frame, LogsRequest, Reply, manager_server::Manager, request::Call},
};

/// The service as one connection sees it.
pub(super) struct Handler {
    pub(super) service: Arc<dyn ManagerService>,
    pub(super) tasks: Tasks,
    pub(super) peer: Option<Peer>,
    pub(super) remote: SocketAddr,
}

type Replies = Pin<Box<dyn Stream<Item = Result<Reply, Status>> + Send>>;

#[tonic::async_trait]
impl Manager for Handler {
    async fn call(&self, request: Request<proto::Request>) -> Result<Response<Reply>, Status> {
        let answer = match request.into_inner().call {
            Some(call) => self.answer(call).await,
            None => Err(ApiError::rpc(Code::Unimplemented, "unknown request")),
        };
        Ok(Response::new(reply(answer)))
    }

    type LogsStream = Replies;

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Replies>, Status> {
        let replies = self.open_logs(request.into_inner()).await.unwrap_or_else(refusal);
        Ok(Response::new(replies))
    }

    type SessionStream = Replies;

    async fn session(&self, request: Request<Streaming<Frame>>) -> Result<Response<Replies>, Status> {
        let replies = self.open_session(request.into_inner()).unwrap_or_else(refusal);
        Ok(Response::new(replies))
    }
}

impl Handler {
    async fn answer(&self, call: Call) -> ApiResult<Bytes> {
        match call {
            Call::RootCertificate(_) => {
                self.authorised(Ask::RootCertificate)?;
                self.service.root_certificate().await.map(Bytes::from)
            }
            Call::IssueJson(request) => {
                let request: IssueRequest = decode(&request)?;
                self.authorised(Ask::Issue { with_token: request.token.is_some() })?;
                let issued = self.service.issue_certificate(self.peer.clone(), request).await;
                let refused = |error: &ApiError| warn!(remote = %self.remote, %error, "certificate refused");
                encode(&issued.inspect_err(refused)?)
            }
            Call::Raft(message) => {
                let peer = self.authorised_peer(Ask::Raft)?;
                sized(self.service.raft(peer, message.into()).await?)
            }
            Call::RaftJoin(addr) => {
                let peer = self.authorised_peer(Ask::Raft)?;
                self.service.raft_join(peer, addr).await.map(|()| Bytes::new())
            }
            Call::RaftLeave(_) => {
                let peer = self.authorised_peer(Ask::Raft)?;
                self.service.raft_leave(peer).await.map(|()| Bytes::new())
            }
            Call::ControlJson(request) => {
                let request = decode(&request)?;
                let peer = self.authorised_peer(Ask::Control(&request))?;
                encode(&self.service.control(peer, request).await?)
            }
        }
    }

    async fn open_logs(&self, request: LogsRequest) -> ApiResult<Replies> {
        let peer = self.authorised_peer(Ask::Logs)?;
        let (selector, options): (LogSelector, LogOptions) =
            (decode(&request.selector_json)?, decode(&request.options_json)?);
        let lines = ReceiverStream::new(self.service.logs(peer, selector, options).await?);
        let lines = lines.map(|line| match line {
            Ok(line) => Ok(reply(encode(&line))),
            Err(text) => Ok(reply(Err(ApiError::plain(Code::Unknown, text)))),
        });
        Ok(Box::pin(stream::once(async { Ok(accepted()) }).chain(lines)))
    }

    fn open_session(&self, frames: Streaming<Frame>) -> ApiResult<Replies> {
        let peer = self.authorised_peer(Ask::Session)?;
        let (to_node, outgoing) = mpsc::channel(SESSION_CAPACITY);
        let (to_service, incoming) = mpsc::channel(SESSION_CAPACITY);
        let (replies, stream) = mpsc::channel(SESSION_CAPACITY);
        let session = Duplex { tx: to_node, rx: incoming };
        let (service, remote) = (self.service.clone(), self.remote);
        self.tasks.spawn("session from node", read_frames(frames, to_service, remote));
        self.tasks.spawn("session", async move {
            let run = service.session(peer.clone(), session);
            run_session(run, outgoing, replies, &peer).await;
        });
        Ok(Box::pin(ReceiverStream::new(stream)))
    }

    fn authorised(&self, ask: Ask<'_>) -> ApiResult<()> {
        authorise(self.peer.as_ref(), ask).inspect_err(|error| {
            let (node, role) = self.peer.as_ref().map(|p| (p.node.as_str(), p.role)).unzip();
            warn!(remote = %self.remote, node, ?role, ?ask, %error, "request refused");
        })
    }

    fn authorised_peer(&self, ask: Ask<'_>) -> ApiResult<Peer> {
        self.authorised(ask)?;
        self.peer.clone().ok_or_else(|| ApiError::rpc(Code::Unauthenticated, "no client certificate"))
    }
}

/// Passes what the node says to the service, until either ends. A frame that cannot be read ends the session: what
/// follows it may build on it.
async fn read_frames(mut frames: Streaming<Frame>, to_service: mpsc::Sender<AgentMessage>, remote: SocketAddr) {
    loop {
        let frame = tokio::select! {
            biased;
            () = to_service.closed() => return,
            frame = frames.next() => frame,
        };
        let message = match frame {
            Some(Ok(frame)) => decode(&frame.json),
            Some(Err(status)) => return debug!(%remote, %status, "session lost"),
            None => return,
        };
        match message {
            Ok(message) => {
                if to_service.send(message).await.is_err() {
                    return;
                }
            }
            Err(error) => return warn!(%remote, %error, "session ended: unreadable message"),
        }
    }
}

/// Runs the service's side to its end, which is also its chance to tidy up: when the node is gone, both its channels
/// close. A refusal that it gives at once is the first reply; a later error is the last.
async fn run_session(
    run: impl Future<Output = ApiResult<()>> + Send,
    outgoing: mpsc::Receiver<ManagerMessage>,
    replies: mpsc::Sender<Result<Reply, Status>>,
    peer: &Peer,
) {
    let mut run = std::pin::pin!(run);
    let end = match futures::poll!(run.as_mut()) {
        std::task::Poll::Ready(Err(error)) => Err(error),
        std::task::Poll::Ready(Ok(())) => {
            write_replies(outgoing, &replies).await;
            Ok(())
        }
        std::task::Poll::Pending => futures::join!(run, write_replies(outgoing, &replies)).0,
    };
    if let Err(error) = end {
        warn!(node = %peer.node, %error, "session ended");
        let _ = replies.send(Ok(reply(Err(error)))).await; // nobody is left to tell where this fails
    }
}

/// Accepts the session and passes on what the service says, until either ends.
async fn write_replies(mut outgoing: mpsc::Receiver<ManagerMessage>, replies: &mpsc::Sender<Result<Reply, Status>>) {
    if replies.send(Ok(accepted())).await.is_err() {
        return;
    }
    loop {
        let message = tokio::select! {
            biased;
            () = replies.closed() => return,
            message = outgoing.recv() => message,
        };
        match message {
            Some(message) if replies.send(Ok(reply(encode(&message)))).await.is_err() => return,
            Some(_) => {}
            None => return,
        }
    }
}

fn accepted() -> Reply {
    reply(Ok(Bytes::new()))
}

fn refusal(error: ApiError) -> Replies {
    Box::pin(stream::once(async { Ok(reply(Err(error))) }))
}
