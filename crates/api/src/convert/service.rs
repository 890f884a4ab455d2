//! `swarm.Service`, and the defaults that `service inspect` shows for what was left out.

use malha_model::{
    Endpoint, EndpointSpec, Service, ServiceSpec, ServiceWithStatus, UpdateStatus, defaults,
    defaults::{nanos, update_config},
};
use serde_json::{Value, json};

use super::{extend, swarm_object};

/// As `GET /services` lists it; with task counts where those were asked for.
pub(crate) fn listed(s: &ServiceWithStatus, with_status: bool) -> Value {
    let mut value = service(&s.service, false);
    if with_status {
        value["ServiceStatus"] =
            json!({ "RunningTasks": s.running, "DesiredTasks": s.desired, "CompletedTasks": s.completed });
    }
    value
}

pub(crate) fn service(s: &Service, insert_defaults: bool) -> Value {
    let mut map = swarm_object(s.id.as_str(), &s.meta);
    let shown = |spec: &ServiceSpec| {
        whole_ratios(if insert_defaults { json!(with_defaults(spec.clone())) } else { json!(spec) })
    };
    map.insert("Spec".into(), shown(&s.spec));
    if let Some(previous) = &s.previous_spec {
        map.insert("PreviousSpec".into(), shown(previous));
    }
    extend(&mut map, json!({ "Endpoint": endpoint(&s.endpoint) }));
    if let Some(status) = &s.update_status {
        map.insert("UpdateStatus".into(), update_status(status));
    }
    map.into()
}

/// Go writes a whole ratio without a fraction: `0`, not `0.0`.
fn whole_ratios(mut spec: Value) -> Value {
    for key in ["UpdateConfig", "RollbackConfig"] {
        if let Some(ratio) = spec.get_mut(key).and_then(|c| c.get_mut("MaxFailureRatio")) {
            match ratio.as_f64() {
                Some(0.0) => *ratio = json!(0),
                Some(1.0) => *ratio = json!(1),
                _ => {}
            }
        }
    }
    spec
}

fn endpoint(e: &Endpoint) -> Value {
    let mut spec = e.spec.clone();
    if spec.mode.is_empty() && (!e.virtual_ips.is_empty() || !e.ports.is_empty()) {
        spec.mode = "vip".into();
    }
    let mut value = json!({ "Spec": spec });
    if !e.ports.is_empty() {
        value["Ports"] = json!(e.ports);
    }
    if !e.virtual_ips.is_empty() {
        let vips: Vec<Value> =
            e.virtual_ips.iter().map(|v| json!({ "NetworkID": v.network, "Addr": v.addr })).collect();
        value["VirtualIPs"] = vips.into();
    }
    value
}

fn update_status(s: &UpdateStatus) -> Value {
    let mut value = json!({ "State": s.state });
    if let Some(t) = s.started_at {
        value["StartedAt"] = json!(t);
    }
    if let Some(t) = s.completed_at {
        value["CompletedAt"] = json!(t);
    }
    value["Message"] = json!(s.message);
    value
}

fn with_defaults(mut spec: ServiceSpec) -> ServiceSpec {
    if let Some(container) = &mut spec.task_template.container_spec {
        container.stop_grace_period.get_or_insert(nanos(defaults::STOP_GRACE_PERIOD));
        container.dns_config.get_or_insert_default();
    }
    let restart = spec.task_template.restart_policy.get_or_insert_default();
    if restart.condition.is_empty() {
        restart.condition = "any".into();
    }
    restart.delay.get_or_insert(nanos(defaults::RESTART_DELAY));
    restart.max_attempts.get_or_insert(0);
    spec.task_template.placement.get_or_insert_default();
    if spec.mode.replicated_job.is_none() && spec.mode.global_job.is_none() {
        spec.update_config.get_or_insert_with(update_config);
        spec.rollback_config.get_or_insert_with(update_config);
    }
    let endpoint = spec.endpoint_spec.get_or_insert_with(EndpointSpec::default);
    if endpoint.mode.is_empty() {
        endpoint.mode = "vip".into();
    }
    spec
}

#[cfg(test)]
mod tests {
    use malha_model::{Meta, PortConfig, Timestamp, VirtualIp};

    use super::*;

    /// As the CLI sends a plain service, shown with what Docker adds to it.
    #[test]
    fn an_inspect_with_defaults_has_dockers_shape() {
        let sent = r#"{"Name":"web","Labels":{},"TaskTemplate":{"ContainerSpec":{"Image":"bench:1","Init":false,
            "DNSConfig":{},"Isolation":"default"},"Resources":{"Limits":{},"Reservations":{}},"Placement":{},
            "ForceUpdate":0,"Runtime":"container"},"Mode":{"Replicated":{"Replicas":2}},"Later":{"kept":true}}"#;
        let port = PortConfig { target_port: 80, published_port: 5000, ..PortConfig::default() };
        let service = Service {
            id: "s1".into(),
            meta: Meta { version: 7, created_at: Timestamp(1_763_757_975_306_556_769), updated_at: Timestamp::ZERO },
            spec: serde_json::from_str(sent).unwrap(),
            endpoint: Endpoint {
                ports: vec![port],
                virtual_ips: vec![VirtualIp { network: "n1".into(), addr: "10.0.2.2/24".parse().unwrap() }],
                ..Endpoint::default()
            },
            ..Service::default()
        };
        let update = r#"{"Parallelism":1,"FailureAction":"pause","Monitor":5000000000,"MaxFailureRatio":0,"Order":"stop-first"}"#;
        let want = format!(
            "{}{}{}{}",
            r#"{"ID":"s1","Version":{"Index":7},"CreatedAt":"2025-11-21T20:46:15.306556769Z","UpdatedAt":"0001-01-01T00:00:00Z","Spec":{"Name":"web","Labels":{},"TaskTemplate":{"ContainerSpec":{"Image":"bench:1","Init":false,"StopGracePeriod":10000000000,"DNSConfig":{},"Isolation":"default"},"Resources":{"Limits":{},"Reservations":{}},"RestartPolicy":{"Condition":"any","Delay":5000000000,"MaxAttempts":0},"Placement":{},"ForceUpdate":0,"Runtime":"container"},"Mode":{"Replicated":{"Replicas":2}},"UpdateConfig":"#,
            update,
            format_args!(r#","RollbackConfig":{update},"EndpointSpec":{{"Mode":"vip"}},"Later":{{"kept":true}}}},"#),
            r#""Endpoint":{"Spec":{"Mode":"vip"},"Ports":[{"Protocol":"tcp","TargetPort":80,"PublishedPort":5000,"PublishMode":"ingress"}],"VirtualIPs":[{"NetworkID":"n1","Addr":"10.0.2.2/24"}]}}"#,
        );
        assert_eq!(super::service(&service, true).to_string(), want);
        assert!(super::service(&service, false)["Spec"].get("UpdateConfig").is_none());
    }
}
