//! Settings of a node: defaults, then the config file, then flags.
//!
//! Names are those that Docker hosts already carry, in the same JSON file format (`daemon.json`): lists have plural keys
//! in the file and repeatable singular flags. An unknown key or a setting given in both places is an error that names it,
//! as Docker treats it; nothing is silently ignored.

mod registries;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;

pub(crate) const DEFAULT_HOST: &str = "unix:///run/malha/malha.sock";
pub(crate) const DEFAULT_CONFIG: &str = "/etc/malha/daemon.json";
pub(crate) const DEFAULT_INSTANCE: &str = "malha";

#[derive(Debug, Args)]
pub(crate) struct DaemonArgs {
    /// Where the API listens: unix://PATH or tcp://IP:PORT (tcp only with --tlsverify). Repeatable.
    #[arg(short = 'H', long = "host", value_name = "URL")]
    hosts: Vec<String>,
    /// Config file, JSON. [default: /etc/malha/daemon.json where it exists]
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// State that must survive a reboot. [default: /var/lib/malha]
    #[arg(long, value_name = "DIR")]
    data_root: Option<PathBuf>,
    /// State of this boot. [default: /run/malha]
    #[arg(long, value_name = "DIR")]
    exec_root: Option<PathBuf>,
    /// containerd's socket; one is started as a child where nothing listens. [default: /run/containerd/containerd.sock]
    #[arg(long, value_name = "SOCKET")]
    containerd: Option<PathBuf>,
    /// OCI runtime binary. [default: containerd's]
    #[arg(long, value_name = "PATH")]
    oci_runtime: Option<PathBuf>,
    /// Mirror of Docker Hub, asked first. Repeatable.
    #[arg(long = "registry-mirror", value_name = "URL")]
    registry_mirrors: Vec<String>,
    /// Registry (host:port or CIDR) that is spoken to without verified TLS. Repeatable.
    #[arg(long = "insecure-registry", value_name = "REGISTRY")]
    insecure_registries: Vec<String>,
    /// Address or interface that `swarm init|join` advertises unless told otherwise.
    #[arg(long, visible_alias = "swarm-default-advertise-addr", value_name = "ADDR")]
    default_advertise_addr: Option<String>,
    /// Engine label, key=value. Repeatable.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// DNS server for containers instead of the node's own. Repeatable.
    #[arg(long, value_name = "IP")]
    dns: Vec<String>,
    /// trace, debug, info, warn or error. [default: info]
    #[arg(short = 'l', long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json. [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Require client certificates on tcp.
    #[arg(long)]
    tlsverify: bool,
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
    /// Host name that this node shows. [default: the machine's]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Name of this node's containerd namespace, cgroup and pinned maps, where several nodes share a machine.
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
}

/// The file: every key optional, none unknown.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct File {
    hosts: Vec<String>,
    data_root: Option<PathBuf>,
    exec_root: Option<PathBuf>,
    containerd: Option<PathBuf>,
    oci_runtime: Option<PathBuf>,
    registry_mirrors: Vec<String>,
    insecure_registries: Vec<String>,
    #[serde(alias = "swarm-default-advertise-addr")]
    default_advertise_addr: Option<String>,
    labels: Vec<String>,
    dns: Vec<String>,
    log_level: Option<String>,
    log_format: Option<String>,
    tlsverify: Option<bool>,
    tlscacert: Option<PathBuf>,
    tlscert: Option<PathBuf>,
    tlskey: Option<PathBuf>,
    hostname: Option<String>,
    instance: Option<String>,
}

/// Everything the daemon goes by, checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) hosts: Vec<Host>,
    pub(crate) data_root: PathBuf,
    pub(crate) exec_root: PathBuf,
    pub(crate) containerd: PathBuf,
    pub(crate) oci_runtime: Option<PathBuf>,
    pub(crate) registry_mirrors: Vec<String>,
    pub(crate) insecure_registries: Vec<String>,
    pub(crate) default_advertise_addr: Option<String>,
    pub(crate) labels: Vec<String>,
    pub(crate) dns: Vec<std::net::IpAddr>,
    pub(crate) log_level: tracing::Level,
    pub(crate) log_json: bool,
    pub(crate) tls: Option<ApiTls>,
    pub(crate) hostname: String,
    pub(crate) instance: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

#[derive(Clone, Debug)]
pub(crate) struct ApiTls {
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Config {
    pub(crate) fn load(args: DaemonArgs) -> Result<Self> {
        let file = read_file(args.config_file.as_deref())?;
        merge(args, file)
    }
}

fn read_file(given: Option<&Path>) -> Result<File> {
    let path = given.unwrap_or(Path::new(DEFAULT_CONFIG));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && given.is_none() => return Ok(File::default()),
        Err(e) => return Err(e).with_context(|| format!("cannot read config file {}", path.display())),
    };
    serde_json::from_str(&text).with_context(|| format!("config file {}", path.display()))
}

fn merge(args: DaemonArgs, file: File) -> Result<Config> {
    let hosts = list("hosts", args.hosts, file.hosts)?;
    let hosts = if hosts.is_empty() { vec![DEFAULT_HOST.to_owned()] } else { hosts };
    let hosts = hosts.iter().map(|h| h.parse()).collect::<Result<Vec<Host>>>()?;
    let labels = list("labels", args.labels, file.labels)?;
    if let Some(bad) = labels.iter().find(|l| !l.contains('=') || l.starts_with('=')) {
        bail!("bad attribute format: {bad} (a label is key=value)");
    }
    let level = one("log-level", args.log_level, file.log_level)?.unwrap_or_else(|| "info".into());
    let format = one("log-format", args.log_format, file.log_format)?.unwrap_or_else(|| "text".into());
    ensure!(format == "text" || format == "json", "log-format {format:?}: it is text or json");
    let tls = tls(
        args.tlsverify || file.tlsverify.unwrap_or_default(),
        one("tlscacert", args.tlscacert, file.tlscacert)?,
        one("tlscert", args.tlscert, file.tlscert)?,
        one("tlskey", args.tlskey, file.tlskey)?,
    )?;
    if tls.is_none() && hosts.iter().any(|h| matches!(h, Host::Tcp(_))) {
        bail!(
            "tcp without client certificates gives root to everybody who reaches it: set --tlsverify, --tlscacert, --tlscert and --tlskey"
        );
    }
    let dns = list("dns", args.dns, file.dns)?;
    Ok(Config {
        hosts,
        data_root: one("data-root", args.data_root, file.data_root)?.unwrap_or_else(|| "/var/lib/malha".into()),
        exec_root: one("exec-root", args.exec_root, file.exec_root)?.unwrap_or_else(|| "/run/malha".into()),
        containerd: one("containerd", args.containerd, file.containerd)?
            .unwrap_or_else(|| "/run/containerd/containerd.sock".into()),
        oci_runtime: one("oci-runtime", args.oci_runtime, file.oci_runtime)?,
        registry_mirrors: each("registry-mirrors", args.registry_mirrors, file.registry_mirrors, registries::mirror)?,
        insecure_registries: each(
            "insecure-registries",
            args.insecure_registries,
            file.insecure_registries,
            registries::insecure,
        )?,
        default_advertise_addr: one(
            "default-advertise-addr",
            args.default_advertise_addr,
            file.default_advertise_addr,
        )?,
        labels,
        dns: dns
            .iter()
            .map(|d| d.parse().with_context(|| format!("dns {d:?} is not an IP address")))
            .collect::<Result<_>>()?,
        log_level: level
            .parse()
            .map_err(|_| anyhow::anyhow!("log-level {level:?}: it is trace, debug, info, warn or error"))?,
        log_json: format == "json",
        tls,
        hostname: one("hostname", args.hostname, file.hostname)?.map_or_else(machine_hostname, Ok)?,
        instance: one("instance", args.instance, file.instance)?.unwrap_or_else(|| DEFAULT_INSTANCE.into()),
    })
}

fn one<T>(key: &str, flag: Option<T>, file: Option<T>) -> Result<Option<T>> {
    ensure!(flag.is_none() || file.is_none(), "{key} is set both as a flag and in the config file");
    Ok(flag.or(file))
}

fn list<T>(key: &str, flags: Vec<T>, file: Vec<T>) -> Result<Vec<T>> {
    ensure!(flags.is_empty() || file.is_empty(), "{key} is set both by flags and in the config file");
    Ok(if flags.is_empty() { file } else { flags })
}

/// A list whose values are checked one by one.
fn each(
    key: &'static str,
    flags: Vec<String>,
    file: Vec<String>,
    check: impl Fn(&str) -> Result<String>,
) -> Result<Vec<String>> {
    list(key, flags, file)?.iter().map(|v| check(v).context(key)).collect()
}

fn tls(verify: bool, ca: Option<PathBuf>, cert: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<ApiTls>> {
    match (verify, ca, cert, key) {
        (true, Some(ca), Some(cert), Some(key)) => Ok(Some(ApiTls { ca, cert, key })),
        (false, None, None, None) => Ok(None),
        _ => bail!("tlsverify, tlscacert, tlscert and tlskey go together"),
    }
}

fn machine_hostname() -> Result<String> {
    let uname = nix::sys::utsname::uname().context("cannot read the host name")?;
    Ok(uname.nodename().to_string_lossy().into_owned())
}

impl std::str::FromStr for Host {
    type Err = anyhow::Error;

    fn from_str(s: &str) -> Result<Self> {
        match s.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("tcp", addr)) => {
                addr.parse().map(Self::Tcp).with_context(|| format!("host {s:?}: tcp://IP:PORT is needed"))
            }
            Some(("fd", _)) => bail!("host {s:?}: socket activation is not supported; use unix:///PATH"),
            _ => bail!("host {s:?}: unix:///PATH or tcp://IP:PORT is needed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: DaemonArgs,
    }

    fn load(flags: &[&str], file: &str) -> Result<Config> {
        let args = <Cli as clap::Parser>::parse_from(std::iter::once("malha").chain(flags.iter().copied())).args;
        merge(args, serde_json::from_str(file)?)
    }

    #[test]
    fn defaults_file_and_flags_in_that_order() {
        let c =
            load(&["--label", "a=b"], r#"{"insecure-registries": ["10.0.0.9:5000"], "log-level": "debug"}"#).unwrap();
        assert_eq!(c.hosts, [Host::Unix("/run/malha/malha.sock".into())]);
        assert_eq!(c.insecure_registries, ["10.0.0.9:5000"]);
        assert_eq!(c.labels, ["a=b"]);
        assert_eq!(c.log_level, tracing::Level::DEBUG);
    }

    #[test]
    fn every_bad_setting_is_named() {
        for (flags, file, text) in [
            (vec![], r#"{"storage-driverr": "x"}"#, "storage-driverr"),
            (vec!["--label", "x"], "{}", "bad attribute format: x"),
            (vec!["--log-level", "loud"], "{}", "loud"),
            (vec!["--log-level", "info"], r#"{"log-level": "info"}"#, "log-level is set both"),
            (vec!["-H", "tcp://127.0.0.1:2375"], "{}", "client certificates"),
            (vec!["-H", "here"], "{}", "here"),
            (vec!["--dns", "ns"], "{}", "ns"),
            (vec!["--registry-mirror", "mirror:5000"], "{}", "registry-mirrors: invalid mirror: no scheme"),
            (vec![], r#"{"registry-mirrors": ["http://m/v1"]}"#, "registry-mirrors: invalid mirror: a path"),
            (
                vec!["--insecure-registry", "http://r:5000"],
                "{}",
                "insecure-registries: insecure registry http://r:5000",
            ),
            (
                vec![],
                r#"{"insecure-registries": ["10.0.0.0/33"]}"#,
                "insecure-registries: insecure registry 10.0.0.0/33",
            ),
        ] {
            let error = format!("{:#}", load(&flags, file).unwrap_err());
            assert!(error.contains(text), "{error:?} should name {text:?}");
        }
    }
}
