//! What the runtime tells, in Docker's words.
//!
//! A container is on its networks and has its volumes while it runs: what Docker tells of those beside its start and its end
//! is made from the container's own record.

use std::collections::BTreeMap;

use malha_api::backend::Event;
use malha_dataplane::GWBRIDGE;
use malha_model::{Labels, Timestamp};
use malha_runtime::{ContainerEvent, EventKind, ImageAction, ImageEvent, VolumeAction, VolumeEvent};

use super::record::Record;

/// The event itself, and before a start or an end those of its networks and volumes. `own` knows the ids of the networks
/// that every machine has for itself.
pub(super) fn of_container(event: &ContainerEvent, own: impl Fn(&str) -> Option<String>) -> Vec<Event> {
    match event.kind {
        EventKind::Start => {
            let mut told = of_networks(event, "connect", own);
            told.extend(of_mounts(event, "mount"));
            told.push(container(event));
            told
        }
        EventKind::Die { .. } => {
            let mut told = of_networks(event, "disconnect", own);
            told.extend(of_mounts(event, "unmount"));
            told.push(container(event));
            told
        }
        _ => vec![container(event)],
    }
}

fn container(event: &ContainerEvent) -> Event {
    let mut attributes: Labels = (*event.labels).clone();
    attributes.insert("image".into(), event.image.clone());
    attributes.insert("name".into(), event.name.clone());
    let mut set = |key: &str, value: String| attributes.insert(key.into(), value);
    let action = match &event.kind {
        EventKind::Create => "create".into(),
        EventKind::Start => "start".into(),
        EventKind::Die { exit_code, ran } => {
            set("exitCode", exit_code.to_string());
            set("execDuration", ran.as_secs().to_string());
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

fn of_networks(event: &ContainerEvent, action: &str, own: impl Fn(&str) -> Option<String>) -> Vec<Event> {
    let record = Record::of_options(&event.options);
    let on = record.networks.into_iter().map(|(name, endpoint)| (name, endpoint.network_id));
    let mut networks: BTreeMap<String, String> = on.collect();
    if networks.is_empty() {
        let mode = record.host_config.network_mode.as_str();
        let name = if matches!(mode, "host" | "none") { mode } else { "bridge" };
        networks.insert(name.to_owned(), String::new());
    }
    let told = networks.into_iter().map(|(name, id)| {
        let driver = match name.as_str() {
            "bridge" | "host" => name.as_str(),
            "none" => "null",
            _ => "overlay",
        };
        let attributes = labels([("container", &event.id), ("name", &name), ("type", driver)]);
        Event::local("network", action, &own(&name).unwrap_or(id), attributes, event.time)
    });
    told.collect()
}

fn of_mounts(event: &ContainerEvent, action: &str) -> Vec<Event> {
    let volumes = event.mounts.iter().filter(|m| m.kind == "volume");
    let told = volumes.map(|m| {
        let mut attributes = labels([("container", &event.id), ("driver", "local")]);
        if action == "mount" {
            let writable = if m.read_only { "false" } else { "true" };
            attributes.extend(labels([
                ("destination", &m.target),
                ("propagation", &m.propagation),
                ("read/write", writable),
            ]));
        }
        Event::local("volume", action, &m.name, attributes, event.time)
    });
    told.collect()
}

pub(super) fn of_image(event: ImageEvent) -> Event {
    let action = match event.action {
        ImageAction::Pull => "pull",
        ImageAction::Load => "load",
        ImageAction::Import => "import",
        ImageAction::Tag => "tag",
        ImageAction::Untag => "untag",
        ImageAction::Delete => "delete",
    };
    let mut attributes = event.labels;
    attributes.insert("name".into(), event.name);
    Event::local("image", action, &event.id, attributes, event.time)
}

pub(super) fn of_volume(event: &VolumeEvent) -> Event {
    let action = match event.action {
        VolumeAction::Create => "create",
        VolumeAction::Destroy => "destroy",
    };
    Event::local("volume", action, &event.name, labels([("driver", "local")]), event.time)
}

/// `docker_gwbridge` is the one network that a user makes and removes here.
pub(super) fn of_gateway(action: &str, id: &str, now: Timestamp) -> Event {
    Event::local("network", action, id, labels([("name", GWBRIDGE), ("type", "bridge")]), now)
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use malha_api::backend::{EndpointSettings, HostConfig};
    use malha_runtime::{CreateOptions, MountPoint};

    use super::*;

    fn happened(kind: EventKind, record: &Record, mounts: Vec<MountPoint>) -> Vec<Event> {
        let event = ContainerEvent {
            id: "c1".into(),
            name: "web".into(),
            image: "alpine".into(),
            labels: Arc::default(),
            options: Arc::new(CreateOptions { caller_data: record.to_value(), ..CreateOptions::default() }),
            mounts: Arc::new(mounts),
            kind,
            time: Timestamp(7),
        };
        of_container(&event, |name| (name != "over").then(|| format!("own-{name}")))
    }

    /// `type action id`
    fn lines(events: &[Event]) -> Vec<String> {
        events.iter().map(|e| format!("{} {} {}", e.kind, e.action, e.actor_id)).collect()
    }

    #[test]
    fn networks_and_volumes_come_before_the_start_and_go_before_the_end() {
        let on = |id: &str| EndpointSettings { network_id: id.into(), ..EndpointSettings::default() };
        let networks = [("over".to_owned(), on("n1")), ("bridge".to_owned(), on(""))].into();
        let record = Record { networks, ..Record::default() };
        let mount = |kind: &str| MountPoint {
            kind: kind.into(),
            name: "data".into(),
            source: "/x".into(),
            target: "/d".into(),
            read_only: false,
            propagation: String::new(),
            anonymous: false,
        };
        let mounts = || vec![mount("bind"), mount("volume")];
        let start = happened(EventKind::Start, &record, mounts());
        let wanted = ["network connect own-bridge", "network connect n1", "volume mount data", "container start c1"];
        assert_eq!(lines(&start), wanted);
        assert_eq!(start[1].attributes, labels([("container", "c1"), ("name", "over"), ("type", "overlay")]));
        assert_eq!((start[2].attributes["destination"].as_str(), &*start[2].attributes["read/write"]), ("/d", "true"));
        let die = EventKind::Die { exit_code: 3, ran: Duration::from_millis(2900) };
        let end = happened(die, &record, mounts());
        let wanted =
            ["network disconnect own-bridge", "network disconnect n1", "volume unmount data", "container die c1"];
        assert_eq!(lines(&end), wanted);
        assert_eq!((&*end[3].attributes["exitCode"], &*end[3].attributes["execDuration"]), ("3", "2"));
        assert_eq!(lines(&happened(EventKind::Stop, &record, mounts())), ["container stop c1"]);
    }

    #[test]
    fn a_container_without_endpoints_is_on_a_network_of_the_machine() {
        for (mode, id, driver) in
            [("none", "own-none", "null"), ("host", "own-host", "host"), ("", "own-bridge", "bridge")]
        {
            let host_config = HostConfig { network_mode: mode.into(), ..HostConfig::default() };
            let record = Record { host_config, ..Record::default() };
            let start = happened(EventKind::Start, &record, Vec::new());
            assert_eq!((start[0].actor_id.as_str(), &*start[0].attributes["type"]), (id, driver), "{mode}");
        }
    }
}
