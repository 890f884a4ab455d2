//! Query strings, read the way Docker reads them.

use std::{convert::Infallible, str::FromStr};

use axum::extract::FromRequestParts;
use http::request::Parts;
use malha_model::{ApiError, ApiResult, Code, Timestamp};

use super::filters::Filters;

/// The parameters of a request, in order, repeated ones kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

impl Query {
    pub(crate) fn parse(query: &str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The value, or the empty string.
    pub(crate) fn text(&self, key: &str) -> String {
        self.get(key).unwrap_or_default().to_owned()
    }

    pub(crate) fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == key).map(|(_, v)| v.clone()).collect()
    }

    /// Everything but nothing, `0`, `no`, `false` and `none` is true.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.flag_or(key, false)
    }

    pub(crate) fn flag_or(&self, key: &str, default: bool) -> bool {
        match self.get(key).map(|v| v.trim().to_lowercase()) {
            None => default,
            Some(v) => !matches!(v.as_str(), "" | "0" | "no" | "false" | "none"),
        }
    }

    /// A number; absent and empty are `None`.
    pub(crate) fn number<T: FromStr>(&self, key: &str) -> ApiResult<Option<T>> {
        match self.get(key) {
            None | Some("") => Ok(None),
            Some(v) => v.parse().map(Some).map_err(|_| bad(format!("invalid value for \"{key}\": \"{v}\""))),
        }
    }

    /// `?version=` of an update of `what`.
    pub(crate) fn object_version(&self, what: &str) -> ApiResult<u64> {
        let raw = self.get("version").unwrap_or_default();
        raw.parse().map_err(|_| bad(format!("invalid {what} version '{raw}': it must be a number")))
    }

    /// Seconds since the epoch with an optional fraction, or RFC 3339. Zero is “from the beginning”.
    pub(crate) fn time(&self, key: &str) -> ApiResult<Option<Timestamp>> {
        match self.get(key) {
            None | Some("" | "0") => Ok(None),
            Some(v) => parse_time(v).map(Some).ok_or_else(|| bad(format!("invalid value for \"{key}\": \"{v}\""))),
        }
    }

    pub(crate) fn filters(&self) -> ApiResult<Filters> {
        Filters::parse(self.get("filters").unwrap_or_default())
    }
}

pub(crate) fn bad(text: impl Into<String>) -> ApiError {
    ApiError::plain(Code::InvalidArgument, text)
}

fn parse_time(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let Ok(seconds) = seconds.parse::<i64>() else { return text.parse().ok() };
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    Some(Timestamp(seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_times_are_read_as_docker_reads_them() {
        let q = Query::parse("a=1&b=&c=False&d=none&e=x&since=1700000000.5&rfc=2026-11-21T18:46:15Z&zero=0&n=x");
        assert!(q.flag("a") && !q.flag("b") && !q.flag("c") && !q.flag("d") && q.flag("e") && !q.flag("absent"));
        assert_eq!(q.time("since").unwrap(), Some(Timestamp(1_700_000_000_500_000_000)));
        assert_eq!(q.time("rfc").unwrap().unwrap().to_string(), "2026-11-21T18:46:15Z");
        assert_eq!(q.time("zero").unwrap(), None);
        assert!(q.time("e").is_err() && q.number::<u16>("n").is_err());
    }
}
