//! Talking to registries: which hosts stand for a name, how they are spoken to, and what their errors mean.

use std::{net::IpAddr, time::Duration};

use base64::Engine;
use bytes::Bytes;
use futures::stream::BoxStream;
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    secrets::RegistryAuth as OciAuth,
};

use super::{
    manifest::{Descriptor, Index, MANIFEST_TYPES, Manifest, is_index},
    platform::Platform,
    store,
    types::{DistributionInfo, RegistryAuth},
};
use crate::{Result, Runtime, RuntimeError, config::RegistryConfig, reference::ImageName};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// One way to reach a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Endpoint {
    host: String,
    plain_http: bool,
    verify: bool,
    mirror: bool,
}

/// A repository at the endpoint that answered for it.
pub(crate) struct Source {
    client: Client,
    host: String,
    path: String,
    auth: OciAuth,
}

/// What a name led to.
pub(crate) struct Fetched {
    pub(crate) source: Source,
    pub(crate) descriptor: Descriptor,
    pub(crate) bytes: Vec<u8>,
}

/// Fetches what `name` points at from the first endpoint that has it.
pub(crate) async fn fetch(config: &RegistryConfig, name: &ImageName, auth: Option<&RegistryAuth>) -> Result<Fetched> {
    // Other users of rustls may have installed it already; it is the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut last = None;
    for endpoint in endpoints(config, name) {
        let source = Source::new(&endpoint, name, if endpoint.mirror { None } else { auth })?;
        let wanted = source.reference(name.tag.as_deref(), name.digest.as_deref());
        match source.client.pull_manifest_raw(&wanted, &source.auth, MANIFEST_TYPES).await {
            Ok((bytes, digest)) => {
                let descriptor = describe(&bytes, digest)?;
                return Ok(Fetched { source, descriptor, bytes: bytes.to_vec() });
            }
            Err(error) => {
                tracing::debug!(host = endpoint.host, %error, "registry endpoint failed");
                let settled = !endpoint.mirror && !matches!(error, OciDistributionError::RequestError(_));
                last = Some(explain(name, &endpoint, &error));
                if settled {
                    break;
                }
            }
        }
    }
    Err(last.unwrap_or_else(|| RuntimeError::internal("no registry endpoint")))
}

impl Source {
    fn new(endpoint: &Endpoint, name: &ImageName, auth: Option<&RegistryAuth>) -> Result<Self> {
        let config = ClientConfig {
            protocol: if endpoint.plain_http { ClientProtocol::Http } else { ClientProtocol::Https },
            accept_invalid_certificates: !endpoint.verify,
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("malha/", env!("CARGO_PKG_VERSION")),
            https_proxy: environment("HTTPS_PROXY"),
            http_proxy: environment("HTTP_PROXY"),
            no_proxy: environment("NO_PROXY"),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|e| RuntimeError::internal(format!("registry client: {e}")))?;
        let auth = auth.map_or(OciAuth::Anonymous, RegistryAuth::for_client);
        Ok(Self { client, host: endpoint.host.clone(), path: name.path.clone(), auth })
    }

    fn reference(&self, tag: Option<&str>, digest: Option<&str>) -> Reference {
        let (host, path) = (self.host.clone(), self.path.clone());
        match (digest, tag) {
            (Some(digest), _) => Reference::with_digest(host, path, digest.into()),
            (None, tag) => Reference::with_tag(host, path, tag.unwrap_or("latest").into()),
        }
    }

    pub(crate) async fn manifest(&self, digest: &str) -> Result<Vec<u8>> {
        let wanted = self.reference(None, Some(digest));
        let pulled = self.client.pull_manifest_raw(&wanted, &self.auth, MANIFEST_TYPES).await;
        pulled.map(|(bytes, _)| bytes.to_vec()).map_err(|e| RuntimeError::Internal(format!("manifest {digest}: {e}")))
    }

    pub(crate) async fn blob(&self, digest: &str) -> std::io::Result<BoxStream<'static, std::io::Result<Bytes>>> {
        let image = self.reference(None, Some(digest));
        let stream = self.client.pull_blob_stream(&image, digest).await;
        stream.map(|s| s.stream).map_err(std::io::Error::other)
    }
}

fn environment(name: &str) -> Option<String> {
    [name.to_owned(), name.to_ascii_lowercase()].iter().find_map(|n| std::env::var(n).ok()).filter(|v| !v.is_empty())
}

/// Mirrors first (of docker.io only), then the registry itself; an insecure one by HTTPS, then by HTTP.
fn endpoints(config: &RegistryConfig, name: &ImageName) -> Vec<Endpoint> {
    let mut all = Vec::new();
    if name.is_docker_hub() {
        for mirror in &config.mirrors {
            let plain_http = mirror.starts_with("http://");
            let host = mirror.trim_start_matches("http://").trim_start_matches("https://").trim_end_matches('/');
            let verify = !is_insecure(config, host);
            all.push(Endpoint { host: host.into(), plain_http, verify, mirror: true });
        }
    }
    let host = name.domain.clone();
    let insecure = is_insecure(config, &host);
    all.push(Endpoint { host: host.clone(), plain_http: false, verify: !insecure, mirror: false });
    if insecure {
        all.push(Endpoint { host, plain_http: true, verify: false, mirror: false });
    }
    all
}

/// Listed by name, by address range, or on this very machine.
fn is_insecure(config: &RegistryConfig, host: &str) -> bool {
    let bare = host.rsplit_once(':').filter(|(_, p)| p.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(h, _)| h);
    let address: Option<IpAddr> = bare.trim_matches(['[', ']']).parse().ok();
    bare == "localhost"
        || address.is_some_and(|a| a.is_loopback())
        || config
            .insecure
            .iter()
            .any(|entry| entry == host || entry == bare || address.is_some_and(|a| in_network(entry, a)))
}

fn in_network(cidr: &str, address: IpAddr) -> bool {
    let Some((network, length)) = cidr.split_once('/') else { return false };
    let (Ok(network), Ok(length)) = (network.parse::<IpAddr>(), length.parse::<u32>()) else { return false };
    let top = |bits: u128, width: u32| if length == 0 { 0 } else { bits >> (width.saturating_sub(length)) };
    match (network, address) {
        (IpAddr::V4(n), IpAddr::V4(a)) => top(n.to_bits().into(), 32) == top(a.to_bits().into(), 32),
        (IpAddr::V6(n), IpAddr::V6(a)) => top(n.to_bits(), 128) == top(a.to_bits(), 128),
        _ => false,
    }
}

/// Old registries leave the media type out of the document.
fn describe(bytes: &[u8], digest: String) -> Result<Descriptor> {
    let value: serde_json::Value = store::parse("manifest", bytes)?;
    let media_type = match value.get("mediaType").and_then(|m| m.as_str()) {
        Some(named) => named.to_owned(),
        None if value.get("manifests").is_some() => super::manifest::OCI_INDEX.to_owned(),
        None if value.get("config").is_some() => super::manifest::OCI_MANIFEST.to_owned(),
        None => return Err(RuntimeError::invalid("the registry sent a manifest of an unsupported, old schema")),
    };
    Ok(Descriptor { media_type, digest, size: i64::try_from(bytes.len()).unwrap_or(0), ..Descriptor::default() })
}

fn explain(name: &ImageName, endpoint: &Endpoint, error: &OciDistributionError) -> RuntimeError {
    let shown = name.familiar();
    let status = match error {
        OciDistributionError::ServerError { code, .. } => *code,
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => 401,
        OciDistributionError::ImageManifestNotFoundError(_) => 404,
        OciDistributionError::RegistryError { envelope, .. } => {
            use oci_client::errors::OciErrorCode as C;
            match envelope.errors.first().map(|e| &e.code) {
                Some(C::ManifestUnknown | C::NameUnknown | C::NotFound) => 404,
                Some(C::Denied | C::Unauthorized) => 401,
                _ => 500,
            }
        }
        _ => 500,
    };
    match status {
        404 => RuntimeError::NotFound(format!("manifest for {shown} not found: manifest unknown: manifest unknown")),
        401 | 403 => RuntimeError::NotFound(format!(
            "pull access denied for {}, repository does not exist or may require 'docker login': denied: \
             requested access to the resource is denied",
            name.familiar_repository()
        )),
        _ => {
            let scheme = if endpoint.plain_http { "http" } else { "https" };
            RuntimeError::Internal(format!("Get \"{scheme}://{}/v2/\": {}", endpoint.host, causes(error)))
        }
    }
}

/// An error with everything behind it: reqwest hides the telling part.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl RegistryAuth {
    /// Reads an `X-Registry-Auth` header: base64 of JSON, URL alphabet or not. An empty one is nobody.
    pub fn from_header(header: &str) -> Result<Option<Self>> {
        let bad = || RuntimeError::invalid("invalid X-Registry-Auth header");
        let text = header.trim().trim_end_matches('=');
        if text.is_empty() {
            return Ok(None);
        }
        let plain = text.replace('+', "-").replace('/', "_");
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(plain).map_err(|_| bad())?;
        let auth: Self = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        Ok(Some(auth).filter(|a| *a != Self { serveraddress: a.serveraddress.clone(), ..Self::default() }))
    }

    fn for_client(&self) -> OciAuth {
        if !self.registrytoken.is_empty() {
            return OciAuth::Bearer(self.registrytoken.clone());
        }
        let decoded = base64::engine::general_purpose::STANDARD.decode(&self.auth).ok();
        let decoded = decoded.and_then(|b| String::from_utf8(b).ok());
        match decoded.as_deref().and_then(|t| t.split_once(':')) {
            Some((user, password)) if self.username.is_empty() => OciAuth::Basic(user.into(), password.into()),
            _ if self.username.is_empty() => OciAuth::Anonymous,
            _ => OciAuth::Basic(self.username.clone(), self.password.clone()),
        }
    }
}

impl Runtime {
    /// Asks the registry, not this machine.
    pub async fn distribution_inspect(&self, reference: &str, auth: Option<RegistryAuth>) -> Result<DistributionInfo> {
        let name = ImageName::parse(reference)?.or_latest();
        let fetched = fetch(&self.inner.config.registries, &name, auth.as_ref()).await?;
        let descriptor = fetched.descriptor;
        let platforms = if is_index(&descriptor.media_type) {
            let index: Index = store::parse("index", &fetched.bytes)?;
            index.manifests.iter().filter_map(|m| m.platform.as_ref()).map(Into::into).collect()
        } else {
            let manifest: Manifest = store::parse("manifest", &fetched.bytes)?;
            vec![(&config_platform(&fetched.source, &manifest).await?).into()]
        };
        Ok(DistributionInfo {
            media_type: descriptor.media_type,
            digest: descriptor.digest,
            size: descriptor.size,
            platforms,
        })
    }
}

async fn config_platform(source: &Source, manifest: &Manifest) -> Result<Platform> {
    use futures::TryStreamExt;
    let fail = |e: std::io::Error| RuntimeError::io("read the image's config", e);
    let mut stream = source.blob(&manifest.config.digest).await.map_err(fail)?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.try_next().await.map_err(fail)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > 8 << 20 {
            return Err(RuntimeError::invalid("the image's config is too large"));
        }
    }
    store::parse("config", &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_listed_registries_are_insecure() {
        let config = RegistryConfig {
            insecure: vec!["10.1.0.0/16".into(), "reg.local:5000".into()],
            mirrors: vec!["http://127.0.0.1:6000/".into()],
        };
        for host in ["localhost:5000", "127.0.0.1", "127.9.9.9:80", "[::1]:5000", "10.1.2.3:5000", "reg.local:5000"] {
            assert!(is_insecure(&config, host), "{host}");
        }
        for host in ["docker.io", "10.2.0.1:5000", "reg.local:5001"] {
            assert!(!is_insecure(&config, host), "{host}");
        }
        let hub = endpoints(&config, &ImageName::parse("x").unwrap());
        assert_eq!(hub[0].host, "127.0.0.1:6000");
        assert!(hub[0].plain_http && hub[0].mirror && !hub[1].mirror && hub[1].verify);
    }

    #[test]
    fn auth_headers_are_read_in_both_alphabets() {
        let auth = RegistryAuth { username: "u?>".into(), password: "p~~".into(), ..RegistryAuth::default() };
        let json = serde_json::to_string(&auth).unwrap();
        for engine in [base64::engine::general_purpose::URL_SAFE, base64::engine::general_purpose::STANDARD] {
            assert_eq!(RegistryAuth::from_header(&engine.encode(&json)).unwrap(), Some(auth.clone()));
        }
        assert_eq!(RegistryAuth::from_header("e30=").unwrap(), None);
        assert!(RegistryAuth::from_header("!").is_err());
    }
}
