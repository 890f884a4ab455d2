//! Image references, as far as their form tells.

/// True where `reference` is `[registry[:port]/]path[:tag][@digest]`.
pub(super) fn is_reference(reference: &str) -> bool {
    let (rest, digest) = match reference.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (reference, None),
    };
    let last = rest.rfind('/').map_or(0, |i| i + 1);
    let (name, tag) = match rest[last..].rfind(':') {
        Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
        None => (rest, None),
    };
    tag.is_none_or(is_tag) && digest.is_none_or(is_digest) && is_name(name)
}

fn is_tag(tag: &str) -> bool {
    let first = tag.chars().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    first && tag.len() <= 128 && tag.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        let named = algorithm.chars().all(|c| c.is_ascii_alphanumeric() || "+._-".contains(c)) && !algorithm.is_empty();
        named && hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit())
    })
}

/// The first part is a registry where it looks like a host; only a registry may have upper case.
fn is_name(name: &str) -> bool {
    let path = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" || host.contains(char::is_uppercase) => {
            if !is_registry(host) {
                return false;
            }
            path
        }
        _ => name,
    };
    path.split('/').all(is_component)
}

fn is_registry(host: &str) -> bool {
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (host, "0"),
    };
    let named = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
    let literal = host.starts_with('[') && host.ends_with(']');
    port.parse::<u16>().is_ok() && !host.is_empty() && (literal || host.chars().all(named))
}

fn is_component(part: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inside = part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c));
    inside && edge(part.chars().next()) && edge(part.chars().last())
}
