//! TCP with TLS: in with a certificate of the authority, out without.

use std::path::Path;

use malha_api::{TlsFiles, serve_tls, server_config};
use malha_kit::CancellationToken;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;

use crate::support::Host;

fn authority() -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let cert = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), cert)
}

/// `ca.pem`, `cert.pem` and `key.pem`, as `docker --tlsverify` finds them in `DOCKER_CERT_PATH`.
fn write(dir: &Path, ca: &str, issuer: &Issuer<'static, KeyPair>) {
    std::fs::create_dir_all(dir).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let cert = params.signed_by(&key, issuer).unwrap();
    std::fs::write(dir.join("ca.pem"), ca).unwrap();
    std::fs::write(dir.join("cert.pem"), cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
}

#[tokio::test]
async fn only_certified_clients_get_in() {
    let host = Host::start().await;
    let (issuer, ca) = authority();
    let (stranger, _) = authority();
    let server = host.dir.path().join("server");
    write(&server, &ca, &issuer);
    let files = [server.join("ca.pem"), server.join("cert.pem"), server.join("key.pem")];
    let config = server_config(TlsFiles { ca: &files[0], cert: &files[1], key: &files[2] }).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let token = CancellationToken::new();
    let served = tokio::spawn(serve_tls(listener, config, host.api(), token.clone()));

    for (name, issuer, allowed) in [("good", &issuer, true), ("bad", &stranger, false)] {
        let client = host.dir.path().join(name);
        write(&client, &ca, issuer);
        let mut command = host.command("docker");
        command.env("DOCKER_HOST", &address).env("DOCKER_CERT_PATH", &client).env("DOCKER_TLS_VERIFY", "1");
        command.args(["exec", "-i", "b4a6", "cat"]);
        let done = host.run(command, b"over tls").await;
        assert_eq!(done.code == 0, allowed, "{done:?}");
        assert_eq!(done.stdout == "over tls", allowed, "{done:?}");
    }
    let mut command = host.command("docker");
    command.env("DOCKER_HOST", &address).args(["ps"]);
    assert_ne!(host.run(command, b"").await.code, 0, "a client without TLS got in");
    // One that has not said hello does not hold up the end, nor does it get in then.
    let _silent = tokio::net::TcpStream::connect(address.trim_start_matches("tcp://")).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    token.cancel();
    tokio::time::timeout(std::time::Duration::from_secs(1), served).await.expect("the server waits").unwrap();
}
