//! Placement constraints: `node.labels.zone==a`, `node.role!=manager`, …

use std::net::IpAddr;

use ipnet::IpNet;
use malha_model::{ApiError, ApiResult, Node, Role};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Constraint {
    key: String,
    equal: bool,
    value: String,
}

/// Reads all of `texts`, or says what is wrong with the first bad one.
pub(crate) fn parse(texts: &[String]) -> ApiResult<Vec<Constraint>> {
    texts.iter().map(|t| parse_one(t).map_err(ApiError::invalid)).collect()
}

/// True where the node satisfies all of `texts`. What cannot be read (it is refused at the request) matches nothing.
pub(crate) fn node_matches(texts: &[String], node: &Node) -> bool {
    texts.iter().all(|t| parse_one(t).is_ok_and(|c| c.matches(node)))
}

fn parse_one(text: &str) -> Result<Constraint, String> {
    let (key, value, equal) = match (text.split_once("=="), text.split_once("!=")) {
        (Some((k, v)), _) => (k.trim(), v.trim(), true),
        (None, Some((k, v))) => (k.trim(), v.trim(), false),
        (None, None) => return Err("constraint expected one operator from ==, !=".into()),
    };
    if !key_is_valid(key) {
        return Err(format!("key '{key}' is invalid"));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || c.is_ascii_whitespace() || r":-_.*()?+[]\^$|/".contains(c);
    if value.is_empty() || !value.chars().all(allowed) {
        return Err(format!("value '{value}' is invalid"));
    }
    Ok(Constraint { key: key.to_owned(), equal, value: value.to_owned() })
}

fn key_is_valid(key: &str) -> bool {
    let mut chars = key.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    first && key.len() > 1 && chars.all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

impl Constraint {
    fn matches(&self, node: &Node) -> bool {
        let key = self.key.to_ascii_lowercase();
        let platform = &node.description.platform;
        match key.as_str() {
            "node.id" => self.compare(node.id.as_str()),
            "node.hostname" => self.compare(&node.description.hostname),
            "node.ip" => self.compare_address(&node.status.addr),
            "node.role" => self.compare(match node.spec.role {
                Role::Manager => "manager",
                Role::Worker => "worker",
            }),
            "node.platform.os" => self.compare(&platform.os),
            "node.platform.arch" => {
                let found = normal_arch(&platform.architecture).eq_ignore_ascii_case(normal_arch(&self.value));
                found == self.equal
            }
            _ => self.compare_label(node, &key),
        }
    }

    fn compare(&self, actual: &str) -> bool {
        self.value.eq_ignore_ascii_case(actual) == self.equal
    }

    /// Label names keep their case; an absent label is the empty value. An unknown key matches nothing.
    fn compare_label(&self, node: &Node, key: &str) -> bool {
        let labels = if key.starts_with("node.labels.") {
            (&node.spec.labels, self.key.get("node.labels.".len()..))
        } else if key.starts_with("engine.labels.") {
            (&node.description.engine.labels, self.key.get("engine.labels.".len()..))
        } else {
            return false;
        };
        let (labels, Some(name)) = labels else { return false };
        self.compare(labels.get(name).map_or("", String::as_str))
    }

    fn compare_address(&self, actual: &str) -> bool {
        let Ok(actual) = actual.parse::<IpAddr>() else { return !self.equal };
        let found = match (self.value.parse::<IpAddr>(), self.value.parse::<IpNet>()) {
            (Ok(addr), _) => addr == actual,
            (_, Ok(net)) => net.contains(&actual),
            // Neither an address nor a subnet: nothing is known of such a node.
            _ => return false,
        };
        found == self.equal
    }
}

/// Docker's spelling of architectures that have two names.
pub(crate) fn normal_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
