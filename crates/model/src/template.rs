//! `{{.Node.Hostname}}` and its like in host names, environment and mounts of a task.
//!
//! Docker expands these fields with Go's text/template over `Service`, `Node` and `Task` (swarm-behaviour §7.6). Field
//! paths are what is in use; anything else in braces is an error that names it, never left as it is. The node expands them
//! for the container, the managers for its names; what no task of a service could expand is refused with its spec.

use std::collections::BTreeMap;

use crate::{Labels, NodeDescription, NodeId, Task};

/// The values that a task's templates may name.
#[derive(Debug)]
pub struct Values(BTreeMap<String, String>);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("expanding {text:?} failed: {expression:?} is not a known field")]
    Unknown { text: String, expression: String },
    #[error("expanding {text:?} failed: {expression:?} is more than the name of a field")]
    Unsupported { text: String, expression: String },
    #[error("expanding {0:?} failed: unclosed action")]
    Unclosed(String),
}

impl Values {
    pub fn of(task: &Task, node: &NodeId, description: &NodeDescription) -> Self {
        let mut values = BTreeMap::new();
        let mut set = |key: &str, value: &str| values.insert(key.to_owned(), value.to_owned());
        set(".Service.ID", task.service.as_ref().map_or("", |s| s.as_str()));
        set(".Service.Name", &task.service_name);
        for (key, value) in &task.service_labels {
            set(&format!(".Service.Labels.{key}"), value);
            set(&format!("index .Service.Labels \"{key}\""), value);
        }
        set(".Node.ID", node.as_str());
        set(".Node.Hostname", &description.hostname);
        set(".Node.Platform.Architecture", &description.platform.architecture);
        set(".Node.Platform.OS", &description.platform.os);
        set(".Task.ID", task.id.as_str());
        set(".Task.Name", &task.name());
        // The slot of a global service's task is its node.
        set(".Task.Slot", &if task.slot == 0 { node.to_string() } else { task.slot.to_string() });
        Self(values)
    }

    /// What any task of the service knows, with stand-ins for what is each task's own: a text that these cannot fill in no
    /// task can.
    pub fn of_any_task(service: &str, labels: &Labels) -> Self {
        let task =
            Task { service_name: service.to_owned(), service_labels: labels.clone(), slot: 1, ..Task::default() };
        Self::of(&task, &NodeId::default(), &NodeDescription::default())
    }

    pub fn expand(&self, text: &str) -> Result<String, TemplateError> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, after) = after.split_once("}}").ok_or_else(|| TemplateError::Unclosed(text.to_owned()))?;
            let expression = action.trim_matches(|c: char| c == '-' || c.is_whitespace());
            let value = self.0.get(expression).map(String::as_str).or_else(|| no_label(expression));
            out.push_str(before);
            out.push_str(value.ok_or_else(|| not_expanded(text, expression))?);
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    pub fn expand_all(&self, texts: &[String]) -> Result<Vec<String>, TemplateError> {
        texts.iter().map(|t| self.expand(t)).collect()
    }
}

/// A label that the service does not have is empty, as in Go.
fn no_label(expression: &str) -> Option<&'static str> {
    let key = expression.strip_prefix("index .Service.Labels \"")?.strip_suffix('"')?;
    (!key.contains('"')).then_some("")
}

fn not_expanded(text: &str, expression: &str) -> TemplateError {
    let text = text.to_owned();
    let is_field = |e: &str| e.starts_with('.') && !e.contains(|c: char| c.is_whitespace() || "|()$".contains(c));
    if is_field(expression) {
        return TemplateError::Unknown { text, expression: expression.to_owned() };
    }
    TemplateError::Unsupported { text, expression: expression.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_expanded_and_unknown_ones_named() {
        let task = Task {
            id: "t".into(),
            service: Some("s".into()),
            service_name: "web".into(),
            service_labels: [("tier".to_owned(), "front".to_owned())].into(),
            slot: 3,
            ..Task::default()
        };
        let values = Values::of(&task, &"n".into(), &NodeDescription { hostname: "h1".into(), ..Default::default() });
        assert_eq!(values.expand("{{.Service.Name}}-{{ .Task.Slot }}.{{.Node.Hostname}}").unwrap(), "web-3.h1");
        assert_eq!(values.expand("{{index .Service.Labels \"tier\"}}").unwrap(), "front");
        assert_eq!(values.expand("plain").unwrap(), "plain");
        assert!(values.expand("{{.Task.Colour}}").unwrap_err().to_string().contains(".Task.Colour"));
        assert!(values.expand("{{.Task.ID").is_err());
        for more in ["{{if .Node.ID}}a{{end}}", "{{ .Task.Name | printf }}", "{{- join .Task -}}", "{{}}"] {
            assert!(matches!(values.expand(more), Err(TemplateError::Unsupported { .. })), "{more}");
        }
        assert_eq!(values.expand("a{{index .Service.Labels \"nosuch\"}}b").unwrap(), "ab");
    }

    #[test]
    fn any_task_knows_what_each_task_does() {
        let labels = [("tier".to_owned(), "front".to_owned())].into();
        let any = Values::of_any_task("web", &labels);
        let task = Task { service_labels: labels, ..Task::default() };
        let one = Values::of(&task, &"n".into(), &NodeDescription::default());
        assert_eq!(any.0.keys().collect::<Vec<_>>(), one.0.keys().collect::<Vec<_>>());
    }
}
