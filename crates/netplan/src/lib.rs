//! Assignments and endpoint records to a network plan and DNS zones. Pure.
//!
//! Nothing here reads a file, a clock or the kernel: equal inputs give equal plans, so every decision about who may
//! reach whom, and by which name, can be tested as a function.

mod build;
mod files;
mod names;
mod plan;
mod sandbox;
mod zone;

pub use self::{
    build::{NodeInputs, build_plan},
    files::{Resolver, hosts_file},
    names::{build_net_zone, build_zone},
    plan::*,
    sandbox::{NetworkMode, PlanError, SandboxInputs, build_sandbox, task_sandbox},
    zone::*,
};
