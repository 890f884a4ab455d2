//! `malha dev`: a whole swarm on one machine.
//!
//! N real daemons, each in a network namespace of its own on a private underlay, one API socket and one containerd
//! namespace each, over one containerd. Nothing is simulated: it is the path that a real machine takes. Every command
//! may be repeated, and `down` leaves nothing behind.

mod client;
mod cluster;
mod down;
mod layout;
mod lock;
mod node;
mod process;
mod status;
mod underlay;
mod up;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};

pub(crate) use self::layout::instance_at;
use self::{cluster::Cluster, layout::Layout};

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Name of the cluster; several stand side by side under different names.
    #[arg(long, default_value = "default", global = true)]
    name: String,
    #[command(subcommand)]
    command: DevCommand,
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Start the cluster, or whatever of it is missing.
    Up {
        /// Nodes in all.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
        nodes: u8,
        /// How many of them are managers; the rest are workers.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
        managers: u8,
        /// Start the daemons but leave `docker swarm init|join` to you.
        #[arg(long)]
        no_swarm: bool,
        /// Passed on to each daemon, e.g. `--daemon-arg=--insecure-registry=192.168.77.200:5000`.
        #[arg(long)]
        daemon_arg: Vec<String>,
    },
    /// Show nodes, addresses, sockets and processes.
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Run a command as on that node (or `client`): in its network, `docker` talking to its daemon.
    Exec {
        node: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Kill a node's daemon (SIGKILL); its containers go on.
    Kill { node: String },
    /// Start a node's daemon again.
    Start { node: String },
    /// Cut a node off the underlay.
    Cut { node: String },
    /// Put it back.
    Join { node: String },
    /// Remove the cluster with everything it made.
    Down,
}

pub(crate) async fn run(args: DevArgs) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "malha dev makes network namespaces and needs root");
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        !args.name.is_empty() && args.name.len() <= 20 && args.name.chars().all(valid) && !args.name.starts_with('-'),
        "cluster name {:?}: up to 20 of a-z, 0-9 and '-'",
        args.name
    );
    let layout = Layout::new(&args.name);
    let changes = !matches!(args.command, DevCommand::Status { .. } | DevCommand::Exec { .. });
    let _one = changes.then(|| lock::take(&layout)).transpose()?;
    match args.command {
        DevCommand::Up { nodes, managers, no_swarm, daemon_arg } => {
            ensure!(
                managers <= nodes,
                "{managers} managers of {nodes} nodes: there cannot be more managers than nodes"
            );
            let plan = up::Plan { nodes: nodes.into(), managers: managers.into(), swarm: !no_swarm, daemon_arg };
            up::up(&layout, plan).await
        }
        DevCommand::Status { json } => status::status(&layout, json).await,
        DevCommand::Exec { node, command } => node::exec(&layout, &node, &command),
        DevCommand::Kill { node } => node::kill(&layout, &node).await,
        DevCommand::Start { node } => node::start(&layout, &node).await,
        DevCommand::Cut { node } => link(&layout, &node, false),
        DevCommand::Join { node } => link(&layout, &node, true),
        DevCommand::Down => down::down(&layout).await,
    }
}

fn link(layout: &Layout, node: &str, up: bool) -> Result<()> {
    Cluster::require(layout)?.member(node)?;
    underlay::set_link(layout, node, up)
}
