//! Who may talk to whom, over real TLS handshakes.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{sync::Arc, time::Duration};

use malha_model::{Role, Timestamp};
use malha_pki::{
    CertificateAuthority, Identity, JoinToken, MANAGER_NAME, NodeCertificate, NodeKey, PkiError, TlsMaterial,
    handshake_error, joining_client_config,
};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(since.as_nanos() as i64)
}

fn identity(node: &str, role: Role) -> Identity {
    Identity { node: node.into(), role, cluster: "cluster".into() }
}

fn material(ca: &CertificateAuthority, node: &str, role: Role, life: Duration) -> TlsMaterial {
    let key = NodeKey::generate().unwrap();
    let cert = ca.issue(&key.request_pem().unwrap(), &identity(node, role), now(), life).unwrap();
    TlsMaterial::create(None, ca.trust().clone(), &key, &cert).unwrap()
}

/// Shakes hands; the client's identity as the server sees it, or what the refusing side says.
async fn shake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Result<Option<NodeCertificate>, String> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let accepted = tokio::spawn(async move {
        let mut stream = TlsAcceptor::from(server).accept(far).await.map_err(|e| handshake_error(&e))?;
        stream.write_all(b"x").await.map_err(|e| e.to_string())?;
        let certs = stream.get_ref().1.peer_certificates().unwrap_or_default();
        Ok(certs.first().map(|c| NodeCertificate::from_der(c).unwrap()))
    });
    let name = MANAGER_NAME.try_into().unwrap();
    let mut stream = TlsConnector::from(client).connect(name, near).await.map_err(|e| handshake_error(&e))?;
    // In TLS 1.3 the client learns that its certificate was refused with the first read.
    let answer = stream.read_u8().await;
    accepted.await.unwrap().and_then(|seen| answer.map(|_| seen).map_err(|e| handshake_error(&e)))
}

#[tokio::test]
async fn managers_and_workers_of_one_swarm_meet() {
    let ca = CertificateAuthority::generate(now()).unwrap();
    let manager = material(&ca, "boss", Role::Manager, DAY);
    let worker = material(&ca, "hand", Role::Worker, DAY);
    let seen = shake(worker.client_config(), manager.server_config()).await.unwrap().unwrap();
    assert_eq!(seen, *worker.certificate());
    assert_eq!(seen.identity, identity("hand", Role::Worker));
    let err = shake(worker.client_config(), worker.server_config()).await.unwrap_err();
    assert!(err.contains("not valid for name"), "a worker must not pass for a manager: {err}");
}

#[tokio::test]
async fn strangers_are_refused_both_ways() {
    let (ours, theirs) =
        (CertificateAuthority::generate(now()).unwrap(), CertificateAuthority::generate(now()).unwrap());
    let manager = material(&ours, "boss", Role::Manager, DAY);
    let stranger = material(&theirs, "boss", Role::Manager, DAY);
    assert!(shake(stranger.client_config(), manager.server_config()).await.is_err());
    assert!(shake(manager.client_config(), stranger.server_config()).await.is_err());
}

#[tokio::test]
async fn a_joiner_meets_only_the_swarm_of_its_token() {
    let (ours, theirs) =
        (CertificateAuthority::generate(now()).unwrap(), CertificateAuthority::generate(now()).unwrap());
    let manager = material(&ours, "boss", Role::Manager, DAY);
    let good = JoinToken::generate(ours.trust()).unwrap();
    let seen = shake(joining_client_config(&good).unwrap(), manager.server_config()).await.unwrap();
    assert_eq!(seen, None, "a joiner has no identity");
    good.check_root(ours.trust()).unwrap();

    let foreign = JoinToken::generate(theirs.trust()).unwrap();
    let err = shake(joining_client_config(&foreign).unwrap(), manager.server_config()).await.unwrap_err();
    let expected: String = theirs.trust().digest().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(err, format!("remote CA does not match fingerprint. Expected: {expected}"));
    assert!(foreign.check_root(ours.trust()).is_err());

    let worker = material(&ours, "hand", Role::Worker, DAY);
    assert!(shake(joining_client_config(&good).unwrap(), worker.server_config()).await.is_err());
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let ca = CertificateAuthority::generate(now()).unwrap();
    let manager = material(&ca, "boss", Role::Manager, DAY);
    let key = NodeKey::generate().unwrap();
    let long_ago = Timestamp(now().0 - 3 * DAY.as_nanos() as i64);
    let cert = ca.issue(&key.request_pem().unwrap(), &identity("hand", Role::Worker), long_ago, DAY).unwrap();
    let stale = TlsMaterial::create(None, ca.trust().clone(), &key, &cert).unwrap();
    assert!(stale.certificate().expired(now()));
    let err = shake(stale.client_config(), manager.server_config()).await.unwrap_err();
    assert!(err.to_lowercase().contains("expired"), "{err}");
}

#[tokio::test]
async fn a_renewed_certificate_shows_in_the_next_connection_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("certificates");
    let ca = CertificateAuthority::generate(now()).unwrap();
    let manager = material(&ca, "boss", Role::Manager, DAY);
    let issue = |node: &str, role| {
        let key = NodeKey::generate().unwrap();
        let cert = ca.issue(&key.request_pem().unwrap(), &identity(node, role), now(), DAY).unwrap();
        (key, cert)
    };
    assert!(TlsMaterial::load(&state).unwrap().is_none());
    let (key, cert) = issue("hand", Role::Worker);
    let node = TlsMaterial::create(Some(&state), ca.trust().clone(), &key, &cert).unwrap();
    assert_eq!(TlsMaterial::load(&state).unwrap().unwrap().certificate(), node.certificate());

    let (key, cert) = issue("hand", Role::Manager);
    node.replace(&key, &cert).unwrap();
    let seen = shake(node.client_config(), manager.server_config()).await.unwrap().unwrap();
    assert_eq!(seen.identity.role, Role::Manager);
    assert_eq!(TlsMaterial::load(&state).unwrap().unwrap().certificate(), node.certificate());

    let (key, cert) = issue("other", Role::Manager);
    assert!(matches!(node.replace(&key, &cert), Err(PkiError::NotOurs(_))), "another node's certificate");
    assert!(matches!(node.replace(&NodeKey::generate().unwrap(), &cert), Err(PkiError::NotOurs(_))));
    let foreign = CertificateAuthority::generate(now()).unwrap();
    let key = NodeKey::generate().unwrap();
    let cert = foreign.issue(&key.request_pem().unwrap(), &identity("hand", Role::Manager), now(), DAY).unwrap();
    assert!(matches!(node.replace(&key, &cert), Err(PkiError::NotOurs(_))), "signed by a foreign root");

    use std::os::unix::fs::PermissionsExt as _;
    for file in std::fs::read_dir(&state).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn the_ca_alone_decides_the_subject() {
    let ca = CertificateAuthority::generate(now()).unwrap();
    // A request that asks to be a CA named like another node.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![MANAGER_NAME.to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, "swarm-manager");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    let pem = ca.issue(&request, &identity("hand", Role::Worker), now(), DAY).unwrap();
    let cert = NodeCertificate::from_pem(&pem).unwrap();
    assert_eq!(cert.identity, identity("hand", Role::Worker));
    let der = &x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1;
    let parsed = der.parse_x509().unwrap();
    assert!(!parsed.is_ca());
    let names = format!("{:?}", parsed.subject_alternative_name().unwrap().unwrap().value);
    assert!(!names.contains(MANAGER_NAME), "{names}");

    let wrong_kind = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&wrong_kind).unwrap().pem().unwrap();
    for bad in [request.as_str(), "", "garbage", &pem] {
        let answer = ca.issue(bad, &identity("hand", Role::Worker), now(), DAY);
        assert!(matches!(answer, Err(PkiError::InvalidRequest(_))), "{answer:?}");
    }
}

#[test]
fn a_root_comes_back_from_its_pem_and_only_with_its_own_key() {
    let ca = CertificateAuthority::generate(now()).unwrap();
    let again = CertificateAuthority::from_pem(ca.trust().pem(), &ca.key_pem()).unwrap();
    assert_eq!(again.trust(), ca.trust());
    let node = material(&again, "boss", Role::Manager, DAY);
    assert_eq!(node.trust(), ca.trust());
    let other = CertificateAuthority::generate(now()).unwrap();
    assert!(CertificateAuthority::from_pem(ca.trust().pem(), &other.key_pem()).is_err());
    let info = ca.trust().tls_info().unwrap();
    assert_eq!(info.trust_root, ca.trust().pem());
    assert!(!info.cert_issuer_public_key.is_empty() && !info.cert_issuer_subject.is_empty());
}

#[test]
fn renewal_is_due_between_half_and_four_fifths_of_the_life() {
    let ca = CertificateAuthority::generate(now()).unwrap();
    let start = now();
    let cert = material(&ca, "hand", Role::Worker, 90 * DAY).certificate();
    let (from, until) = cert.renewal_window();
    assert!(from.since(start).abs_diff(45 * DAY) < Duration::from_secs(60));
    assert!(until.since(start).abs_diff(72 * DAY) < Duration::from_secs(60));
}

#[test]
fn nothing_secret_is_printed() {
    let ca = CertificateAuthority::generate(now()).unwrap();
    let node = material(&ca, "hand", Role::Worker, DAY);
    let shown = format!("{ca:?} {node:?} {:?}", NodeKey::generate().unwrap());
    assert!(
        !shown.contains("PRIVATE KEY")
            && !ca.key_pem().lines().any(|l| l.len() > 20 && shown.contains(l) && !l.starts_with("-"))
    );
}
