//! Image names as Docker reads and shows them.
//!
//! `x` means `docker.io/library/x:latest` and is shown as `x:latest`. The full form is what containerd stores.

use crate::{Result, RuntimeError};

const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL: &str = "library/";

/// A parsed name: `domain/path[:tag][@digest]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageName {
    pub(crate) domain: String,
    /// Within the domain; `library/x` for docker.io's own.
    pub(crate) path: String,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<String>,
}

impl ImageName {
    /// Reads any form but an id. A name without tag and digest keeps both empty.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let bad = || RuntimeError::invalid("invalid reference format");
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.to_owned())),
            None => (text, None),
        };
        if digest.as_ref().is_some_and(|d| !is_digest(d)) {
            return Err(bad());
        }
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((rest, tag)) if !tag.contains('/') => (rest, Some(tag.to_owned())),
            _ => (rest, None),
        };
        if tag.as_ref().is_some_and(|t| !is_tag(t)) {
            return Err(bad());
        }
        if is_hex64(rest) {
            return Err(RuntimeError::invalid(format!(
                "invalid repository name ({rest}), cannot specify 64-byte hexadecimal strings"
            )));
        }
        let (domain, path) = split_domain(rest);
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(RuntimeError::invalid("invalid reference format: repository name must be lowercase"));
        }
        if !path.split('/').all(is_path_component) || domain.is_empty() {
            return Err(bad());
        }
        Ok(Self { domain, path, tag, digest })
    }

    /// The same with `latest` where there is neither tag nor digest.
    pub(crate) fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".into());
        }
        self
    }

    /// `docker.io/library/x`
    pub(crate) fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// `x`, `user/x`, `host:5000/x`.
    pub(crate) fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The name of containerd's image record: the digest wins over the tag.
    pub(crate) fn record(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}@{digest}", self.repository()),
            (None, Some(tag)) => format!("{}:{tag}", self.repository()),
            (None, None) => self.repository(),
        }
    }

    /// As Docker shows it: `x:latest`, `x@sha256:…`.
    pub(crate) fn familiar(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}@{digest}", self.familiar_repository()),
            (None, Some(tag)) => format!("{}:{tag}", self.familiar_repository()),
            (None, None) => self.familiar_repository(),
        }
    }

    pub(crate) fn is_docker_hub(&self) -> bool {
        self.domain == DEFAULT_DOMAIN
    }
}

fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || has_upper(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    let path =
        if domain == DEFAULT_DOMAIN && !path.contains('/') { format!("{OFFICIAL}{path}") } else { path.to_owned() };
    (domain.to_owned(), path)
}

fn has_upper(s: &str) -> bool {
    s.bytes().any(|b| b.is_ascii_uppercase())
}

/// Lowercase alphanumerics, joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(s: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = s.as_bytes();
    let ends = |b: Option<&u8>| b.is_some_and(|b| alnum(*b));
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|b| alnum(*b) || b"._-".contains(b))
        && !["..", "___", "._", "_.", "-.", ".-", "_-", "-_"].iter().any(|bad| s.contains(bad))
}

fn is_tag(s: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    s.len() <= 128 && s.bytes().next().is_some_and(word) && s.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

pub(crate) fn is_digest(s: &str) -> bool {
    s.strip_prefix("sha256:").is_some_and(is_hex64)
}

fn is_hex64(s: &str) -> bool {
    s.len() == 64 && is_hex(s)
}

/// Lowercase hex, as ids are written.
pub(crate) fn is_hex(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(s: &str) -> String {
        ImageName::parse(s).unwrap().or_latest().record()
    }

    #[test]
    fn names_are_completed_and_shortened_as_docker_does() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, record, familiar) in [
            ("x", "docker.io/library/x:latest", "x:latest"),
            ("x:1", "docker.io/library/x:1", "x:1"),
            ("user/x", "docker.io/user/x:latest", "user/x:latest"),
            ("docker.io/x", "docker.io/library/x:latest", "x:latest"),
            ("index.docker.io/library/x", "docker.io/library/x:latest", "x:latest"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            ("10.0.0.1:5000/a/b:v1.2", "10.0.0.1:5000/a/b:v1.2", "10.0.0.1:5000/a/b:v1.2"),
            (&format!("x@{digest}"), &format!("docker.io/library/x@{digest}"), &format!("x@{digest}")),
            (&format!("x:1@{digest}"), &format!("docker.io/library/x@{digest}"), &format!("x@{digest}")),
        ] {
            assert_eq!(full(text), record);
            assert_eq!(ImageName::parse(text).unwrap().or_latest().familiar(), familiar);
        }
    }

    #[test]
    fn bad_names_are_refused() {
        for text in
            ["", "X", "x:", "x:-a", "a//b", "-a", "a/", "x@sha256:12", "x y", "a..b", "http://x", &"a".repeat(64)]
        {
            assert!(ImageName::parse(text).is_err(), "{text:?}");
        }
    }
}
