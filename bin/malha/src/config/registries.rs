//! Registries of the settings: what cannot be meant is refused at the start, in Docker's words, and not at the first pull.

use anyhow::{Result, bail, ensure};
use ipnet::IpNet;

/// A mirror as the puller takes it: `http(s)://host[:port]`. Mirrors below a path are not supported.
pub(super) fn mirror(text: &str) -> Result<String> {
    let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| !scheme.is_empty()) else {
        bail!("invalid mirror: no scheme specified for {text:?}: must use either 'https://' or 'http://'");
    };
    let scheme = scheme.to_ascii_lowercase();
    let (address, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if let Some((user, host)) = address.rsplit_once('@') {
        // errors end in logs: a password does not
        let user = user.split(':').next().unwrap_or_default();
        bail!("invalid mirror: username/password not allowed in URI \"{scheme}://{user}:xxxxx@{host}{tail}\"");
    }
    ensure!(
        scheme == "http" || scheme == "https",
        "invalid mirror: unsupported scheme {scheme:?} in {text:?}: must use either 'https://' or 'http://'"
    );
    ensure!(!tail.contains(['?', '#']), "invalid mirror: query or fragment at end of the URI {text:?}");
    ensure!(matches!(tail, "" | "/"), "invalid mirror: a path is not supported in the URI {text:?}");
    if let Err(e) = host_port(address) {
        bail!("invalid mirror: {text:?} is not a valid URI: {e}");
    }
    Ok(format!("{scheme}://{address}"))
}

/// `host[:port]` or a range of addresses.
pub(super) fn insecure(text: &str) -> Result<String> {
    ensure!(!text.contains("://"), "insecure registry {text} should not contain '://'");
    if text.parse::<IpNet>().is_err()
        && let Err(e) = host_port(text)
    {
        bail!("insecure registry {text} is not valid: {e}");
    }
    Ok(text.to_owned())
}

fn host_port(text: &str) -> Result<()> {
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok(());
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let in_brackets = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let known = match in_brackets {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(is_label),
    };
    ensure!(known, "invalid host {host:?}");
    match port {
        Some(port) if port.parse::<u16>().is_err() => bail!("invalid port {port:?}"),
        _ => Ok(()),
    }
}

fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
    !text.is_empty() && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_meant_is_taken() {
        for (given, taken) in [
            ("https://mirror.gcr.io", "https://mirror.gcr.io"),
            ("http://10.0.0.9:5000/", "http://10.0.0.9:5000"),
            ("HTTPS://m-1.example.com", "https://m-1.example.com"),
            ("http://[2001:db8::1]:5000", "http://[2001:db8::1]:5000"),
        ] {
            assert_eq!(mirror(given).unwrap(), taken);
        }
        for given in
            ["localhost", "reg.example.com:5000", "10.0.0.0/8", "fd00::/8", "2001:db8::1", "[2001:db8::1]:80", "[::1]"]
        {
            assert_eq!(insecure(given).unwrap(), given);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_reason() {
        for (given, why) in [
            ("mirror.example.com:5000", "no scheme specified for \"mirror.example.com:5000\""),
            ("://x", "no scheme specified"),
            ("ftp://mirror.example.com", "unsupported scheme \"ftp\" in \"ftp://mirror.example.com\""),
            ("http://m/?q=x", "query or fragment at end of the URI \"http://m/?q=x\""),
            ("http://m#x", "query or fragment"),
            ("https://m/v1/", "a path is not supported in the URI \"https://m/v1/\""),
            ("https://me:secret@m", "username/password not allowed in URI \"https://me:xxxxx@m\""),
            ("http://", "invalid host \"\""),
            ("http://a b", "\"http://a b\" is not a valid URI: invalid host \"a b\""),
            ("http://m:70000", "invalid port \"70000\""),
        ] {
            let said = mirror(given).unwrap_err().to_string();
            assert!(said.starts_with("invalid mirror: ") && said.contains(why), "{given}: {said}");
            assert!(!said.contains("secret"), "{said}");
        }
        for (given, why) in [
            ("http://reg:5000", "insecure registry http://reg:5000 should not contain '://'"),
            ("reg:500000", "insecure registry reg:500000 is not valid: invalid port \"500000\""),
            ("-reg", "insecure registry -reg is not valid: invalid host \"-reg\""),
            ("reg:5000/path", "invalid port \"5000/path\""),
            ("10.0.0.0/33", "invalid host \"10.0.0.0/33\""),
            ("1200:0000:AB00:1234:0000:2552:7777:1313:8080", "invalid host"),
            ("", "invalid host \"\""),
        ] {
            let said = insecure(given).unwrap_err().to_string();
            assert!(said.contains(why), "{given}: {said}");
        }
    }
}
