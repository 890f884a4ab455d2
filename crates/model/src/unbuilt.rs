//! What services and stand-alone containers ask for in the same words and this version does not do.
//!
//! It is told here, once, so that both refuse the same. Mounts have a place of their own, [`crate::Mount::check`].

use serde_json::Value;

use crate::error::{ApiError, ApiResult};

/// Whether a `Healthcheck` asks for anything: `{"Test":["NONE"]}` turns it off, and one with nothing set is none. One that
/// only changes how often the image's own is run does ask.
pub fn asks_for_healthcheck(healthcheck: &Value) -> bool {
    let empty = |v: &Value| match v {
        Value::Null => true,
        Value::Array(a) => a.is_empty(),
        Value::Number(n) => n.as_f64() == Some(0.0),
        _ => false,
    };
    let test = healthcheck.get("Test");
    let none = test.and_then(Value::as_array).and_then(|t| t.first()).is_some_and(|t| t == "NONE");
    !none && !healthcheck.is_null() && !healthcheck.as_object().is_some_and(|o| o.values().all(empty))
}

/// Refuses every log driver but the one there is. Empty is the default.
pub fn check_log_driver(name: &str) -> ApiResult<()> {
    match name {
        "" | "json-file" => Ok(()),
        other => Err(ApiError::unsupported(format!("the log driver {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_healthcheck_that_is_off_or_empty_asks_for_nothing() {
        for nothing in [
            json!(null),
            json!({}),
            json!({"Test": ["NONE"], "Interval": 5}),
            json!({"Test": null, "Interval": 0, "Retries": 0}),
        ] {
            assert!(!asks_for_healthcheck(&nothing), "{nothing}");
        }
        for asked in [json!({"Test": ["CMD", "true"]}), json!({"Interval": 5_000_000_000_i64}), json!({"Retries": 1})] {
            assert!(asks_for_healthcheck(&asked), "{asked}");
        }
    }

    #[test]
    fn there_is_one_log_driver() {
        assert!(check_log_driver("").is_ok() && check_log_driver("json-file").is_ok());
        let refused = check_log_driver("syslog").unwrap_err();
        assert_eq!(refused.http_status(), 501);
        assert!(refused.message.contains("the log driver syslog"), "{refused}");
    }
}
