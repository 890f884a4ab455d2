//! A service's spec, part by part, in the order in which Docker looks at them.

use std::collections::BTreeSet;

use malha_model::{
    ApiError, ApiResult, ContainerSpec, EndpointSpec, Placement, Protocol, PublishMode, Resources, ServiceSpec,
    TaskSpec, UpdateConfig, asks_for_healthcheck, check_log_driver,
    template::{TemplateError, Values},
};
use serde_json::Value;

use super::{image::is_reference, name};
use crate::scheduler::constraint;

/// More tasks of one service than any swarm carries: a slip of the user's finger.
const MAX_REPLICAS: u64 = 1_000_000;

pub(crate) fn service(spec: &ServiceSpec) -> ApiResult<()> {
    name(&spec.name)?;
    supported(spec)?;
    task(&spec.task_template)?;
    templates(spec)?;
    mode(spec)?;
    spec.update_config.as_ref().map_or(Ok(()), update)?;
    spec.rollback_config.as_ref().map_or(Ok(()), update)?;
    spec.endpoint_spec.as_ref().map_or(Ok(()), endpoint)
}

/// What this version does not do is refused by name rather than ignored.
fn supported(spec: &ServiceSpec) -> ApiResult<()> {
    let task = &spec.task_template;
    let no_container = ContainerSpec::default();
    let container = task.container_spec.as_ref().unwrap_or(&no_container);
    let foreign_runtime = !matches!(task.runtime.as_str(), "" | "container") || task.network_attachment_spec.is_some();
    let asked = [
        (spec.mode.replicated_job.is_some() || spec.mode.global_job.is_some(), "a job"),
        (foreign_runtime, "a service that does not run containers"),
        (!container.secrets.is_empty(), "a secret in a service"),
        (!container.configs.is_empty(), "a config in a service"),
        (container.init == Some(true), "an init process (--init)"),
        (container.healthcheck.as_ref().is_some_and(asks_for_healthcheck), "a healthcheck of a service"),
        (!matches!(container.isolation.as_str(), "" | "default"), "--isolation"),
        (
            container.privileges.as_ref().is_some_and(|p| p.get("CredentialSpec").is_some_and(is_set)),
            "--credential-spec",
        ),
        (
            spec.update_config.as_ref().is_some_and(|u| u.failure_action == "rollback"),
            "--update-failure-action rollback",
        ),
    ];
    let driver = task.log_driver.as_ref().and_then(|d| d.get("Name")).and_then(Value::as_str).unwrap_or_default();
    check_log_driver(driver)?;
    match asked.iter().find(|(asked, _)| *asked) {
        Some((_, feature)) => Err(ApiError::unsupported(feature)),
        None => Ok(()),
    }
}

fn is_set(value: &Value) -> bool {
    !value.is_null() && value.as_object().is_none_or(|o| o.values().any(is_set)) && value != ""
}

fn mode(spec: &ServiceSpec) -> ApiResult<()> {
    if spec.mode.replicated.is_some() && spec.mode.global.is_some() {
        return Err(ApiError::invalid("Unrecognized service mode"));
    }
    if spec.mode.global.is_none() && spec.replicas() > MAX_REPLICAS {
        return Err(ApiError::invalid("Number of replicas must be non-negative"));
    }
    Ok(())
}

fn task(spec: &TaskSpec) -> ApiResult<()> {
    if let Some(r) = &spec.resources {
        for resources in [&r.limits, &r.reservations].into_iter().flatten() {
            self::resources(resources)?;
        }
        if r.reservations.as_ref().is_some_and(|r| !r.generic_resources.is_empty()) {
            return Err(ApiError::unsupported("generic resources"));
        }
    }
    if let Some(policy) = &spec.restart_policy {
        if policy.delay.is_some_and(|d| d < 0) {
            return Err(ApiError::invalid("TaskSpec: restart-delay cannot be negative"));
        }
        if policy.window.is_some_and(|w| w < 0) {
            return Err(ApiError::invalid("TaskSpec: restart-window cannot be negative"));
        }
        if !matches!(policy.condition.as_str(), "" | "none" | "on-failure" | "any") {
            return Err(ApiError::invalid(format!("invalid RestartCondition: \"{}\"", policy.condition)));
        }
    }
    spec.placement.as_ref().map_or(Ok(()), placement)?;
    match &spec.container_spec {
        Some(c) => container(c),
        None => Err(ApiError::invalid("TaskSpec: missing runtime")),
    }
}

fn resources(r: &Resources) -> ApiResult<()> {
    if r.nano_cpus != 0 && r.nano_cpus < 1_000_000 {
        #[allow(clippy::cast_precision_loss, reason = "small")]
        let cpus = r.nano_cpus as f64 / 1e9;
        return Err(ApiError::invalid(format!("invalid cpu value {cpus}: Must be at least 0.001")));
    }
    if r.memory_bytes != 0 && r.memory_bytes < 4 << 20 {
        return Err(ApiError::invalid(format!("invalid memory value {}: Must be at least 4MiB", r.memory_bytes)));
    }
    Ok(())
}

fn placement(p: &Placement) -> ApiResult<()> {
    constraint::parse(&p.constraints)?;
    for spread in p.preferences.iter().filter_map(|p| p.spread.as_ref()) {
        let d = &spread.spread_descriptor;
        if !d.starts_with("node.labels.") && !d.starts_with("engine.labels.") {
            return Err(ApiError::invalid(format!("invalid spread descriptor \"{d}\"")));
        }
    }
    Ok(())
}

fn container(c: &ContainerSpec) -> ApiResult<()> {
    if c.image.is_empty() {
        return Err(ApiError::invalid("ContainerSpec: image reference must be provided"));
    }
    if !is_reference(&c.image) {
        return Err(ApiError::invalid(format!("ContainerSpec: \"{}\" is not a valid repository/tag", c.image)));
    }
    let mut targets = BTreeSet::new();
    for mount in &c.mounts {
        mount.check()?;
        if !targets.insert(&mount.target) {
            return Err(ApiError::invalid(format!("ContainerSpec: duplicate mount point: {}", mount.target)));
        }
    }
    Ok(())
}

/// A template that cannot be filled in would keep every task from starting.
fn templates(spec: &ServiceSpec) -> ApiResult<()> {
    let Some(container) = &spec.task_template.container_spec else { return Ok(()) };
    let values = Values::of_any_task(&spec.name, &spec.labels);
    let check = |field: &str, text: &str| match values.expand(text) {
        Ok(_) => Ok(()),
        Err(TemplateError::Unsupported { expression, .. }) => {
            Err(ApiError::unsupported(format!("the template action {{{{{expression}}}}} in {field} {text:?}")))
        }
        Err(e) => Err(ApiError::invalid(format!("ContainerSpec: {field}: {e}"))),
    };
    check("hostname", &container.hostname)?;
    container.env.iter().try_for_each(|env| check("env", env))?;
    container.mounts.iter().try_for_each(|mount| {
        check("mount source", &mount.source)?;
        check("mount target", &mount.target)
    })
}

fn update(config: &UpdateConfig) -> ApiResult<()> {
    let refuse = |text: &str| Err(ApiError::invalid(format!("TaskSpec: {text}")));
    if config.delay < 0 {
        return refuse("update-delay cannot be negative");
    }
    if config.monitor.is_some_and(|m| m < 0) {
        return refuse("update-monitor cannot be negative");
    }
    if !(0.0..=1.0).contains(&config.max_failure_ratio) {
        return refuse("update-maxfailureratio cannot be less than 0 or bigger than 1");
    }
    if !matches!(config.failure_action.as_str(), "" | "pause" | "continue" | "rollback") {
        return Err(ApiError::invalid(format!("unrecognized update failure action {}", config.failure_action)));
    }
    if !matches!(config.order.as_str(), "" | "stop-first" | "start-first") {
        return Err(ApiError::invalid(format!("unrecognized update order {}", config.order)));
    }
    Ok(())
}

fn endpoint(spec: &EndpointSpec) -> ApiResult<()> {
    if !matches!(spec.mode.as_str(), "" | "vip" | "dnsrr") {
        return Err(ApiError::invalid(format!("EndpointSpec: unrecognized mode {}", spec.mode)));
    }
    let mut published = BTreeSet::new();
    for port in &spec.ports {
        let ingress = port.publish_mode == PublishMode::Ingress;
        if spec.mode == "dnsrr" && ingress {
            return Err(ApiError::invalid(
                "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
            ));
        }
        if port.target_port == 0 {
            return Err(ApiError::invalid("EndpointSpec: a published port needs a target port"));
        }
        if port.protocol == Protocol::Sctp {
            return Err(ApiError::unsupported("publishing sctp ports"));
        }
        if port.published_port != 0 && !published.insert((port.protocol, port.published_port)) {
            return Err(ApiError::invalid("EndpointSpec: duplicate published ports provided"));
        }
    }
    Ok(())
}
