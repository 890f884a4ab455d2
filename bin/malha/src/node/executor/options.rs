//! The container that a task of a service becomes.

use std::collections::BTreeMap;

use malha_model::{
    ContainerSpec, Mount, NodeId, Task,
    template::{TemplateError, Values},
};
use malha_runtime::{CreateOptions, Resources, Ulimit};

use crate::node::engine::{mounts, record::Record};

/// Everything but the network, which is wired before the container is made. `record` has the mounts.
pub(super) fn create_options(
    task: &Task,
    spec: &ContainerSpec,
    node: &NodeId,
    values: &Values,
    record: &Record,
) -> Result<CreateOptions, TemplateError> {
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    let limits = task.spec.resources.as_ref().and_then(|r| r.limits.clone()).unwrap_or_default();
    let reserved = task.spec.resources.as_ref().and_then(|r| r.reservations.clone()).unwrap_or_default();
    Ok(CreateOptions {
        name: Some(task.name()),
        image: spec.image.clone(),
        entrypoint: (!spec.command.is_empty()).then(|| spec.command.clone()),
        cmd: (!spec.args.is_empty()).then(|| spec.args.clone()),
        env: values.expand_all(&spec.env)?,
        working_dir: text(&spec.dir),
        user: text(&spec.user),
        group_add: spec.groups.clone(),
        hostname: text(&values.expand(&spec.hostname)?),
        labels: labels(task, spec, node),
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        mounts: record.host_config.mounts.iter().map(mounts::of_api).collect(),
        resources: Resources {
            nano_cpus: limits.nano_cpus,
            memory: limits.memory_bytes,
            memory_reservation: reserved.memory_bytes,
            pids: limits.pids,
            ..Resources::default()
        },
        cap_add: spec.capability_add.clone(),
        cap_drop: spec.capability_drop.clone(),
        readonly_rootfs: spec.read_only,
        sysctls: spec
            .sysctls
            .iter()
            .filter(|(k, _)| !k.starts_with("net."))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
        ulimits: spec.ulimits.iter().map(|u| Ulimit { name: u.name.clone(), soft: u.soft, hard: u.hard }).collect(),
        init: spec.init.unwrap_or_default(),
        stop_signal: text(&spec.stop_signal),
        stop_timeout: spec.stop_grace_period.map(|n| n.div_euclid(1_000_000_000)),
        oom_score_adj: (spec.oom_score_adj != 0).then_some(spec.oom_score_adj),
        caller_data: record.to_value(),
        ..CreateOptions::default()
    })
}

fn labels(task: &Task, spec: &ContainerSpec, node: &NodeId) -> BTreeMap<String, String> {
    let mut labels = spec.labels.clone();
    let service = task.service.as_ref().map(ToString::to_string).unwrap_or_default();
    for (key, value) in [
        ("com.docker.swarm.node.id", node.to_string()),
        ("com.docker.swarm.service.id", service),
        ("com.docker.swarm.service.name", task.service_name.clone()),
        ("com.docker.swarm.task", String::new()),
        ("com.docker.swarm.task.id", task.id.to_string()),
        ("com.docker.swarm.task.name", task.name()),
    ] {
        labels.insert(key.to_owned(), value);
    }
    labels
}

/// Mounts with their templates filled in.
pub(super) fn expanded_mounts(spec: &ContainerSpec, values: &Values) -> Result<Vec<Mount>, TemplateError> {
    let expand =
        |m: &Mount| Ok(Mount { source: values.expand(&m.source)?, target: values.expand(&m.target)?, ..m.clone() });
    spec.mounts.iter().map(expand).collect()
}
