//! `network.Inspect` from a network of the swarm, of this machine, or both; and `swarm.Network` inside tasks.

use std::collections::BTreeMap;

use malha_model::{EndpointRecord, IpamConfig, IpamSpec, Labels, Network, NetworkView};
use serde_json::{Map, Value, json};

use super::{extend, swarm_object};
use crate::backend::LocalNetwork;

/// What is known of one network: at least one half is there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) swarm: Option<Network>,
    pub(crate) local: Option<LocalNetwork>,
}

const VXLAN_IDS: &str = "com.docker.network.driver.overlay.vxlanid_list";

/// Options as the driver of an allocated network has them: the VNIs among them.
fn swarm_options(n: &Network) -> Labels {
    let mut options = n.spec.options.clone();
    if !n.vnis.is_empty() {
        let ids: Vec<String> = n.vnis.iter().map(ToString::to_string).collect();
        options.insert(VXLAN_IDS.into(), ids.join(","));
    }
    options
}

fn ipam(spec: &IpamSpec, config: &[IpamConfig]) -> Value {
    let driver = if spec.driver.is_empty() { "default" } else { &spec.driver };
    let options = spec.options.as_ref().filter(|o| !o.is_empty());
    json!({ "Driver": driver, "Options": options, "Config": config })
}

// === impl Known ===

impl Known {
    pub(crate) fn id(&self) -> &str {
        self.swarm.as_ref().map(|n| n.id.as_str()).or(self.local.as_ref().map(|l| l.id.as_str())).unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.swarm.as_ref().map(Network::name).or(self.local.as_ref().map(|l| l.name.as_str())).unwrap_or_default()
    }

    pub(crate) fn scope(&self) -> &str {
        match (&self.swarm, &self.local) {
            (None, Some(l)) => &l.scope,
            _ => "swarm",
        }
    }

    pub(crate) fn driver(&self) -> &str {
        match (&self.swarm, &self.local) {
            (Some(n), _) => &n.spec.driver,
            (None, Some(l)) => &l.driver,
            (None, None) => "",
        }
    }

    pub(crate) fn labels(&self) -> Labels {
        match (&self.swarm, &self.local) {
            (Some(n), _) => n.spec.labels.clone(),
            (None, Some(l)) => l.labels.clone(),
            (None, None) => Labels::new(),
        }
    }

    /// As listed and inspected. `containers` adds the local endpoints and the peers.
    pub(crate) fn json(&self, containers: bool) -> Value {
        let mut map = match (&self.swarm, &self.local) {
            (Some(n), _) => from_swarm(n),
            (None, Some(l)) => from_local(l),
            (None, None) => Map::new(),
        };
        let none = BTreeMap::new();
        let endpoints = self.local.as_ref().filter(|_| containers).map_or(&none, |l| &l.containers);
        let options = match (&self.swarm, &self.local) {
            (Some(n), _) => swarm_options(n),
            (None, l) => l.as_ref().map(|l| l.options.clone()).unwrap_or_default(),
        };
        extend(
            &mut map,
            json!({
                "ConfigFrom": { "Network": "" },
                "ConfigOnly": false,
                "Containers": endpoints,
                "Options": options,
                "Labels": self.labels(),
            }),
        );
        if let Some(local) = self.local.as_ref().filter(|l| containers && !l.peers.is_empty()) {
            map.insert("Peers".into(), json!(local.peers));
        }
        map.into()
    }
}

fn from_swarm(n: &Network) -> Map<String, Value> {
    let fields = json!({
        "Name": n.spec.name,
        "Id": n.id,
        "Created": n.meta.created_at,
        "Scope": "swarm",
        "Driver": n.spec.driver,
        "EnableIPv4": true,
        "EnableIPv6": n.spec.enable_ipv6,
        "IPAM": ipam(&n.spec.ipam, &n.ipam),
        "Internal": n.spec.internal,
        "Attachable": n.spec.attachable,
        "Ingress": n.spec.ingress,
    });
    into_map(fields)
}

fn from_local(l: &LocalNetwork) -> Map<String, Value> {
    let fields = json!({
        "Name": l.name,
        "Id": l.id,
        "Created": l.created,
        "Scope": l.scope,
        "Driver": l.driver,
        "EnableIPv4": l.enable_ipv4,
        "EnableIPv6": l.enable_ipv6,
        "IPAM": ipam(&l.ipam, &l.ipam.config),
        "Internal": l.internal,
        "Attachable": l.attachable,
        "Ingress": l.ingress,
    });
    into_map(fields)
}

fn into_map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// `Services` of `network inspect --verbose`. Endpoints without a service stand under the empty name.
pub(crate) fn services(view: &NetworkView) -> Value {
    let task = |e: &EndpointRecord| {
        let host = view.peers.get(&e.node).map(|p| p.addr.to_string()).unwrap_or_default();
        let address = e.addresses.first().map(|a| a.addr().to_string()).unwrap_or_default();
        json!({ "Name": e.name, "EndpointID": e.task, "EndpointIP": address, "Info": { "Host IP": host } })
    };
    let mut out = Map::new();
    for service in view.services.values() {
        let tasks: Vec<Value> = view
            .endpoints
            .values()
            .filter(|e| e.service.as_ref() == Some(&service.id) && e.serving)
            .map(task)
            .collect();
        let ports: Vec<String> =
            service.ports.iter().map(|p| format!("Target: {}, Publish: {}", p.target_port, p.published_port)).collect();
        let vip = service.vips.first().map_or_else(|| "<nil>".to_owned(), |v| v.addr().to_string());
        out.insert(service.name.clone(), json!({ "VIP": vip, "Ports": ports, "LocalLBIndex": 0, "Tasks": tasks }));
    }
    let alone: Vec<Value> = view.endpoints.values().filter(|e| e.service.is_none() && e.serving).map(task).collect();
    if !alone.is_empty() {
        out.insert(String::new(), json!({ "VIP": "<nil>", "Ports": [], "LocalLBIndex": 0, "Tasks": alone }));
    }
    out.into()
}

/// `swarm.Network`, as tasks carry it.
pub(crate) fn swarm_object_of(n: &Network) -> Value {
    let mut map = swarm_object(n.id.as_str(), &n.meta);
    let mut spec = json!({
        "Name": n.spec.name,
        "Labels": n.spec.labels,
        "DriverConfiguration": { "Name": n.spec.driver },
    });
    for (key, set) in [
        ("IPv6Enabled", n.spec.enable_ipv6),
        ("Internal", n.spec.internal),
        ("Attachable", n.spec.attachable),
        ("Ingress", n.spec.ingress),
    ] {
        if set {
            spec[key] = json!(true);
        }
    }
    spec["IPAMOptions"] = swarm_ipam(&n.spec.ipam.config);
    spec["Scope"] = json!("swarm");
    let state = json!({ "Name": n.spec.driver, "Options": swarm_options(n) });
    extend(&mut map, json!({ "Spec": spec, "DriverState": state, "IPAMOptions": swarm_ipam(&n.ipam) }));
    map.into()
}

fn swarm_ipam(configs: &[IpamConfig]) -> Value {
    let mut value = json!({ "Driver": { "Name": "default" } });
    if !configs.is_empty() {
        let each = |c: &IpamConfig| {
            let mut v = Map::new();
            for (key, text) in [
                ("Subnet", c.subnet.map(|s| s.to_string())),
                ("Range", c.ip_range.map(|s| s.to_string())),
                ("Gateway", c.gateway.map(|s| s.to_string())),
            ] {
                if let Some(text) = text {
                    v.insert(key.into(), text.into());
                }
            }
            Value::Object(v)
        };
        value["Configs"] = configs.iter().map(each).collect::<Vec<_>>().into();
    }
    value
}

#[cfg(test)]
mod tests {
    use malha_model::{NetworkSpec, Peer, ServiceRecord};

    use super::*;
    use crate::backend::{LocalEndpoint, PeerInfo};

    fn swarm() -> Network {
        let config = IpamConfig {
            subnet: "10.0.1.0/24".parse().ok(),
            gateway: "10.0.1.1".parse().ok(),
            ..IpamConfig::default()
        };
        Network {
            id: "l02iswf66llieg7xf4zjzgfwh".into(),
            spec: NetworkSpec { name: "minha_rede_overlay".into(), driver: "overlay".into(), ..NetworkSpec::default() },
            ipam: vec![config],
            vnis: vec![4097],
            ..Network::default()
        }
    }

    /// The shape that Docker 20.10 printed for the same network, `EnableIPv4` added by later ones.
    #[test]
    fn a_network_in_use_here_shows_the_swarms_facts_and_the_local_endpoints() {
        let endpoint = LocalEndpoint {
            name: "teste_discovery_search.2.xnhue82yif5miq4dduh5n2bbq".into(),
            endpoint_id: "cc8b".into(),
            mac_address: "02:42:0a:00:01:04".into(),
            ipv4_address: "10.0.1.4/24".into(),
            ipv6_address: String::new(),
        };
        let local = LocalNetwork {
            id: "l02iswf66llieg7xf4zjzgfwh".into(),
            scope: "swarm".into(),
            containers: BTreeMap::from([("b4a62e7d0958".into(), endpoint)]),
            peers: vec![PeerInfo { name: "7b231a5186f0".into(), ip: "192.168.77.1".into() }],
            ..LocalNetwork::default()
        };
        let known = Known { swarm: Some(swarm()), local: Some(local) };
        let want = json!({
            "Name": "minha_rede_overlay",
            "Id": "l02iswf66llieg7xf4zjzgfwh",
            "Created": "0001-01-01T00:00:00Z",
            "Scope": "swarm",
            "Driver": "overlay",
            "EnableIPv4": true,
            "EnableIPv6": false,
            "IPAM": {
                "Driver": "default",
                "Options": null,
                "Config": [{ "Subnet": "10.0.1.0/24", "Gateway": "10.0.1.1" }]
            },
            "Internal": false,
            "Attachable": false,
            "Ingress": false,
            "ConfigFrom": { "Network": "" },
            "ConfigOnly": false,
            "Containers": {
                "b4a62e7d0958": {
                    "Name": "teste_discovery_search.2.xnhue82yif5miq4dduh5n2bbq",
                    "EndpointID": "cc8b",
                    "MacAddress": "02:42:0a:00:01:04",
                    "IPv4Address": "10.0.1.4/24",
                    "IPv6Address": ""
                }
            },
            "Options": { "com.docker.network.driver.overlay.vxlanid_list": "4097" },
            "Labels": {},
            "Peers": [{ "Name": "7b231a5186f0", "IP": "192.168.77.1" }]
        });
        assert_eq!(known.json(true).to_string(), want.to_string(), "keys in this order");
        assert_eq!(known.json(false)["Containers"], json!({}));
    }

    #[test]
    fn the_verbose_view_groups_tasks_by_service() {
        let record = |task: &str, service: Option<&str>, serving| EndpointRecord {
            task: task.into(),
            name: format!("web.1.{task}"),
            service: service.map(Into::into),
            node: "n1".into(),
            addresses: vec!["10.0.1.3/24".parse().unwrap()],
            names: vec![],
            serving,
        };
        let service = ServiceRecord {
            id: "s1".into(),
            name: "web".into(),
            aliases: vec![],
            vips: vec!["10.0.1.2/24".parse().unwrap()],
            ports: vec![],
        };
        let records = [record("t1", Some("s1"), true), record("t2", Some("s1"), false), record("t3", None, true)];
        let view = NetworkView {
            peers: BTreeMap::from([("n1".into(), Peer { name: "node1".into(), addr: "192.0.2.1".parse().unwrap() })]),
            endpoints: records.into_iter().map(|r| (r.task.clone(), r)).collect(),
            services: BTreeMap::from([("s1".into(), service)]),
            ..NetworkView::default()
        };
        let task = |id: &str| json!({"Name": format!("web.1.{id}"), "EndpointID": id, "EndpointIP": "10.0.1.3", "Info": {"Host IP": "192.0.2.1"}});
        let want = json!({
            "web": { "VIP": "10.0.1.2", "Ports": [], "LocalLBIndex": 0, "Tasks": [task("t1")] },
            "": { "VIP": "<nil>", "Ports": [], "LocalLBIndex": 0, "Tasks": [task("t3")] },
        });
        assert_eq!(services(&view), want);
    }
}
