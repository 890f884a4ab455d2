//! HTTP as Docker speaks it: versions, queries, bodies, errors and streams.

pub(crate) mod body;
pub(crate) mod detach;
pub(crate) mod filters;
pub(crate) mod frames;
pub(crate) mod hijack;
pub(crate) mod logs;
pub(crate) mod middleware;
pub(crate) mod query;
pub(crate) mod reply;
pub(crate) mod version;
