//! `malha inspect`: the node's pinned maps, readable.
//!
//! Read from the kernel itself, not from the daemon: it shows what packets meet, also while no daemon runs.

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use malha_dataplane::ebpf::{self, MapDump, Stats};

use crate::{config::DEFAULT_INSTANCE, dev, paths};

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Name of the node where several share this machine. [default: the `malha dev` node that DOCKER_HOST names, else
    /// malha]
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// As JSON.
    #[arg(long)]
    json: bool,
    #[arg(value_enum, default_value_t = Part::All)]
    part: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Virtual IPs and their backends.
    Services,
    /// Published ports and their backends.
    Ports,
    /// Addresses: where they are and by which MAC.
    Endpoints,
    /// Networks and the nodes on them.
    Networks,
    /// Sockets that were translated, flows of published ports.
    Flows,
    /// Dropped packets by reason, traffic by path.
    Drops,
    All,
}

impl Part {
    /// The maps that this part shows.
    fn maps(self) -> &'static [&'static str] {
        match self {
            Self::Services | Self::Ports => &["services", "backends"],
            Self::Endpoints => &["endpoints", "links", "scopes"],
            Self::Networks => &["networks", "peers", "node_addrs"],
            Self::Flows => &["connected", "datagrams", "flows", "replies", "remaps"],
            Self::Drops => &[],
            Self::All => &[
                "networks",
                "peers",
                "endpoints",
                "links",
                "services",
                "backends",
                "scopes",
                "node_addrs",
                "connected",
                "datagrams",
                "flows",
                "replies",
                "remaps",
            ],
        }
    }
}

pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let instance = args.instance.clone().or_else(of_docker_host).unwrap_or_else(|| DEFAULT_INSTANCE.to_owned());
    let dir = paths::pin_dir(&instance);
    let (maps, stats) = ebpf::inspect(&dir).with_context(|| {
        format!("no node {instance:?} on this machine ({}); there are: {}", dir.display(), known_instances())
    })?;
    let wanted: Vec<&MapDump> = maps.iter().filter(|m| args.part.maps().contains(&m.name)).collect();
    let counters = matches!(args.part, Part::Drops | Part::All);
    if args.json {
        let value = serde_json::json!({ "maps": wanted, "counters": counters.then_some(&stats) });
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(());
    }
    for map in wanted {
        println!("{} ({})", map.name, map.rows.len());
        let width = map.rows.iter().map(|(k, _)| k.len()).max().unwrap_or_default();
        for (key, value) in &map.rows {
            println!("  {key:<width$}  {value}");
        }
    }
    if counters {
        print_counters(&stats);
    }
    Ok(())
}

/// Where `malha dev exec` leads, and whoever exported what `malha dev up` told.
fn of_docker_host() -> Option<String> {
    dev::instance_at(&std::env::var("DOCKER_HOST").ok()?)
}

fn known_instances() -> String {
    let entries = std::fs::read_dir(paths::pin_dir("")).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn print_counters(stats: &Stats) {
    println!("{:<28} {:>12} {:>16}", "dropped, by reason", "packets", "bytes");
    for (reason, count) in &stats.drops {
        println!("  {reason:<26} {:>12} {:>16}", count.packets, count.bytes);
    }
    println!("{:<28} {:>12} {:>16}", "passed, by path", "packets", "bytes");
    for (path, count) in &stats.traffic {
        println!("  {path:<26} {:>12} {:>16}", count.packets, count.bytes);
    }
    for (vni, drops) in &stats.network_drops {
        let drops: Vec<String> = drops.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
        println!("dropped on vni {vni}: {}", drops.join(", "));
    }
}
