//! One binary: the node's daemon and its tools.

mod allocator;
mod config;
mod daemon;
mod dev;
mod fitness;
mod inspect;
mod logging;
mod node;
mod paths;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "malha",
    version,
    about = "Swarm mode rebuilt: overlay networks, services and names behind the docker CLI"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    Daemon(Box<config::DaemonArgs>),
    /// Run a whole swarm on this machine.
    Dev(dev::DevArgs),
    /// Is this machine fit to be a node? One line each, with the remedy.
    Check(fitness::CheckArgs),
    /// Show what the kernel forwards by on this node, and what it dropped and why.
    Inspect(inspect::InspectArgs),
}

/// First argument with which containerd starts the writer of a container's log.
const LOG_WRITER: &str = "log-writer";

fn main() -> ExitCode {
    // One lives per container: it starts without anything that it does not need.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == LOG_WRITER) {
        return malha_runtime::logger_main(args);
    }
    let result = match Cli::parse().command {
        Command::Daemon(args) => {
            allocator::settle();
            daemon::run(*args)
        }
        Command::Dev(args) => blocking(dev::run(args)),
        Command::Inspect(args) => inspect::run(&args),
        Command::Check(args) => fitness::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("malha: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn blocking(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(task)
}
