//! How a node gets its certificate: the first with a token, the next over the one it has.

use std::{path::Path, sync::Arc};

use ipnet::IpNet;
use malha_kit::Tasks;
use malha_model::{ApiError, Availability, Code, Role};
use malha_pki::{JoinToken, NodeKey, PkiError, TlsMaterial, TrustRoot, joining_client_config};
use tracing::{info, warn};

use crate::{ConnectError, GrpcClient, IssueRequest, ManagerClient};

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The other end's text as it is: it names the digest that was expected.
    #[error("{0}")]
    Untrusted(String),
    #[error(transparent)]
    Refused(#[from] ApiError),
    #[error("that manager still takes this node for a {issued:?}, not a {wanted:?}")]
    OtherRole { wanted: Role, issued: Role },
    #[error("no address of a manager given")]
    NoAddress,
}

/// What a new node knows of its swarm before its first session.
#[derive(Debug)]
pub struct Joined {
    pub tls: TlsMaterial,
    /// UDP port of the swarm's tunnels.
    pub data_path_port: u16,
    /// Where the swarm's networks are or will be.
    pub subnets: Vec<IpNet>,
}

/// Joins the swarm of `token` through the first of `addrs` that can be reached, and keeps what it got in `dir`.
///
/// The token's digest is checked within the TLS handshake, so its secret is shown to nobody but a manager of that swarm.
pub async fn join(
    addrs: &[String],
    token: &str,
    availability: Availability,
    dir: Option<&Path>,
    tasks: &Tasks,
) -> Result<Joined, JoinError> {
    let parsed = JoinToken::parse(token)?;
    let client = first_reachable(addrs, &parsed, tasks).await?;
    let root = TrustRoot::from_pem(&client.root_certificate().await?)?;
    parsed.check_root(&root)?;
    let key = NodeKey::generate()?;
    let request = IssueRequest { csr_pem: key.request_pem()?, token: Some(token.trim().to_owned()), availability };
    let issued = client.issue_certificate(request).await?;
    let material = TlsMaterial::create(dir, root, &key, &issued.certificate_pem)?;
    info!(node = %issued.node, role = ?issued.role, cluster = %issued.cluster, "joined the swarm");
    Ok(Joined { tls: material, data_path_port: issued.data_path_port, subnets: issued.subnets })
}

async fn first_reachable(addrs: &[String], token: &JoinToken, tasks: &Tasks) -> Result<GrpcClient, JoinError> {
    let tls = joining_client_config(token)?;
    let mut last = JoinError::NoAddress;
    for addr in addrs {
        match GrpcClient::connect(addr, Arc::clone(&tls), tasks).await {
            Ok(client) => return Ok(client),
            Err(ConnectError::Untrusted { addr, reason }) => {
                warn!(addr, reason, "not a manager of this token's swarm");
                last = JoinError::Untrusted(reason);
            }
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// Renews this node's certificate over `client`, with a fresh key. The answer may carry another role: the node's role is
/// what the managers say it is. Where `wanted` is given, one of another role is not taken: that manager does not know yet.
pub async fn renew(client: &dyn ManagerClient, tls: &TlsMaterial, wanted: Option<Role>) -> Result<(), JoinError> {
    let key = NodeKey::generate()?;
    let request = IssueRequest { csr_pem: key.request_pem()?, token: None, availability: Availability::default() };
    let issued = client.issue_certificate(request).await?;
    if let Some(wanted) = wanted.filter(|w| *w != issued.role) {
        return Err(JoinError::OtherRole { wanted, issued: issued.role });
    }
    tls.replace(&key, &issued.certificate_pem)?;
    info!(role = ?issued.role, "certificate renewed");
    Ok(())
}

impl From<JoinError> for ApiError {
    fn from(e: JoinError) -> Self {
        match e {
            JoinError::Pki(e) => e.into(),
            JoinError::Connect(e) => e.into(),
            JoinError::Refused(e) => e,
            e @ JoinError::Untrusted(_) => Self::plain(Code::InvalidArgument, e.to_string()),
            e @ JoinError::OtherRole { .. } => Self::plain(Code::Unavailable, e.to_string()),
            e @ JoinError::NoAddress => Self::plain(Code::InvalidArgument, e.to_string()),
        }
    }
}
