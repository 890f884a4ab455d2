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

/// A duration back from `now`, or a time as [`Query::time`] reads it.
pub(crate) fn moment(text: &str, now: Timestamp) -> Option<Timestamp> {
    if text.is_empty() {
        return None;
    }
    match parse_duration(text) {
        Some(nanos) => now.0.checked_sub(nanos).map(Timestamp),
        None => parse_time(text),
    }
}

/// Nanoseconds of a duration as Go spells it: `1h30m`, `-1.5s`.
fn parse_duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1_i64, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return None;
    }
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut nanos: i64 = 0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !is_number(c))?);
        let (unit, after) = after.split_at(after.find(is_number).unwrap_or(after.len()));
        nanos = nanos.checked_add(scaled(number, unit_nanos(unit)?)?)?;
        rest = after;
    }
    Some(sign * nanos)
}

fn unit_nanos(unit: &str) -> Option<i64> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

fn scaled(number: &str, unit: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let billionths: i64 = format!("{:0<9}", fraction.get(..9).unwrap_or(fraction)).parse().ok()?;
    let part = i64::try_from(i128::from(billionths) * i128::from(unit) / 1_000_000_000).ok()?;
    whole.checked_mul(unit)?.checked_add(part)
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

    #[test]
    fn durations_are_read_as_go_spells_them() {
        for (text, seconds) in [("24h", 86_400), ("1h30m", 5_400), ("-1.5m", -90), ("+.5m", 30), ("2000ms", 2)] {
            assert_eq!(parse_duration(text), Some(seconds * 1_000_000_000), "{text}");
        }
        for text in ["", "-", "5", "h", ".s", "1.2.3s", "1d", "9999999999h"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        let now = Timestamp(90_000_000_000);
        assert_eq!(moment("1m", now), Some(Timestamp(30_000_000_000)));
        assert_eq!(moment("5", now), Some(Timestamp(5_000_000_000)));
        assert_eq!((moment("", now), moment("soon", now)), (None, None));
    }
}
