//! The Docker Engine HTTP API: requests become calls of two ports, answers become Docker's JSON.
//!
//! A node implements [`backend::Cluster`] and [`backend::Engine`], builds an [`Api`] over them and serves it with
//! [`serve_unix`] or [`serve_tls`]. What Docker has and Malha does not have yet is answered with 501 by name.

pub mod backend;
mod convert;
pub mod errors;
mod http;
mod json;
mod routes;
mod server;
mod state;
mod tls;

pub use self::{
    http::version::{ApiVersion, MAX_API_VERSION, MIN_API_VERSION},
    server::{BindError, bind_unix, serve_tls, serve_unix},
    state::Api,
    tls::{TlsError, TlsFiles, server_config},
};
