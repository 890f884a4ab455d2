//! Which addresses a node listens on and tells the others.
//!
//! Docker's rules (moby `daemon/cluster/listen_addr.go`): an address is an IP or an interface, with a port where one makes
//! sense; where none is given, a join takes the one that faces the manager, an init the only candidate of the machine, and
//! several are an error that lists them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use malha_model::{ApiError, ApiResult, Code};
use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex};
use tokio::net::lookup_host;

const BAD_LISTEN: &str = "listen address must be an IP address or network interface (with optional port number)";
const BAD_ADVERTISE: &str =
    "advertise address must be a non-zero IP address or network interface (with optional port number)";
const BAD_DATA_PATH: &str =
    "data path address must be a non-zero IP address or network interface (without a port number)";

/// One address of an interface that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) addr: IpAddr,
}

fn invalid(text: String) -> ApiError {
    ApiError::plain(Code::InvalidArgument, text)
}

/// Addresses of this network namespace that another machine could use.
pub(super) fn interfaces() -> ApiResult<Vec<Interface>> {
    let all = getifaddrs().map_err(|e| ApiError::internal(format!("cannot list interfaces: {e}")))?;
    let mut found = Vec::new();
    for entry in all {
        let Some(storage) = entry.address else { continue };
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let v6 = storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
        let Some(addr) = v4.or(v6) else { continue };
        let up = entry.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP);
        if up && is_global_unicast(addr) {
            found.push(Interface { name: entry.interface_name, addr });
        }
    }
    Ok(found)
}

fn is_global_unicast(addr: IpAddr) -> bool {
    let link_local = match addr {
        IpAddr::V4(a) => a.is_link_local() || a.is_broadcast(),
        IpAddr::V6(a) => (a.segments()[0] & 0xffc0) == 0xfe80,
    };
    !(addr.is_loopback() || addr.is_unspecified() || addr.is_multicast() || link_local)
}

/// The address that this machine would reach `remote` (`host:port`) from. Sends nothing.
pub(super) async fn facing(remote: &str) -> Option<IpAddr> {
    lookup_host(remote).await.ok()?.find_map(source_of)
}

fn source_of(to: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(to).ok()?;
    // a manager on this very machine says nothing of where the others are
    socket.local_addr().ok().map(|a| a.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// `IP|interface[:port]`; `unknown` is the text for what is neither.
fn resolve(text: &str, default_port: u16, interfaces: &[Interface], unknown: &str) -> ApiResult<SocketAddr> {
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Ok(addr);
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, default_port));
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().map_err(|_| invalid(format!("invalid port in address {text:?}")))?),
        None => (text, default_port),
    };
    let ip = of_interface(name, interfaces)?.ok_or_else(|| invalid(unknown.into()))?;
    Ok(SocketAddr::new(ip, port))
}

/// The address of an interface: its IPv4 one, else its IPv6 one; two of the same kind are not chosen between. `None` where
/// there is no such interface.
fn of_interface(name: &str, interfaces: &[Interface]) -> ApiResult<Option<IpAddr>> {
    let own: Vec<IpAddr> = interfaces.iter().filter(|i| i.name == name).map(|i| i.addr).collect();
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = own.iter().partition(|a| a.is_ipv4());
    match (v4.as_slice(), v6.as_slice()) {
        ([one], _) | ([], [one]) => Ok(Some(*one)),
        ([a, b, ..], _) => Err(invalid(format!("interface {name} has more than one IPv4 address ({a} and {b})"))),
        ([], [a, b, ..]) => Err(invalid(format!("interface {name} has more than one IPv6 address ({a} and {b})"))),
        ([], []) if if_nametoindex(name).is_ok() => {
            Err(invalid(format!("interface {name} has no usable IPv4 or IPv6 addresses")))
        }
        ([], []) => Ok(None),
    }
}

/// The address that the others are told: as asked, else the daemon's default, else the specific listen address, else
/// the one that faces a manager where there is one already, else the only candidate.
pub(super) fn advertise(
    asked: &str,
    default: Option<&str>,
    listen: SocketAddr,
    facing: Option<IpAddr>,
    interfaces: &[Interface],
) -> ApiResult<SocketAddr> {
    if let Some(text) = Some(asked).filter(|a| !a.is_empty()).or(default) {
        let addr = resolve(text, listen.port(), interfaces, BAD_ADVERTISE)?;
        if addr.ip().is_unspecified() {
            return Err(invalid(BAD_ADVERTISE.into()));
        }
        return Ok(addr);
    }
    if !listen.ip().is_unspecified() {
        return Ok(listen);
    }
    let ip = match facing {
        Some(ip) => ip,
        None => only_candidate(interfaces)?,
    };
    Ok(SocketAddr::new(ip, listen.port()))
}

fn only_candidate(interfaces: &[Interface]) -> ApiResult<IpAddr> {
    let ours = ["docker", "malha", "br-", "veth"];
    let outside: Vec<&Interface> = interfaces.iter().filter(|i| !ours.iter().any(|p| i.name.starts_with(p))).collect();
    let v4: Vec<&Interface> = outside.iter().copied().filter(|i| i.addr.is_ipv4()).collect();
    let candidates = if v4.is_empty() { outside } else { v4 };
    match candidates.as_slice() {
        [] => Err(invalid("could not find the system's IP address".into())),
        [one] => Ok(one.addr),
        [a, b, ..] if a.name == b.name => Err(invalid(format!(
            "could not choose an IP address to advertise since this system has multiple addresses on interface {} ({} and {})",
            a.name, a.addr, b.addr
        ))),
        [a, b, ..] => Err(invalid(format!(
            "could not choose an IP address to advertise since this system has multiple addresses on different interfaces ({} on {} and {} on {})",
            a.addr, a.name, b.addr, b.name
        ))),
    }
}

/// Where the manager port listens.
pub(super) fn listen(asked: &str, interfaces: &[Interface]) -> ApiResult<SocketAddr> {
    let port = malha_model::defaults::CONTROL_PORT;
    if asked.is_empty() {
        return Ok(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
    }
    resolve(asked, port, interfaces, BAD_LISTEN)
}

/// The tunnel endpoint: as asked (no port), else the advertised address.
pub(super) fn data_path(asked: &str, advertise: SocketAddr, interfaces: &[Interface]) -> ApiResult<IpAddr> {
    if asked.is_empty() {
        return Ok(advertise.ip());
    }
    let ip = match asked.parse::<IpAddr>() {
        Ok(ip) => Some(ip).filter(|ip| !ip.is_unspecified()),
        Err(_) => of_interface(asked, interfaces)?,
    };
    ip.ok_or_else(|| invalid(BAD_DATA_PATH.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(addrs: &[(&str, &str)]) -> Vec<Interface> {
        addrs.iter().map(|(n, a)| Interface { name: (*n).into(), addr: a.parse().unwrap() }).collect()
    }

    #[test]
    fn the_only_candidate_is_taken_and_several_are_listed() {
        let any = "0.0.0.0:2377".parse().unwrap();
        let one = machine(&[("eth0", "192.168.77.1"), ("docker_gwbridge", "172.18.0.1")]);
        assert_eq!(advertise("", None, any, None, &one).unwrap(), "192.168.77.1:2377".parse().unwrap());
        let two = machine(&[("eth0", "192.168.77.1"), ("eth1", "10.9.0.1")]);
        let error = advertise("", None, any, None, &two).unwrap_err();
        assert_eq!(error.http_status(), 400);
        assert_eq!(
            error.message,
            "could not choose an IP address to advertise since this system has multiple addresses on different interfaces (192.168.77.1 on eth0 and 10.9.0.1 on eth1)"
        );
        assert_eq!(advertise("eth1:2400", None, any, None, &two).unwrap(), "10.9.0.1:2400".parse().unwrap());
        assert_eq!(advertise("", Some("eth1"), any, None, &two).unwrap(), "10.9.0.1:2377".parse().unwrap());
    }

    #[test]
    fn a_join_takes_the_address_that_faces_the_manager_unless_another_is_named() {
        let any = "0.0.0.0:2377".parse().unwrap();
        let two = machine(&[("eth0", "192.168.77.1"), ("eth1", "10.9.0.1")]);
        let facing = Some("10.9.0.1".parse().unwrap());
        let told = |asked, default, listen| advertise(asked, default, listen, facing, &two).unwrap().to_string();
        assert_eq!(told("", None, any), "10.9.0.1:2377");
        assert_eq!(told("eth0", None, any), "192.168.77.1:2377");
        assert_eq!(told("", Some("eth0"), any), "192.168.77.1:2377");
        assert_eq!(told("", None, "192.168.77.1:2400".parse().unwrap()), "192.168.77.1:2400");
        assert_eq!(source_of("127.0.0.1:2377".parse().unwrap()), None);
    }

    #[test]
    fn what_is_no_address_is_refused_in_dockers_words() {
        let any: SocketAddr = "0.0.0.0:2377".parse().unwrap();
        let many = machine(&[("eth0", "192.168.77.1"), ("eth0", "192.168.77.2")]);
        for unknown in ["nosuch7", "nosuch7:2400", "0.0.0.0"] {
            assert_eq!(advertise(unknown, None, any, None, &many).unwrap_err().message, BAD_ADVERTISE);
        }
        assert_eq!(listen("nosuch7", &many).unwrap_err().message, BAD_LISTEN);
        for unknown in ["nosuch7", "0.0.0.0", "::", "192.168.77.1:4789"] {
            assert_eq!(data_path(unknown, any, &many).unwrap_err().message, BAD_DATA_PATH);
        }
        let ambiguous = "interface eth0 has more than one IPv4 address (192.168.77.1 and 192.168.77.2)";
        for refused in [advertise("eth0", None, any, None, &many), listen("eth0", &many)] {
            assert_eq!(refused.unwrap_err().message, ambiguous);
        }
        assert_eq!(data_path("eth0", any, &many).unwrap_err().message, ambiguous);
    }
}
