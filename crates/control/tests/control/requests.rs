//! What requests are refused with, to the letter, and what the accepted ones leave.

use malha_model::{ControlRequest as R, ControlResponse as A, *};
use serde_json::json;

use super::world::*;

fn create(spec: ServiceSpec) -> R {
    R::ServiceCreate { spec, registry_auth: None }
}

fn rpc(code: &str, desc: &str) -> String {
    format!("rpc error: code = {code} desc = {desc}")
}

#[test]
fn image_references_are_told_from_nonsense() {
    let mut w = World::new(1);
    let digest = format!("a/b:1@sha256:{}", "ab".repeat(32));
    for (n, good) in [
        "nginx",
        "nginx:1.27-alpine",
        "localhost:5000/a/b",
        "REG.example/x:y",
        "a__b/c",
        "10.0.0.1:5000/hello:latest",
        &digest,
    ]
    .iter()
    .enumerate()
    {
        w.ask(create(service_spec(&format!("good{n}"), |s| image(s, good)))).unwrap_or_else(|e| panic!("{good}: {e}"));
    }
    for bad in ["Nginx", "a//b", "a:b:c/d", "a:", "a@sha256:xyz", "-a", "a b", "x/UPPER"] {
        let (text, _) = w.refused(create(service_spec("bad", |s| image(s, bad))));
        assert!(text.ends_with(&format!("{bad:?} is not a valid repository/tag")), "{text}");
    }
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let mut w = World::new(1);
    let mut refused = |f: &dyn Fn(&mut ServiceSpec), what: &str| {
        let (text, got) = w.refused(create(service_spec("web", f)));
        assert_eq!((text, got), (format!("{what} is not supported by this version of Malha"), 501));
    };
    refused(&|s| s.task_template.log_driver = Some(json!({"Name": "syslog"})), "the log driver syslog");
    let rollback = UpdateConfig { failure_action: "rollback".into(), ..UpdateConfig::default() };
    refused(&|s| s.update_config = Some(rollback.clone()), "--update-failure-action rollback");
    let privileges = json!({"CredentialSpec": {"Config": "", "File": "x.json"}});
    refused(
        &|s| s.task_template.container_spec.as_mut().unwrap().privileges = Some(privileges.clone()),
        "--credential-spec",
    );
    let nothing = json!({"CredentialSpec": {"Config": "", "File": ""}, "SELinuxContext": null});
    let plain = service_spec("web", |s| {
        s.task_template.log_driver = Some(json!({"Name": "json-file"}));
        s.task_template.container_spec.as_mut().unwrap().privileges = Some(nothing.clone());
    });
    w.ask(create(plain)).unwrap();
}

#[test]
fn ports_of_the_swarm_itself_are_not_published() {
    let mut w = World::new(1);
    w.add_node("n9", Role::Manager);
    w.write(|tx, _| {
        let mut node = (**tx.node(&"n9".into()).unwrap()).clone();
        node.manager.as_mut().unwrap().addr = "10.1.1.1:2377".into();
        tx.put(node);
    });
    let spec = |published, protocol, mode| {
        service_spec("web", |s| {
            publish(s, published, 80, mode);
            s.endpoint_spec.as_mut().unwrap().ports[0].protocol = protocol;
        })
    };
    let invalid = |desc: &str| (rpc("InvalidArgument", desc), 400);
    assert_eq!(
        w.refused(create(spec(2377, Protocol::Tcp, PublishMode::Ingress))),
        invalid("port '2377' is already in use by the swarm as its managers' port")
    );
    assert_eq!(
        w.refused(create(spec(4789, Protocol::Udp, PublishMode::Ingress))),
        invalid("port '4789' is already in use by the swarm as a data path port")
    );
    w.ask(create(spec(2377, Protocol::Udp, PublishMode::Ingress))).unwrap();
}

#[test]
fn service_specs_are_refused_with_dockers_words() {
    let mut w = World::new(1);
    let mut refused = |f: &dyn Fn(&mut ServiceSpec), status: u16, desc: &str| {
        let (text, got) = w.refused(create(service_spec("web", f)));
        assert_eq!((text, got), (rpc("InvalidArgument", desc), status));
    };
    refused(&|s| s.name = "-web".into(), 400, "name must be valid as a DNS name component");
    refused(&|s| s.name = "a".repeat(64), 400, "name must be 63 characters or fewer");
    refused(&|s| image(s, ""), 400, "ContainerSpec: image reference must be provided");
    refused(&|s| image(s, "UPPER"), 400, "ContainerSpec: \"UPPER\" is not a valid repository/tag");
    refused(&|s| s.task_template.container_spec = None, 400, "TaskSpec: missing runtime");
    refused(&|s| constrain(s, "node.role"), 400, "constraint expected one operator from ==, !=");
    refused(&|s| constrain(s, "node role==x"), 400, "key 'node role' is invalid");
    refused(&|s| constrain(s, "node.role==a>b"), 400, "value 'a>b' is invalid");
    refused(&|s| restart(s, |r| r.delay = Some(-1)), 400, "TaskSpec: restart-delay cannot be negative");
    let limits = |nano_cpus, memory_bytes| ResourceRequirements {
        limits: Some(Resources { nano_cpus, memory_bytes, ..Resources::default() }),
        ..ResourceRequirements::default()
    };
    refused(
        &|s| s.task_template.resources = Some(limits(100_000, 0)),
        400,
        "invalid cpu value 0.0001: Must be at least 0.001",
    );
    refused(
        &|s| s.task_template.resources = Some(limits(0, 1024)),
        400,
        "invalid memory value 1024: Must be at least 4MiB",
    );
    refused(
        &|s| {
            publish(s, 80, 80, PublishMode::Ingress);
            s.endpoint_spec.as_mut().unwrap().mode = "dnsrr".into();
        },
        400,
        "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
    );
    refused(
        &|s| {
            publish(s, 80, 80, PublishMode::Ingress);
            publish(s, 80, 81, PublishMode::Host);
        },
        400,
        "EndpointSpec: duplicate published ports provided",
    );
    refused(
        &|s| on_network(s, "ingress"),
        400,
        "Service cannot be explicitly attached to the ingress network \"ingress\"",
    );
}

#[test]
fn what_is_not_built_is_501_and_named() {
    let mut w = World::new(1);
    let mut refused = |f: &dyn Fn(&mut ServiceSpec), word: &str| {
        let (text, status) = w.refused(create(service_spec("web", f)));
        assert_eq!(status, 501);
        assert!(text.contains(word), "{text}");
    };
    let container =
        |s: &mut ServiceSpec, f: &dyn Fn(&mut ContainerSpec)| f(s.task_template.container_spec.as_mut().unwrap());
    refused(&|s| s.mode.replicated_job = Some(json!({})), "job");
    refused(&|s| s.mode.global_job = Some(json!({})), "job");
    refused(&|s| container(s, &|c| c.secrets.push(json!({}))), "secret");
    refused(&|s| container(s, &|c| c.configs.push(json!({}))), "config");
    refused(&|s| container(s, &|c| c.healthcheck = Some(json!({"Test": ["CMD", "true"]}))), "healthcheck");
    refused(&|s| container(s, &|c| c.mounts.push(Mount { kind: "npipe".into(), ..Mount::default() })), "npipe");
    let off = json!({"Test": ["NONE"]});
    w.create(service_spec("off", |s| container(s, &|c| c.healthcheck = Some(off.clone()))));
}

#[test]
fn templates_that_no_task_could_expand_are_refused() {
    let mut w = World::new(1);
    let with = |f: &dyn Fn(&mut ContainerSpec)| {
        service_spec("web", |s| {
            s.labels.insert("tier".into(), "front".into());
            f(s.task_template.container_spec.as_mut().unwrap());
        })
    };
    let mount = |source: &str, target: &str| Mount {
        kind: "volume".into(),
        source: source.into(),
        target: target.into(),
        ..Mount::default()
    };
    let good = with(&|c| {
        c.hostname = "{{.Service.Name}}-{{ .Task.Slot }}".into();
        c.env = vec!["WHO={{.Task.Name}}".into(), "TIER={{index .Service.Labels \"tier\"}}".into()];
        c.mounts = vec![mount("vol-{{.Node.ID}}", "/data/{{.Task.ID}}")];
    });
    w.ask(create(good)).unwrap();
    let invalid = |text: &str| (rpc("InvalidArgument", text), 400);
    assert_eq!(
        w.refused(create(with(&|c| c.hostname = "{{.Task.Colour}}".into()))),
        invalid(
            "ContainerSpec: hostname: expanding \"{{.Task.Colour}}\" failed: \".Task.Colour\" is not a known field"
        )
    );
    assert_eq!(
        w.refused(create(with(&|c| c.mounts = vec![mount("v", "/{{.Task.ID")]))),
        invalid("ContainerSpec: mount target: expanding \"/{{.Task.ID\" failed: unclosed action")
    );
    let label = w.refused(create(with(&|c| c.env = vec!["A={{.Service.Labels.nosuch}}".into()])));
    assert!(label.0.contains("\".Service.Labels.nosuch\" is not a known field"), "{label:?}");
    // What Docker would expand and this version does not, also in an update.
    let version = w.state.service_named("web").unwrap().meta.version;
    let spec = with(&|c| c.env = vec!["A={{if .Node.ID}}x{{end}}".into()]);
    let (text, status) = w.refused(R::ServiceUpdate { id: "web".into(), version, spec, registry_auth: None });
    assert_eq!(status, 501);
    assert!(text.starts_with("the template action {{if .Node.ID}} in env \"A={{if"), "{text}");
}

#[test]
fn names_are_unique_and_drawn_where_absent() {
    let mut w = World::new(1);
    let id = w.create(service_spec("web", |_| {}));
    let (text, status) = w.refused(create(service_spec("WEB", |_| {})));
    assert_eq!(status, 409);
    assert_eq!(text, rpc("AlreadyExists", "name conflicts with an existing object: service WEB already exists"));
    w.ask(R::ServiceRemove { id: "web".into() }).unwrap();
    assert_eq!(w.refused(R::ServiceGet { id: id.to_string() }).0, "service ".to_owned() + id.as_str() + " not found");
    w.create(service_spec("web", |_| {}));
    let unnamed = w.create(service_spec("", |_| {}));
    let name = w.service(&unnamed).spec.name.clone();
    assert!(name.split_once('_').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty()), "{name}");
}

#[test]
fn updates_need_the_current_version_name_and_mode() {
    let mut w = World::new(1);
    let id = w.create(service_spec("web", |_| {}));
    let version = w.service(&id).meta.version;
    let request = |version, f: &dyn Fn(&mut ServiceSpec)| R::ServiceUpdate {
        id: "web".into(),
        version,
        spec: service_spec("web", f),
        registry_auth: None,
    };
    assert_eq!(w.refused(request(version + 7, &|_| {})), (rpc("Unknown", "update out of sequence"), 500));
    let renamed = w.refused(request(version, &|s| s.name = "other".into()));
    assert_eq!(renamed, (rpc("Unimplemented", "renaming services is not supported"), 501));
    assert_eq!(w.refused(request(version, &global)), (rpc("Unimplemented", "service mode change is not allowed"), 501));
    w.ask(request(version, &|s| image(s, "hello:2"))).unwrap();
    let service = w.service(&id);
    assert_eq!(service.previous_spec.as_ref().unwrap().task_template.container_spec.as_ref().unwrap().image, "hello:1");
    assert!(service.meta.version > version);
    assert_eq!(w.refused(R::ServiceRemove { id: "nope".into() }), ("service nope not found".into(), 404));
}

#[test]
fn registry_credentials_stay_until_replaced() {
    let mut w = World::new(1);
    w.ask(R::ServiceCreate { spec: service_spec("web", |_| {}), registry_auth: Some("secret".into()) }).unwrap();
    let id = w.state.service_named("web").unwrap().id.clone();
    w.update(&id, |s| image(s, "hello:2"));
    assert_eq!(w.service(&id).registry_auth.as_deref(), Some("secret"));
    assert!(w.wanted(&id).iter().all(|t| t.registry_auth.as_deref() == Some("secret")));
}

#[test]
fn networks_are_refused_at_the_request() {
    let mut w = World::new(1);
    w.create_network("front", |n| n.ipam.config.push(subnet("10.0.9.0/24")));
    let mut refused =
        |name: &str, f: &dyn Fn(&mut NetworkSpec)| w.refused(R::NetworkCreate { spec: network_spec(name, f) });
    assert_eq!(refused("front", &|_| {}), ("network with name front already exists".into(), 409));
    assert_eq!(refused("host", &|_| {}), ("host is a pre-defined network and cannot be created".into(), 403));
    assert_eq!(
        refused("a", &|n| n.ipam.config.push(subnet("10.0.9.1/24"))),
        ("invalid network config:\ninvalid subnet 10.0.9.1/24: it should be 10.0.9.0/24".into(), 400)
    );
    for useless in ["224.0.0.0/24", "127.0.0.0/24"] {
        let text = format!("invalid network config:\ninvalid subnet {useless}: its addresses are not for hosts");
        assert_eq!(refused("a", &|n| n.ipam.config.push(subnet(useless))), (text, 400));
    }
    for end in ["10.1.0.0", "10.1.0.255"] {
        let config = IpamConfig { gateway: Some(end.parse().unwrap()), ..subnet("10.1.0.0/24") };
        let text =
            format!("invalid network config:\ninvalid gateway {end}: not an address for a host in subnet 10.1.0.0/24");
        assert_eq!(refused("a", &|n| n.ipam.config.push(config.clone())), (text, 400));
    }
    let bad = IpamConfig {
        ip_range: Some("10.2.0.0/25".parse().unwrap()),
        gateway: Some("10.3.0.1".parse().unwrap()),
        auxiliary_addresses: [("x".to_owned(), "10.4.0.1".parse().unwrap())].into(),
        ..subnet("10.1.0.0/24")
    };
    let lines = [
        "invalid network config:",
        "invalid ip-range 10.2.0.0/25: parent subnet 10.1.0.0/24 doesn't contain ip-range",
        "invalid gateway 10.3.0.1: parent subnet 10.1.0.0/24 doesn't contain this address",
        "invalid auxiliary address 10.4.0.1: parent subnet 10.1.0.0/24 doesn't contain this address",
    ];
    assert_eq!(refused("a", &|n| n.ipam.config.push(bad.clone())), (lines.join("\n"), 400));
    let (text, status) = refused("a", &|n| n.ipam.config.push(subnet("10.0.8.0/22")));
    assert_eq!(status, 403);
    assert!(
        text.starts_with(&rpc(
            "PermissionDenied",
            "invalid pool request: Pool overlaps with other one on this address space"
        )),
        "{text}"
    );
    assert!(text.contains("10.0.9.0/24 of network front"), "{text}");
    let both = |n: &mut NetworkSpec| (n.ingress, n.attachable) = (true, true);
    assert_eq!(refused("a", &both), (rpc("InvalidArgument", "ingress network cannot be attachable"), 400));
    let (text, status) = refused("a", &|n| n.ingress = true);
    assert_eq!(status, 409);
    assert!(text.contains("ingress network (") && text.ends_with(") is already present"), "{text}");
    let mut option = |key: &str, value: &str| -> (String, u16) {
        let (key, value) = (key.to_owned(), value.to_owned());
        refused("a", &move |n| _ = n.options.insert(key.clone(), value.clone()))
    };
    assert_eq!(option("encrypted", "maybe").1, 400);
    assert_eq!(option("encrypted", "").1, 501);
    assert_eq!(option("com.docker.network.driver.mtu", "big").1, 400);
    let vni = option("com.docker.network.driver.overlay.vxlanid_list", "1,x");
    assert_eq!(vni, (rpc("InvalidArgument", "invalid vxlan id value \"x\" passed"), 400));
    assert_eq!(option("com.docker.network.driver.overlay.vxlanid_list", "4096").1, 400, "ingress has it");
}

#[test]
fn a_network_is_kept_while_used_and_its_name_is_free_once_removed() {
    let mut w = World::new(1);
    let net = w.create_network("net", |_| {});
    let web = w.create(service_spec("web", |s| on_network(s, "net")));
    w.settle();
    let in_use = format!("network {net} is in use by service {web}");
    assert_eq!(w.refused(R::NetworkRemove { id: "net".into() }), (rpc("FailedPrecondition", &in_use), 400));
    w.ask(R::ServiceRemove { id: "web".into() }).unwrap();
    assert_eq!(w.state.tasks_of_network(&net).count(), 1, "the task is still there");
    w.ask(R::NetworkRemove { id: "net".into() }).unwrap();
    assert_eq!(w.refused(R::NetworkGet { id: net.to_string() }).1, 404);
    let again = w.create_network("net", |_| {});
    let subnet = |w: &World, id| w.state.network(id).unwrap().ipam[0].subnet;
    assert_ne!(subnet(&w, &net), subnet(&w, &again), "the old subnet is in use until the task is gone");
    w.create(service_spec("web", |s| on_network(s, "net")));
    w.settle();
    assert!(w.state.network(&net).is_none());
    assert!(w.state.service(&web).is_none());
}

#[test]
fn ingress_stays_while_somebody_publishes() {
    let mut w = World::new(1);
    let web = w.create(service_spec("web", |s| publish(s, 80, 80, PublishMode::Ingress)));
    let text = format!("ingress network cannot be removed because service {web} depends on it");
    assert_eq!(w.refused(R::NetworkRemove { id: "ingress".into() }), (rpc("FailedPrecondition", &text), 400));
    w.ask(R::ServiceRemove { id: "web".into() }).unwrap();
    w.ask(R::NetworkRemove { id: "ingress".into() }).unwrap();
    let (text, status) = w.refused(create(service_spec("web", |s| publish(s, 80, 80, PublishMode::Ingress))));
    let desc = "service needs ingress network, but no ingress network is present";
    assert_eq!((text, status), (rpc("FailedPrecondition", desc), 400));
    w.settle();
    let own = w.create_network("mine", |n| {
        n.ingress = true;
        n.ipam.config.push(subnet("10.99.0.0/16"));
    });
    w.create(service_spec("web", |s| publish(s, 80, 80, PublishMode::Ingress)));
    assert_eq!(w.state.services_of_network(&own).count(), 1);
}

#[test]
fn unknown_networks_and_taken_ports_are_named() {
    let mut w = World::new(1);
    assert_eq!(w.refused(create(service_spec("a", |s| on_network(s, "x")))), ("network x not found".into(), 404));
    w.create_network("net", |_| {});
    let twice = |s: &mut ServiceSpec| {
        on_network(s, "net");
        on_network(s, "net");
    };
    assert_eq!(w.refused(create(service_spec("a", twice))).1, 400);
    let web = w.create(service_spec("web", |s| publish(s, 8080, 80, PublishMode::Ingress)));
    let host = w.create(service_spec("host", |s| publish(s, 9090, 80, PublishMode::Host)));
    let taken = |p, name, id: &ServiceId, kind| {
        rpc("InvalidArgument", &format!("port '{p}' is already in use by service '{name}' ({id}) as {kind} port"))
    };
    let got = w.refused(create(service_spec("b", |s| publish(s, 8080, 1, PublishMode::Ingress))));
    assert_eq!(got, (taken(8080, "web", &web, "an ingress"), 400));
    let got = w.refused(create(service_spec("b", |s| publish(s, 8080, 1, PublishMode::Host))));
    assert_eq!(got.0, taken(8080, "web", &web, "an ingress"));
    let got = w.refused(create(service_spec("b", |s| publish(s, 9090, 1, PublishMode::Ingress))));
    assert_eq!(got.0, taken(9090, "host", &host, "a host-published"));
    w.create(service_spec("b", |s| publish(s, 9090, 1, PublishMode::Host)));
    w.update(&web, |s| image(s, "hello:2"));
    w.ask(R::ServiceRemove { id: "web".into() }).unwrap();
    w.create(service_spec("web", |s| publish(s, 8080, 80, PublishMode::Ingress)));
}

#[test]
fn nodes_are_demoted_and_removed_by_the_rules() {
    let mut w = World::new(2);
    let update = |w: &World, id: &str, role| {
        let n = w.state.node(&id.into()).unwrap();
        R::NodeUpdate { id: id.into(), version: n.meta.version, spec: NodeSpec { role, ..n.spec.clone() } }
    };
    let request = update(&w, "n1", Role::Worker);
    let text = "attempting to demote the last manager of the swarm";
    assert_eq!(w.refused(request), (rpc("FailedPrecondition", text), 400));
    w.add_node("n3", Role::Manager);
    let request = update(&w, "n3", Role::Worker);
    w.ask(request).unwrap();
    // what happens to a node between look and change is no reason to refuse; another change is
    let (early, late) = (update(&w, "n2", Role::Worker), update(&w, "n2", Role::Worker));
    w.write(|tx, _| malha_control::status::node_up(tx, &"n2".into(), "10.9.9.9"));
    w.ask(early).unwrap();
    let mut unknown = update(&w, "n2", Role::Worker);
    if let R::NodeUpdate { version, .. } = &mut unknown {
        *version += 1;
    }
    for stale in [late, unknown] {
        assert_eq!(w.refused(stale), (rpc("Unknown", "update out of sequence"), 500));
    }

    let remove = |id: &str, force| R::NodeRemove { id: id.into(), force };
    let text =
        "node n1 is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal";
    assert_eq!(w.refused(remove("n1", true)), (rpc("FailedPrecondition", text), 400));
    let text = "node n2 is not down and can't be removed";
    assert_eq!(w.refused(remove("host-n2", false)), (rpc("FailedPrecondition", text), 400));
    w.node_down("n2");
    w.ask(remove("n2", false)).unwrap();
    assert!(w.state.cluster().unwrap().removed_nodes.contains_key("n2"));
    assert_eq!(w.refused(remove("n2", false)), ("node n2 not found".into(), 404));
}

#[test]
fn the_swarm_is_updated_with_care() {
    let mut w = World::new(1);
    let cluster = w.state.cluster().unwrap().clone();
    let request = |version, f: &dyn Fn(&mut ClusterSpec)| {
        let mut spec = cluster.spec.clone();
        f(&mut spec);
        R::ClusterUpdate { version, spec, rotate_worker_token: true, rotate_manager_token: false }
    };
    let version = cluster.meta.version;
    let invalid = |desc: &str| (rpc("InvalidArgument", desc), 400);
    let short = w.refused(request(version, &|s| s.ca_config.node_cert_expiry = 5));
    assert_eq!(short, invalid("minimum certificate expiry time is: 1h0m0s"));
    let named = w.refused(request(version, &|s| s.name = "x".into()));
    assert_eq!(named, invalid("modification of cluster name is not allowed"));
    let negative = w.refused(request(version, &|s| s.dispatcher.heartbeat_period = -1));
    assert_eq!(negative, invalid("heartbeat time period cannot be a negative duration"));
    assert_eq!(w.refused(request(version, &|s| s.encryption_config.auto_lock_managers = true)).1, 501);
    assert_eq!(w.refused(request(0, &|_| {})), (rpc("Unknown", "update out of sequence"), 500));
    let left_out = request(version, &|s| {
        s.name.clear();
        s.ca_config.node_cert_expiry = 0;
    });
    let A::Cluster(shown) = w.ask(left_out).unwrap() else { panic!() };
    let standard = malha_model::defaults::cluster_spec();
    assert_eq!((shown.spec.name, shown.spec.ca_config), (standard.name, standard.ca_config));
    assert_eq!(shown.root_ca.worker_token, "SWMTKN-1-root-new");
    assert_eq!(shown.root_ca.manager_token, cluster.root_ca.manager_token);
    assert_eq!(shown.root_ca.key_pem, "", "the key is never shown");
    assert_eq!(w.state.cluster().unwrap().root_ca.key_pem, "secret");
}

#[test]
fn lists_count_what_runs() {
    let mut w = World::new(2);
    let web = w.create(service_spec("web", |s| replicas(s, 3)));
    let all = w.create(service_spec("all", global));
    w.settle();
    w.node_down("n2");
    let A::Services(list) = w.ask(R::ServiceList).unwrap() else { panic!() };
    let counts = |id| list.iter().find(|s| s.service.id == id).map(|s| (s.running, s.desired)).unwrap();
    assert!(counts(web.clone()).0 < 3);
    assert_eq!(counts(web).1, 3);
    assert_eq!(counts(all), (1, 1));
}
