//! API versions: the `/v1.NN` prefix of a path, and what versions are served.

use std::fmt;

use malha_model::{ApiError, Code};

/// `major.minor`, as in `/v1.41/info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    pub major: u16,
    pub minor: u16,
}

/// The newest version served, also what a path without a version means.
pub const MAX_API_VERSION: ApiVersion = ApiVersion::new(1, 50);
/// The oldest.
pub const MIN_API_VERSION: ApiVersion = ApiVersion::new(1, 24);

impl ApiVersion {
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// True where the client speaks at least `1.minor`.
    pub fn at_least(self, minor: u16) -> bool {
        self >= Self::new(1, minor)
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        let digits =
            |s: &str| (!s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().ok()).flatten();
        Some(Self { major: digits(major)?, minor: digits(minor)? })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Parts `/v1.41/info` into the version and `/info`. A path without a version is of the newest; a version out of range is
/// refused with Docker's text.
pub(crate) fn split(path: &str) -> Result<(ApiVersion, &str), ApiError> {
    let Some((text, rest)) = versioned(path) else { return Ok((MAX_API_VERSION, path)) };
    // A number too large to be read is surely too new.
    let version = ApiVersion::parse(text).unwrap_or(ApiVersion::new(u16::MAX, 0));
    let refused = |text| Err(ApiError::plain(Code::InvalidArgument, text));
    if version > MAX_API_VERSION {
        return refused(format!(
            "client version {text} is too new. Maximum supported API version is {MAX_API_VERSION}"
        ));
    }
    if version < MIN_API_VERSION {
        return refused(format!(
            "client version {text} is too old. Minimum supported API version is {MIN_API_VERSION}, please upgrade your \
             client to a newer version"
        ));
    }
    Ok((version, rest))
}

fn versioned(path: &str) -> Option<(&str, &str)> {
    let tail = path.strip_prefix("/v")?;
    let end = tail.find('/')?;
    let (text, rest) = tail.split_at(end);
    let shaped = text.contains('.') && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    shaped.then_some((text, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_taken_off_and_ranged() {
        assert_eq!(split("/v1.41/info").unwrap(), (ApiVersion::new(1, 41), "/info"));
        assert_eq!(split("/info").unwrap(), (MAX_API_VERSION, "/info"));
        assert_eq!(split("/volumes").unwrap(), (MAX_API_VERSION, "/volumes"));
        assert_eq!(split("/v1.x/info").unwrap().1, "/v1.x/info");
        let new = split("/v1.99/info").unwrap_err();
        assert_eq!(new.http_status(), 400);
        assert_eq!(new.message, "client version 1.99 is too new. Maximum supported API version is 1.50");
        assert!(split("/v1.12/info").unwrap_err().message.starts_with("client version 1.12 is too old. Minimum"));
        assert!(split("/v9999999999.1/info").is_err());
    }
}
