//! What an image runs on, in Go's words: `linux/arm64/v8`.

use serde::{Deserialize, Serialize};

use super::types::ImagePlatform;
use crate::{Result, RuntimeError};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
}

const SYSTEMS: &[&str] = &["linux", "windows", "darwin", "freebsd"];
const ARCHITECTURES: &[&str] =
    &["386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x", "wasm"];

/// Go's name of an architecture.
fn known_name(architecture: &str) -> &str {
    match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "i386" => "386",
        "armhf" => "arm",
        other => other,
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slash = if self.variant.is_empty() { "" } else { "/" };
        write!(f, "{}/{}{slash}{}", self.os, self.architecture, self.variant)
    }
}

impl Platform {
    /// What this machine runs, in Go's words.
    pub(crate) fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self { architecture: architecture.into(), os: "linux".into(), variant: String::new() }
    }

    /// `linux/arm64[/v8]`; a single word is an architecture of this system, or a system on this architecture.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let lower = text.to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        let host = Self::host();
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, ""),
            [os, architecture, variant] => (os, architecture, variant),
            [system] if SYSTEMS.contains(&system) => (system, host.architecture.as_str(), ""),
            [word] if ARCHITECTURES.contains(&known_name(word)) => (host.os.as_str(), word, ""),
            _ => ("", "", ""),
        };
        if os.is_empty() || architecture.is_empty() {
            let why = "unknown operating system or architecture";
            return Err(RuntimeError::invalid(format!("\"{text}\": {why}: invalid argument")));
        }
        Ok(Self { os: os.into(), architecture: known_name(architecture).into(), variant: variant.into() })
    }

    /// Whether an image for `self` runs where `wanted` is asked for. An empty field says nothing.
    pub(crate) fn serves(&self, wanted: &Self) -> bool {
        let agree = |a: &str, b: &str| a.is_empty() || b.is_empty() || a == b;
        agree(&self.os, &wanted.os)
            && agree(&self.architecture, &wanted.architecture)
            && agree(&self.variant, &wanted.variant)
    }
}

impl From<&Platform> for ImagePlatform {
    fn from(p: &Platform) -> Self {
        Self { architecture: p.architecture.clone(), os: p.os.clone(), variant: p.variant.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_as_dockers_are() {
        let shown = |text: &str| Platform::parse(text).map(|p| p.to_string()).map_err(|e| e.to_string());
        let host = Platform::host();
        assert_eq!(shown("linux/ARM64/v8"), Ok("linux/arm64/v8".into()));
        assert_eq!(shown("linux/x86_64"), Ok("linux/amd64".into()));
        assert_eq!(shown("aarch64"), Ok("linux/arm64".into()));
        assert_eq!(shown("linux"), Ok(host.to_string()));
        for bad in ["", "/", "linux/", "pdp11", "a/b/c/d"] {
            let why = format!("\"{bad}\": unknown operating system or architecture: invalid argument");
            assert_eq!(shown(bad), Err(why));
        }
    }

    #[test]
    fn an_image_serves_who_asks_for_no_more_than_it_says() {
        let serves =
            |image: &str, wanted: &str| Platform::parse(image).unwrap().serves(&Platform::parse(wanted).unwrap());
        assert!(serves("linux/arm64/v8", "arm64") && serves("linux/amd64", "linux/amd64/v2"));
        assert!(!serves("linux/amd64", "linux/arm64") && !serves("linux/amd64", "windows/amd64"));
        assert!(!serves("linux/arm/v6", "linux/arm/v7"));
    }
}
