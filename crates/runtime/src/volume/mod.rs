//! Local volumes.

mod copy_up;
mod info;
mod store;

pub use self::info::*;
pub(crate) use self::{copy_up::copy_up, store::VolumeStore};
