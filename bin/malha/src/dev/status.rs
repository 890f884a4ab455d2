//! What stands and where.

use anyhow::Result;
use serde::Serialize;

use super::{
    client,
    cluster::{Cluster, Process},
    layout::Layout,
    underlay,
};

#[derive(Serialize)]
struct Status {
    name: String,
    nodes: Vec<NodeStatus>,
    client: ClientStatus,
}

#[derive(Serialize)]
struct NodeStatus {
    name: String,
    /// `manager`, `worker`, or `none` while outside a swarm.
    role: String,
    addr: String,
    socket: String,
    netns: String,
    /// For `malha inspect --instance`.
    instance: String,
    /// None while the daemon does not run.
    pid: Option<i32>,
    log: String,
}

#[derive(Serialize)]
struct ClientStatus {
    addr: String,
    netns: String,
}

pub(crate) async fn status(layout: &Layout, json: bool) -> Result<()> {
    let cluster = Cluster::require(layout)?;
    let mut nodes = Vec::new();
    for member in &cluster.nodes {
        let socket = layout.socket(&member.name);
        nodes.push(NodeStatus {
            name: member.name.clone(),
            role: role(&socket, member.manager).await,
            addr: member.addr.to_string(),
            socket: socket.display().to_string(),
            netns: layout.netns(&member.name),
            instance: layout.instance(&member.name),
            pid: member.daemon.filter(|p| Process::is_alive(*p)).map(|p| p.pid),
            log: layout.log(&member.name).display().to_string(),
        });
    }
    let client = ClientStatus { addr: underlay::CLIENT_ADDR.to_string(), netns: layout.netns(underlay::CLIENT) };
    let status = Status { name: layout.name.clone(), nodes, client };
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(());
    }
    println!(
        "{:<8} {:<8} {:<15} {:<8} {:<28} {:<28} DOCKER_HOST",
        "NODE", "ROLE", "ADDRESS", "PID", "NETNS", "INSTANCE"
    );
    for n in &status.nodes {
        let pid = n.pid.map_or_else(|| "-".to_owned(), |p| p.to_string());
        println!(
            "{:<8} {:<8} {:<15} {pid:<8} {:<28} {:<28} unix://{}",
            n.name, n.role, n.addr, n.netns, n.instance, n.socket
        );
    }
    println!("{:<8} {:<8} {:<15} {:<8} {}", "client", "-", status.client.addr, "-", status.client.netns);
    Ok(())
}

/// As the daemon says; as planned while it is away.
async fn role(socket: &std::path::Path, manager: bool) -> String {
    let planned = if manager { "manager" } else { "worker" };
    let Ok(info) = client::get(socket, "/info").await else { return planned.to_owned() };
    match (info["Swarm"]["LocalNodeState"].as_str(), info["Swarm"]["ControlAvailable"].as_bool()) {
        (Some("active"), Some(true)) => "manager",
        (Some("active"), _) => "worker",
        _ => "none",
    }
    .to_owned()
}
