//! How nodes and managers talk: gRPC over mutual TLS on one port.
//!
//! [`ManagerService`], [`ManagerClient`] and [`Connector`] say what is talked about, free of any transport; [`serve`] and
//! [`GrpcConnector`] carry it over TCP. The certificate says who asks; [`edge`](self) refuses what a role may not ask
//! before the service sees it. Every answer is the service's own [`malha_model::ApiError`] or value; only a lost
//! connection is the transport's.

mod client;
mod codec;
mod connector;
mod edge;
mod join;
mod server;
mod service;

pub use self::{
    client::GrpcClient,
    codec::MAX_MESSAGE,
    connector::GrpcConnector,
    join::{JoinError, Joined, join, renew},
    server::serve,
    service::*,
};

mod proto {
    #![allow(clippy::all, clippy::too_many_lines, unreachable_pub, reason = "generated")]
    tonic::include_proto!("malha.v1");
}

mod http2 {
    //! Both ends ping an idle connection and give it up after a silence of [`INTERVAL`] + [`TIMEOUT`]: two seconds.
    use std::time::Duration;

    pub(crate) const INTERVAL: Duration = Duration::from_millis(750);
    pub(crate) const TIMEOUT: Duration = Duration::from_millis(1250);
    /// Large enough for a Raft snapshot to flow without waiting for window updates on a local network.
    pub(crate) const STREAM_WINDOW: u32 = 2 << 20;
    pub(crate) const CONNECTION_WINDOW: u32 = 8 << 20;
}
