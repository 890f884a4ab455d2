//! What happened on this machine lately, and what happens.

use std::{collections::VecDeque, sync::Arc};

use futures::{StreamExt, stream};
use malha_api::backend::{Event, EventStream};
use malha_model::{Labels, Timestamp};
use malha_runtime::{ContainerEvent, EventKind};
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

/// Events that are remembered, as many as Docker does.
const REMEMBERED: usize = 256;
const CAPACITY: usize = 1024;

pub(super) struct EventLog {
    past: Mutex<VecDeque<Event>>,
    live: broadcast::Sender<Event>,
}

impl EventLog {
    pub(super) fn new() -> Self {
        Self { past: Mutex::default(), live: broadcast::channel(CAPACITY).0 }
    }

    pub(super) fn push(&self, event: Event) {
        let mut past = self.past.lock();
        if past.len() == REMEMBERED {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Nobody listening is fine.
        let _ = self.live.send(event);
    }

    pub(super) fn stream(&self, since: Option<Timestamp>) -> EventStream {
        let past = self.past.lock();
        let live = BroadcastStream::new(self.live.subscribe()).filter_map(|e| async { e.ok() });
        let remembered: Vec<Event> = match since {
            Some(since) => past.iter().filter(|e| e.time >= since).cloned().collect(),
            None => Vec::new(),
        };
        drop(past);
        stream::iter(remembered).chain(live).boxed()
    }
}

pub(super) fn to_api(event: &ContainerEvent) -> Event {
    let mut attributes: Labels = Arc::unwrap_or_clone(event.labels.clone());
    attributes.insert("image".into(), event.image.clone());
    attributes.insert("name".into(), event.name.clone());
    let mut set = |key: &str, value: String| attributes.insert(key.into(), value);
    let action = match &event.kind {
        EventKind::Create => "create".into(),
        EventKind::Start => "start".into(),
        EventKind::Die { exit_code } => {
            set("exitCode", exit_code.to_string());
            "die".into()
        }
        EventKind::Kill { signal } => {
            set("signal", signal.to_string());
            "kill".into()
        }
        EventKind::Stop => "stop".into(),
        EventKind::Restart => "restart".into(),
        EventKind::Oom => "oom".into(),
        EventKind::Rename { old_name } => {
            set("oldName", format!("/{old_name}"));
            "rename".into()
        }
        EventKind::ExecCreate { exec_id, command } => {
            set("execID", exec_id.clone());
            format!("exec_create: {command}")
        }
        EventKind::ExecStart { exec_id, command } => {
            set("execID", exec_id.clone());
            format!("exec_start: {command}")
        }
        EventKind::ExecDie { exec_id, exit_code } => {
            set("execID", exec_id.clone());
            set("exitCode", exit_code.to_string());
            "exec_die".into()
        }
        EventKind::Attach => "attach".into(),
        EventKind::Resize => "resize".into(),
        EventKind::Destroy => "destroy".to_owned(),
    };
    Event::local("container", &action, &event.id, attributes, event.time)
}
