//! `docker network`.

use crate::support::Host;

#[tokio::test]
async fn networks_are_created_listed_inspected_and_removed() {
    let host = Host::manager().await;
    let id = host.ok(&["network", "create", "-d", "overlay", "minha_rede_overlay"]).await;
    assert_eq!(id.len(), 25);
    assert_eq!(host.ok(&["network", "ls", "-q", "--no-trunc", "-f", &format!("id={}", &id[5..20])]).await, id);
    let text = host.ok(&["network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"]).await;
    let mut rows: Vec<&str> = text.lines().collect();
    rows.sort_unstable();
    let want = [
        "bridge bridge local",
        "docker_gwbridge bridge local",
        "host host local",
        "ingress overlay swarm",
        "minha_rede_overlay overlay swarm",
        "none null local",
    ];
    assert_eq!(rows, want);
    assert_eq!(host.ok(&["network", "ls", "-q", "-f", "driver=overlay"]).await.lines().count(), 2);
    assert_eq!(host.ok(&["network", "ls", "--format", "{{.Name}}", "-f", "name=^minha"]).await, "minha_rede_overlay");
    assert_eq!(
        host.ok(&["network", "ls", "-f", "type=custom", "-f", "scope=local", "--format", "{{.Name}}"]).await,
        "docker_gwbridge"
    );

    let created = host
        .ok(&["network", "inspect", "-f", "{{.Created.Format \"2006-01-02T15:04:05.999999999Z07:00\"}}", &id])
        .await;
    let text = host.ok(&["network", "inspect", "minha_rede_overlay"]).await;
    let want = format!(
        r#"[
    {{
        "Name": "minha_rede_overlay",
        "Id": "{id}",
        "Created": "{created}",
        "Scope": "swarm",
        "Driver": "overlay",
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": {{
            "Driver": "default",
            "Options": null,
            "Config": [
                {{
                    "Subnet": "10.0.1.0/24",
                    "Gateway": "10.0.1.1"
                }}
            ]
        }},
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": {{
            "Network": ""
        }},
        "ConfigOnly": false,
        "Containers": {{}},
        "Options": {{
            "com.docker.network.driver.overlay.vxlanid_list": "4097"
        }},
        "Labels": {{}}
    }}
]"#
    );
    assert_eq!(text, want);
    assert!(host.ok(&["network", "inspect", "--verbose", &id[..6]]).await.contains("\"Services\": {}"));
    host.ok(&["service", "create", "-d", "--name", "web", "--network", "minha_rede_overlay", "bench:1"]).await;
    let busy = host.docker(&["network", "rm", "minha_rede_overlay"]).await;
    assert!(busy.stderr.contains("is in use by service"), "{busy:?}");
    host.ok(&["network", "create", "-d", "overlay", "unused"]).await;
    assert_eq!(host.ok(&["network", "prune", "-f"]).await, "Deleted Networks:\nunused");
    host.ok(&["service", "rm", "web"]).await;
    assert_eq!(host.ok(&["network", "rm", "minha_rede_overlay"]).await, "minha_rede_overlay");
}

#[tokio::test]
async fn pruning_keeps_what_is_young_or_marked() {
    let host = Host::manager().await;
    host.ok(&["network", "create", "-d", "overlay", "--label", "keep", "kept"]).await;
    host.ok(&["network", "create", "-d", "overlay", "unused"]).await;
    let prune = |filter| ["network", "prune", "-f", "--filter", filter];
    assert_eq!(host.ok(&prune("until=24h")).await, "");
    assert_eq!(host.ok(&prune("label!=keep")).await, "Deleted Networks:\nunused");
    let twice = host.docker(&["network", "prune", "-f", "--filter", "until=1h", "--filter", "until=2h"]).await;
    assert!(twice.stderr.contains("more than one until filter specified"), "{twice:?}");
    assert!(host.docker(&prune("until=soon")).await.stderr.contains("soon"));
    assert_eq!(host.ok(&prune("until=0s")).await, "Deleted Networks:\nkept");
}

#[tokio::test]
async fn all_that_is_asked_of_an_overlay_reaches_the_swarm() {
    let host = Host::manager().await;
    host.ok(&[
        "network",
        "create",
        "-d",
        "overlay",
        "--subnet",
        "10.9.0.0/24",
        "--gateway",
        "10.9.0.254",
        "--ip-range",
        "10.9.0.128/25",
        "--aux-address",
        "router=10.9.0.200",
        "--attachable",
        "--internal",
        "--label",
        "a=b",
        "--opt",
        "com.docker.network.driver.mtu=9000",
        "full",
    ])
    .await;
    let text = host.ok(&["network", "inspect", "full", "-f", "{{json .IPAM.Config}} {{.Attachable}} {{.Internal}} {{json .Labels}} {{index .Options \"com.docker.network.driver.mtu\"}}"]).await;
    let ipam = r#"[{"Subnet":"10.9.0.0/24","IPRange":"10.9.0.128/25","Gateway":"10.9.0.254","AuxiliaryAddresses":{"router":"10.9.0.200"}}]"#;
    assert_eq!(text, format!(r#"{ipam} true true {{"a":"b"}} 9000"#));
}

#[tokio::test]
async fn refusals_come_with_dockers_words() {
    let host = Host::manager().await;
    host.ok(&["network", "create", "-d", "overlay", "one"]).await;
    for (args, text) in [
        (&["-d", "overlay", "one"][..], "network with name one already exists"),
        (&["-d", "overlay", "host"], "host is a pre-defined network and cannot be created"),
        (&["-d", "overlay", "--subnet", "10.0.9.1/24", "x"], "invalid subnet 10.0.9.1/24: it should be 10.0.9.0/24"),
        (&["-d", "overlay", "--ipv4=false", "x"], "IPv4 cannot be disabled"),
        (&["-d", "overlay", "--scope", "local", "x"], "cannot downgrade network scope for overlay networks"),
        (&["-d", "odd", "x"], "plugin \"odd\" not found"),
        (&["x"], "not supported"),
    ] {
        let done = host.docker(&[&["network", "create"], args].concat()).await;
        assert!(done.code != 0 && done.stderr.contains(text), "{args:?}: {done:?}");
    }
    let done = host.docker(&["network", "rm", "bridge"]).await;
    assert!(done.stderr.contains("bridge is a pre-defined network and cannot be removed"), "{done:?}");
    let done = host.docker(&["network", "inspect", "nope"]).await;
    assert!(done.stderr.contains("network nope not found"), "{done:?}");
}

#[tokio::test]
async fn containers_are_connected_and_disconnected() {
    let host = Host::manager().await;
    host.ok(&["network", "connect", "--alias", "db", "--ip", "10.0.1.9", "some-net", "web.1.xyz"]).await;
    let connected = host.engine.state().connected.clone();
    let (network, request) = &connected[0];
    assert_eq!((network.as_str(), request.container.as_str()), ("some-net", "web.1.xyz"));
    assert_eq!(request.endpoint_config.aliases.as_deref(), Some(&["db".to_owned()][..]));
    assert_eq!(request.endpoint_config.ipam_config.as_ref().unwrap().ipv4_address, "10.0.1.9");
    host.ok(&["network", "disconnect", "some-net", "web.1.xyz"]).await;
}
