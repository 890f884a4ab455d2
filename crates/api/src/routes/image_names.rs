//! Image names as requests carry them: `name[:tag][@digest]`, and paths whose middle is such a name.

use crate::backend::ImageReference;

/// Parts `host:5000/a/b:tag` and `a@sha256:…` into name and tag or digest.
pub(super) fn parse(text: &str) -> ImageReference {
    if let Some((name, digest)) = text.split_once('@') {
        return ImageReference { name: name.into(), tag: digest.into() };
    }
    match text.rsplit_once(':') {
        // A colon before the last slash is a port's.
        Some((name, tag)) if !tag.contains('/') => ImageReference { name: name.into(), tag: tag.into() },
        _ => ImageReference { name: text.into(), tag: String::new() },
    }
}

/// `fromImage=` with `tag=`, which wins where it is set.
pub(super) fn with_tag(name: &str, tag: &str) -> ImageReference {
    let parsed = parse(name);
    if tag.is_empty() { parsed } else { ImageReference { name: parsed.name, tag: tag.into() } }
}

/// The name in `a/b/json` for the suffix `json`.
pub(super) fn before<'a>(path: &'a str, suffix: &str) -> Option<&'a str> {
    path.strip_suffix(suffix)?.strip_suffix('/').filter(|name| !name.is_empty())
}

/// Docker's globs for `--filter reference=`: `*` and `?` stay inside a path element.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    matches_glob(&p, &t)
}

fn matches_glob(p: &[char], t: &[char]) -> bool {
    match (p.first(), t.first()) {
        (None, None) => true,
        (Some('*'), _) => matches_glob(&p[1..], t) || t.first().is_some_and(|c| *c != '/') && matches_glob(p, &t[1..]),
        (Some('?'), Some(c)) if *c != '/' => matches_glob(&p[1..], &t[1..]),
        (Some(a), Some(b)) if a == b => matches_glob(&p[1..], &t[1..]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_tags_and_digests_are_told_apart() {
        let parts = |t| {
            let r = parse(t);
            (r.name, r.tag)
        };
        assert_eq!(parts("host:5000/a/b"), ("host:5000/a/b".into(), String::new()));
        assert_eq!(parts("host:5000/a/b:1"), ("host:5000/a/b".into(), "1".into()));
        assert_eq!(parts("a@sha256:00"), ("a".into(), "sha256:00".into()));
        assert_eq!(with_tag("alpine", "3").tag, "3");
        assert_eq!(before("host:5000/a/json/json", "json"), Some("host:5000/a/json"));
        assert_eq!(before("json", "json"), None);
        assert!(glob("al*:3.?", "alpine:3.1") && !glob("*", "a/b") && glob("*/b", "a/b"));
    }
}
