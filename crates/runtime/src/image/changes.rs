//! The Dockerfile instructions that `docker import --change` takes.

use serde_json::{Value, json};

use super::manifest::RunConfig;
use crate::{Result, RuntimeError};

/// Applies one instruction to an image's config.
pub(crate) fn apply(config: &mut RunConfig, change: &str) -> Result<()> {
    let change = change.trim();
    let (word, rest) = change.split_once(char::is_whitespace).unwrap_or((change, ""));
    let rest = rest.trim();
    match word.to_ascii_uppercase().as_str() {
        "CMD" => config.cmd = command(rest),
        "ENTRYPOINT" => config.entrypoint = command(rest),
        "ENV" => {
            for (key, value) in pairs(rest)? {
                config.env.retain(|e| e.split_once('=').is_none_or(|(k, _)| k != key));
                config.env.push(format!("{key}={value}"));
            }
        }
        "LABEL" => config.labels.extend(pairs(rest)?),
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                let port = if port.contains('/') { port.to_owned() } else { format!("{port}/tcp") };
                config.exposed_ports.insert(port, json!({}));
            }
        }
        "VOLUME" => {
            let listed: Vec<String> =
                serde_json::from_str(rest).unwrap_or_else(|_| rest.split_whitespace().map(str::to_owned).collect());
            config.volumes.extend(listed.into_iter().map(|v| (v, json!({}))));
        }
        "USER" => config.user = rest.into(),
        "WORKDIR" => config.working_dir = rest.into(),
        "STOPSIGNAL" => config.stop_signal = rest.into(),
        other => return Err(RuntimeError::invalid(format!("{other} is not a valid change command"))),
    }
    Ok(())
}

/// The exec form as it is, the shell form through `/bin/sh -c`.
fn command(text: &str) -> Vec<String> {
    let as_json: Option<Vec<String>> =
        serde_json::from_str::<Value>(text).ok().and_then(|v| serde_json::from_value(v).ok());
    as_json.unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into(), text.into()])
}

/// `K=V K2="V 2"`, or the old `K the rest`.
fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let words = words(text);
    if words.first().is_some_and(|w| !w.contains('=')) {
        let (key, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        return Ok(vec![(key.into(), value.trim().into())]);
    }
    let bad = |w: &str| {
        RuntimeError::invalid(format!("Syntax error - can't find = in {w:?}. Must be of the form: name=value"))
    };
    words.iter().map(|w| w.split_once('=').map(|(k, v)| (k.into(), v.into())).ok_or_else(|| bad(w))).collect()
}

/// Splits at blanks outside quotes; quotes and backslashes are taken away.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote, mut any) = (String::new(), None, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => word.extend(chars.next()),
            (c, Some(q)) if c == q => quote = None,
            ('"' | '\'', None) => (quote, any) = (Some(c), true),
            (c, None) if c.is_whitespace() => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            (c, _) => word.push(c),
        }
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_set_the_config() {
        let mut c = RunConfig::default();
        for change in [
            r#"CMD ["httpd", "-f"]"#,
            "ENTRYPOINT echo hi",
            r#"ENV A=1 B="two words""#,
            "env A 3",
            "EXPOSE 80 53/udp",
            "LABEL a=b",
            "VOLUME /data",
            "WORKDIR /srv",
            "USER 1000:1000",
            "STOPSIGNAL SIGINT",
        ] {
            apply(&mut c, change).unwrap();
        }
        assert_eq!(c.cmd, ["httpd", "-f"]);
        assert_eq!(c.entrypoint, ["/bin/sh", "-c", "echo hi"]);
        assert_eq!(c.env, ["B=two words", "A=3"]);
        assert_eq!(c.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
        assert_eq!((c.working_dir.as_str(), c.user.as_str(), c.stop_signal.as_str()), ("/srv", "1000:1000", "SIGINT"));
        assert!(c.volumes.contains_key("/data") && c.labels["a"] == "b");
        assert!(apply(&mut c, "RUN x").is_err());
    }
}
