//! Stand-ins for a node, for tests and simulation of everything above it.

mod executor;

pub use self::executor::{Script, ScriptedExecutor};
