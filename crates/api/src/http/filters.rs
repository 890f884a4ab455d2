//! `filters={"label":{"a=b":true}}` (or, from older clients, lists for the inner objects).

use std::collections::{BTreeMap, BTreeSet};

use malha_model::{ApiError, ApiResult, Code, Labels, Timestamp};
use regex::Regex;
use serde::Deserialize;

use super::query::{bad, moment};

/// For each key the values asked for: values of one key are alternatives, keys all have to match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filters(BTreeMap<String, BTreeSet<String>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    Map(BTreeMap<String, bool>),
    List(Vec<String>),
}

impl Filters {
    pub(crate) fn parse(text: &str) -> ApiResult<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let raw: BTreeMap<String, Values> =
            serde_json::from_str(text).map_err(|e| bad(format!("invalid filter: {e}")))?;
        let set = |v| match v {
            Values::Map(m) => m.into_iter().filter(|(_, on)| *on).map(|(k, _)| k).collect(),
            Values::List(l) => l.into_iter().collect::<BTreeSet<_>>(),
        };
        Ok(Self(raw.into_iter().map(|(k, v)| (k, set(v))).filter(|(_, v)| !v.is_empty()).collect()))
    }

    /// Refuses keys that are not in `known`.
    pub(crate) fn only(self, known: &[&str]) -> ApiResult<Self> {
        match self.0.keys().find(|k| !known.contains(&k.as_str())) {
            Some(k) => Err(ApiError::plain(Code::InvalidArgument, format!("invalid filter '{k}'"))),
            None => Ok(self),
        }
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub(crate) fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// A boolean value; `None` where absent.
    pub(crate) fn flag(&self, key: &str) -> ApiResult<Option<bool>> {
        let Some(value) = self.values(key).next() else { return Ok(None) };
        match value {
            "true" | "1" | "True" | "TRUE" => Ok(Some(true)),
            "false" | "0" | "False" | "FALSE" => Ok(Some(false)),
            v => Err(bad(format!("invalid filter '{key}=[{v}]'"))),
        }
    }

    /// `until` of the prune commands: a moment, or how long before `now`.
    pub(crate) fn until(&self, now: Timestamp) -> ApiResult<Option<Timestamp>> {
        let mut values = self.values("until");
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(bad("more than one until filter specified"));
        }
        moment(value, now).map(Some).ok_or_else(|| bad(format!("invalid value for \"until\": \"{value}\"")))
    }

    /// True where the key is absent or one of its values satisfies `test`.
    pub(crate) fn any(&self, key: &str, test: impl Fn(&str) -> bool) -> bool {
        !self.has(key) || self.values(key).any(test)
    }

    pub(crate) fn exact(&self, key: &str, value: &str) -> bool {
        self.any(key, |v| v == value)
    }

    pub(crate) fn prefix(&self, key: &str, value: &str) -> bool {
        self.any(key, |v| value.starts_with(v))
    }

    /// Regular expressions, as in the name filters of containers and networks; one that does not compile is a plain part.
    pub(crate) fn pattern(&self, key: &str, value: &str) -> bool {
        self.any(key, |v| v == value || Regex::new(v).map_or_else(|_| value.contains(v), |r| r.is_match(value)))
    }

    /// Every label asked for is there: `key` or `key=value`.
    pub(crate) fn labels(&self, key: &str, labels: &Labels) -> bool {
        self.values(key).all(|want| match want.split_once('=') {
            None => labels.contains_key(want),
            Some((k, v)) => labels.get(k).is_some_and(|have| have == v),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_and_all_kinds_of_match() {
        let f = Filters::parse(r#"{"label":{"a=b":true,"c":true,"z":false},"name":["^/?web$"],"id":{"abc":true}}"#)
            .unwrap();
        let labels = Labels::from([("a".into(), "b".into()), ("c".into(), "x".into())]);
        assert!(f.labels("label", &labels) && !f.labels("label", &Labels::new()));
        assert!(f.pattern("name", "/web") && !f.pattern("name", "web2") && f.pattern("other", "x"));
        assert!(f.prefix("id", "abcdef") && !f.prefix("id", "ab"));
        assert_eq!(f.clone().only(&["label", "name"]).unwrap_err().message, "invalid filter 'id'");
        assert!(Filters::parse("[1]").is_err() && Filters::parse("{\"a\":3}").is_err());
    }
}
