//! `malha check`: is this machine fit to be a node?
//!
//! One line per point: `ok`, `warn` (works, with a drawback) or `FAIL` (a node cannot run), the finding, and the remedy
//! where there is one. Exits with 1 where anything fails. Nothing is changed on the machine.

use std::{
    fmt,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use clap::Args;
use ipnet::Ipv4Net;
use serde::Serialize;

use crate::paths;

/// First kernel with everything that the data plane uses (docs/decisions/0006).
const MIN_KERNEL: (u32, u32) = (5, 18);
/// First runc without the container escapes published in November 2025 (CVE-2025-31133 and its siblings).
const SAFE_RUNC: (u32, u32, u32) = (1, 2, 8);

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[arg(long)]
    json: bool,
    /// containerd's socket.
    #[arg(long, default_value = "/run/containerd/containerd.sock")]
    containerd: PathBuf,
    /// Pool that overlay subnets will be cut from.
    #[arg(long, default_value = malha_model::defaults::DEFAULT_ADDR_POOL)]
    default_addr_pool: Ipv4Net,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
struct Finding {
    point: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    remedy: String,
}

pub(crate) fn run(args: &CheckArgs) -> Result<()> {
    let findings = [
        kernel(),
        btf(),
        cgroup2(),
        bpf_fs(),
        programs(),
        device_kinds(),
        containerd(&args.containerd),
        oci_runtime(),
        port_tcp(malha_model::defaults::CONTROL_PORT),
        port_udp(malha_model::defaults::DATA_PATH_PORT),
        underlay_mtu(),
        clock(),
        overlap(args.default_addr_pool),
    ];
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for f in &findings {
            println!("{f}");
        }
    }
    let failed = findings.iter().filter(|f| f.verdict == Verdict::Fail).count();
    if failed > 0 {
        bail!("{failed} of {} points fail", findings.len());
    }
    Ok(())
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        write!(f, "{verdict}  {:<18} {}", self.point, self.found)?;
        if !self.remedy.is_empty() {
            write!(f, " -> {}", self.remedy)?;
        }
        Ok(())
    }
}

fn finding(point: &'static str, good: bool, bad: Verdict, found: impl Into<String>, remedy: &str) -> Finding {
    let verdict = if good { Verdict::Ok } else { bad };
    let remedy = if good { String::new() } else { remedy.to_owned() };
    Finding { point, verdict, found: found.into(), remedy }
}

fn kernel() -> Finding {
    let release = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let good = version(&release).is_some_and(|(a, b, _)| (a, b) >= MIN_KERNEL);
    finding("kernel", good, Verdict::Fail, format!("Linux {release}"), "Linux 5.18 or later is needed")
}

fn btf() -> Finding {
    let path = Path::new("/sys/kernel/btf/vmlinux");
    let found = if path.exists() { "BPF type information present" } else { "no BPF type information" };
    finding(
        "kernel BTF",
        path.exists(),
        Verdict::Warn,
        found,
        "a kernel with CONFIG_DEBUG_INFO_BTF gives better reports",
    )
}

fn cgroup2() -> Finding {
    match paths::cgroup2_mount() {
        Some(path) => finding("cgroup v2", true, Verdict::Ok, format!("mounted at {}", path.display()), ""),
        None => {
            finding("cgroup v2", false, Verdict::Fail, "not mounted", "mount -t cgroup2 none /sys/fs/cgroup/unified")
        }
    }
}

fn bpf_fs() -> Finding {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounted = mounts.lines().any(|l| l.split(' ').nth(2) == Some("bpf"));
    let known = std::fs::read_to_string("/proc/filesystems").is_ok_and(|t| t.lines().any(|l| l.ends_with("\tbpf")));
    let found = match (mounted, known) {
        (true, _) => "mounted",
        (false, true) => "not mounted yet; the daemon mounts it",
        (false, false) => "the kernel has none",
    };
    finding("BPF file system", mounted || known, Verdict::Fail, found, "a kernel with CONFIG_BPF_SYSCALL is needed")
}

fn programs() -> Finding {
    finding("data plane", true, Verdict::Ok, "eBPF programs are built in; no compiler is needed", "")
}

/// Asks for links in a network namespace of this process's own, which ends with it.
fn device_kinds() -> Finding {
    let probe = std::thread::spawn(|| -> Result<(), String> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).map_err(|e| format!("no network namespace: {e}"))?;
        for (kind, args) in [
            ("vxlan", &["type", "vxlan", "external", "dstport", "4789"][..]),
            ("veth", &["type", "veth"][..]),
            ("bridge", &["type", "bridge"][..]),
        ] {
            let name = format!("probe-{kind}");
            let out = std::process::Command::new("ip").args(["link", "add", &name]).args(args).output();
            match out {
                Ok(out) if out.status.success() => {}
                Ok(out) => return Err(format!("{kind}: {}", String::from_utf8_lossy(&out.stderr).trim())),
                Err(e) => return Err(format!("cannot run ip: {e}")),
            }
        }
        Ok(())
    });
    match probe.join() {
        Ok(Ok(())) => finding("link kinds", true, Verdict::Ok, "vxlan, veth, bridge", ""),
        Ok(Err(e)) => {
            finding("link kinds", false, Verdict::Fail, e, "run as root on a kernel with CONFIG_VXLAN, VETH, BRIDGE")
        }
        Err(_) => finding("link kinds", false, Verdict::Fail, "the probe ended early", "report this"),
    }
}

fn containerd(socket: &Path) -> Finding {
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return finding("containerd", true, Verdict::Ok, format!("answers on {}", socket.display()), "");
    }
    let installed = on_path("containerd").is_some();
    let found = if installed {
        "not running; the daemon will start one of its own".to_owned()
    } else {
        format!("not at {} and not installed", socket.display())
    };
    finding("containerd", installed, Verdict::Fail, found, "apt-get install containerd")
}

fn oci_runtime() -> Finding {
    let Some(runc) = on_path("runc") else {
        return finding("OCI runtime", false, Verdict::Fail, "no runc", "apt-get install runc, or set --oci-runtime");
    };
    let out = std::process::Command::new(runc).arg("--version").output().map(|o| o.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&out).lines().next().unwrap_or_default().to_owned();
    let good = text.split(' ').next_back().and_then(version).is_some_and(|v| v >= SAFE_RUNC);
    let remedy = "runc before 1.2.8 lacks the fixes of CVE-2025-31133; install a later one and set --oci-runtime";
    finding("OCI runtime", good, Verdict::Warn, text, remedy)
}

fn port_tcp(port: u16) -> Finding {
    let free = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
    let found = format!("{port}/tcp {}", if free { "free" } else { "in use" });
    finding(
        "control port",
        free,
        Verdict::Warn,
        found,
        "fine where a node runs already; else free it or set --listen-addr",
    )
}

fn port_udp(port: u16) -> Finding {
    let free = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
    let found = format!("{port}/udp {}", if free { "free" } else { "in use" });
    let remedy = "fine where a node runs already; else choose another at `swarm init --data-path-port`";
    finding("data path port", free, Verdict::Warn, found, remedy)
}

/// The MTU of the links that carry a default route, or of all that are up where none does.
fn underlay_mtu() -> Finding {
    let mtu = |name: &str| -> Option<u32> {
        std::fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok()?.trim().parse().ok()
    };
    let routes = routes();
    let mut links: Vec<&str> = routes.iter().filter(|r| r.net.prefix_len() == 0).map(|r| r.link.as_str()).collect();
    if links.is_empty() {
        links = routes.iter().map(|r| r.link.as_str()).collect();
    }
    let Some(least) = links.iter().filter_map(|l| mtu(l)).min() else {
        return finding("underlay MTU", false, Verdict::Warn, "no routed link", "connect the machine to its network");
    };
    let found = format!("{least} bytes, {} for containers", least.saturating_sub(50));
    let remedy = format!("below 1500: create networks with --opt com.docker.network.driver.mtu={least}");
    finding("underlay MTU", least >= 1500, Verdict::Warn, found, &remedy)
}

fn clock() -> Finding {
    // SAFETY: an all-zero timex asks for nothing to be changed; the call fills it in.
    #[allow(unsafe_code, reason = "adjtimex(2) has no safe wrapper among our dependencies")]
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut timex)
    };
    let synchronised = state >= 0 && state != libc::TIME_ERROR;
    let found = if synchronised { "synchronised" } else { "not synchronised" };
    let remedy = "certificates are checked against it: run chrony or systemd-timesyncd";
    finding("clock", synchronised, Verdict::Warn, found, remedy)
}

struct Route {
    link: String,
    net: Ipv4Net,
}

/// The IPv4 routes of this namespace, as `/proc/net/route` has them: addresses in host byte order, hexadecimal.
fn routes() -> Vec<Route> {
    let text = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let parse = |line: &str| {
        let f: Vec<&str> = line.split_whitespace().collect();
        let hex = |s: &str| u32::from_str_radix(s, 16).ok().map(u32::swap_bytes);
        let (dest, mask) = (hex(f.get(1)?)?, hex(f.get(7)?)?);
        let net = Ipv4Net::new(dest.into(), u8::try_from(mask.count_ones()).ok()?).ok()?;
        Some(Route { link: (*f.first()?).to_owned(), net })
    };
    text.lines().skip(1).filter_map(parse).collect()
}

fn overlap(pool: Ipv4Net) -> Finding {
    let hit = routes().into_iter().find(|r| {
        let own = r.link == "docker_gwbridge" || r.link.starts_with("malha");
        !own && r.net.prefix_len() > 0 && (pool.contains(&r.net) || r.net.contains(&pool))
    });
    match hit {
        None => finding("address pool", true, Verdict::Ok, format!("{pool} meets no route of this machine"), ""),
        Some(r) => finding(
            "address pool",
            false,
            Verdict::Warn,
            format!("{pool} overlaps the route {} on {}", r.net, r.link),
            "choose another at `swarm init --default-addr-pool`",
        ),
    }
}

/// Leading `major.minor[.patch]` of a version text.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)))
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|d| d.join(program)).find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_programs_print() {
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18, 44)));
        assert_eq!(version("1.1.5+ds1"), Some((1, 1, 5)));
        assert_eq!(version("5.10"), Some((5, 10, 0)));
        assert_eq!(version("unknown"), None);
    }
}
