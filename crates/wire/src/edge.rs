//! Who may ask what: decided here, before the service sees the question.
//!
//! | call | no certificate | worker | manager |
//! |---|---|---|---|
//! | root certificate | yes | yes | yes |
//! | issue | with a token | yes (renewal) | yes |
//! | session | no | yes | yes |
//! | control | no | attach, detach and rename for itself | yes |
//! | raft, logs | no | no | yes |

use malha_model::{ApiError, ApiResult, Code, ControlRequest, Role};

use crate::Peer;

/// A question, as far as permission depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask<'a> {
    RootCertificate,
    Issue { with_token: bool },
    Raft,
    Control(&'a ControlRequest),
    Logs,
    Session,
}

/// Refuses what `peer` may not ask.
pub(crate) fn authorise(peer: Option<&Peer>, ask: Ask<'_>) -> ApiResult<()> {
    let Some(peer) = peer else {
        return match ask {
            Ask::RootCertificate | Ask::Issue { with_token: true } => Ok(()),
            Ask::Issue { with_token: false } => {
                Err(ApiError::invalid("A valid join token is necessary to join this cluster"))
            }
            _ => Err(ApiError::rpc(Code::PermissionDenied, "Permission denied: no client certificates in request")),
        };
    };
    match (peer.role, ask) {
        (Role::Manager, _) => Ok(()),
        (Role::Worker, Ask::RootCertificate | Ask::Issue { .. } | Ask::Session) => Ok(()),
        (Role::Worker, Ask::Control(request)) if for_itself(peer, request) => Ok(()),
        (Role::Worker, Ask::Raft | Ask::Control(_) | Ask::Logs) => {
            Err(ApiError::rpc(Code::PermissionDenied, "Permission denied: unauthorized peer role: swarm-worker"))
        }
    }
}

fn for_itself(peer: &Peer, request: &ControlRequest) -> bool {
    match request {
        ControlRequest::NetworkAttach { node, .. }
        | ControlRequest::NetworkDetach { node, .. }
        | ControlRequest::ContainerRename { node, .. } => *node == peer.node,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_bound_what_is_asked() {
        let peer = |role| Peer { node: "me".into(), role, cluster: "c".into() };
        let detach = |node: &str| ControlRequest::NetworkDetach { node: node.into(), attachment: "t".into() };
        let (mine, others, list) = (detach("me"), detach("you"), ControlRequest::NodeList);
        let asks = [
            Ask::RootCertificate,
            Ask::Issue { with_token: true },
            Ask::Issue { with_token: false },
            Ask::Session,
            Ask::Control(&mine),
            Ask::Control(&others),
            Ask::Control(&list),
            Ask::Logs,
            Ask::Raft,
        ];
        let allowed = |peer: Option<&Peer>| asks.map(|ask| authorise(peer, ask).is_ok());
        assert_eq!(allowed(None), [true, true, false, false, false, false, false, false, false]);
        let worker = peer(Role::Worker);
        assert_eq!(allowed(Some(&worker)), [true, true, true, true, true, false, false, false, false]);
        assert_eq!(allowed(Some(&peer(Role::Manager))), [true; 9]);
        let rename = |node: &str| ControlRequest::ContainerRename {
            node: node.into(),
            container_id: "c".into(),
            container_name: "name".into(),
        };
        let renames = [rename("me"), rename("you")].map(|r| authorise(Some(&worker), Ask::Control(&r)).is_ok());
        assert_eq!(renames, [true, false]);
        assert_eq!(authorise(Some(&worker), Ask::Raft).unwrap_err().code, Code::PermissionDenied);
    }
}
