//! Bringing a cluster up, or completing what is missing of one.

use std::{net::Ipv4Addr, path::Path};

use anyhow::{Context, Result, bail};
use malha_runtime::PrivateContainerd;
use serde_json::json;

use super::{
    client,
    cluster::{Cluster, Member, Process},
    layout::Layout,
    node, underlay,
};

pub(crate) struct Plan {
    pub(crate) nodes: usize,
    pub(crate) managers: usize,
    /// Make one swarm of them.
    pub(crate) swarm: bool,
    pub(crate) daemon_arg: Vec<String>,
}

pub(crate) async fn up(layout: &Layout, plan: Plan) -> Result<()> {
    let mut cluster = match Cluster::load(layout)? {
        Some(cluster) if cluster.nodes.len() != plan.nodes => bail!(
            "cluster {:?} has {} nodes; `malha dev down` first to make one of {}",
            layout.name,
            cluster.nodes.len(),
            plan.nodes
        ),
        Some(cluster) => cluster,
        None => Cluster { nodes: (0..plan.nodes).map(|i| member(i, plan.managers)).collect(), containerd: None },
    };
    prepare_dirs(layout, &plan)?;
    cluster.save(layout)?;
    let addrs: Vec<(String, Ipv4Addr)> = cluster.nodes.iter().map(|n| (n.name.clone(), n.addr)).collect();
    underlay::ensure(layout, &addrs)?;
    ensure_containerd(layout, &mut cluster).await?;
    let args = node::saved_args(layout);
    for i in 0..cluster.nodes.len() {
        let name = cluster.nodes[i].name.clone();
        if !cluster.nodes[i].daemon.is_some_and(Process::is_alive) {
            progress(&format!("starting {name}"));
        }
        node::ensure_daemon(layout, &mut cluster, &name, &args).await?;
    }
    if plan.swarm {
        form_swarm(layout, &cluster).await?;
    }
    progress(&format!("cluster {:?} is up: {} nodes", layout.name, cluster.nodes.len()));
    eprintln!("  export DOCKER_HOST=unix://{}", layout.socket(&cluster.nodes[0].name).display());
    Ok(())
}

fn member(index: usize, managers: usize) -> Member {
    Member {
        name: format!("node{}", index + 1),
        manager: index < managers,
        addr: underlay::node_addr(index),
        daemon: None,
    }
}

fn prepare_dirs(layout: &Layout, plan: &Plan) -> Result<()> {
    for dir in [&layout.state, &layout.run] {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let config = layout.state.join("daemon.json");
    if !config.exists() {
        std::fs::write(&config, "{}\n").with_context(|| format!("cannot write {}", config.display()))?;
    }
    let args = layout.state.join("daemon-args.json");
    if !args.exists() || !plan.daemon_arg.is_empty() {
        std::fs::write(&args, serde_json::to_vec(&plan.daemon_arg)?)
            .with_context(|| format!("cannot write {}", args.display()))?;
    }
    Ok(())
}

/// One containerd serves all nodes, each in a namespace of its own.
async fn ensure_containerd(layout: &Layout, cluster: &mut Cluster) -> Result<()> {
    if cluster.containerd.is_some_and(Process::is_alive) {
        return Ok(());
    }
    progress("starting containerd");
    let own = PrivateContainerd::find_or_start(&layout.containerd()).await.context("containerd")?;
    cluster.containerd = i32::try_from(own.pid()).ok().and_then(Process::of);
    cluster.save(layout)
}

/// `docker swarm init` on the first node, `join` on the others; nodes that already are members stay.
async fn form_swarm(layout: &Layout, cluster: &Cluster) -> Result<()> {
    let [first, others @ ..] = cluster.nodes.as_slice() else { return Ok(()) };
    let socket = layout.socket(&first.name);
    if !is_member(&socket).await? {
        progress(&format!("{}: swarm init", first.name));
        let body = json!({"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": first.addr.to_string()});
        client::post(&socket, "/swarm/init", body).await.with_context(|| format!("{}: swarm init", first.name))?;
    }
    let swarm = client::get(&socket, "/swarm").await.context("swarm")?;
    for node in others {
        let socket = layout.socket(&node.name);
        if is_member(&socket).await? {
            continue;
        }
        let role = if node.manager { "Manager" } else { "Worker" };
        progress(&format!("{}: swarm join as {}", node.name, role.to_lowercase()));
        let body = json!({
            "ListenAddr": "0.0.0.0:2377",
            "AdvertiseAddr": node.addr.to_string(),
            "RemoteAddrs": [format!("{}:2377", first.addr)],
            "JoinToken": swarm["JoinTokens"][role],
        });
        client::post(&socket, "/swarm/join", body).await.with_context(|| format!("{}: swarm join", node.name))?;
    }
    Ok(())
}

async fn is_member(socket: &Path) -> Result<bool> {
    let info = client::get(socket, "/info").await?;
    Ok(info["Swarm"]["LocalNodeState"] == "active")
}

fn progress(text: &str) {
    eprintln!("malha dev: {text}");
}
