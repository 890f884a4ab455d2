//! Images: names, contents, and where they come from.

mod catalog;
mod changes;
mod content;
mod import;
mod load;
mod manifest;
mod names;
mod platform;
mod pull;
mod registry;
mod spool;
mod store;
mod types;
mod unpack;

pub use self::types::*;
pub(crate) use self::{
    catalog::{Catalog, Found},
    platform::Platform,
    unpack::{exists as snapshot_exists, unpack},
};
