//! Capabilities, by Docker's rules.

use crate::{Result, RuntimeError};

const ALL: &[&str] = &[
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

const DEFAULT: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

pub(crate) fn all() -> Vec<String> {
    ALL.iter().map(|c| format!("CAP_{c}")).collect()
}

/// The default set with `add` and `drop`, either of which may say `ALL`.
pub(crate) fn tweak(add: &[String], drop: &[String]) -> Result<Vec<String>> {
    let (add, drop) = (normal(add)?, normal(drop)?);
    let has = |list: &[String], cap: &str| list.iter().any(|c| c == cap);
    let base: &[&str] = if has(&add, "ALL") { ALL } else { DEFAULT };
    let kept = ALL.iter().filter(|cap| {
        let wanted =
            has(&add, cap) || (base.contains(cap) && !has(&drop, "ALL")) || (has(&add, "ALL") && base.contains(cap));
        wanted && !has(&drop, cap)
    });
    Ok(kept.map(|c| format!("CAP_{c}")).collect())
}

fn normal(list: &[String]) -> Result<Vec<String>> {
    list.iter()
        .map(|given| {
            let upper = given.trim().to_ascii_uppercase();
            let name = upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned();
            let known = name == "ALL" || ALL.contains(&name.as_str());
            if known { Ok(name) } else { Err(RuntimeError::invalid(format!("unknown capability: \"{given}\""))) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_added_and_dropped() {
        let get = |add: &[&str], drop: &[&str]| {
            let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
            tweak(&own(add), &own(drop))
        };
        assert_eq!(get(&[], &[]).unwrap().len(), DEFAULT.len());
        assert!(get(&["net_admin"], &[]).unwrap().contains(&"CAP_NET_ADMIN".to_owned()));
        assert_eq!(get(&["CAP_CHOWN"], &["ALL"]).unwrap(), ["CAP_CHOWN"]);
        assert_eq!(get(&["ALL"], &["SYS_ADMIN"]).unwrap().len(), ALL.len() - 1);
        assert!(get(&["NOPE"], &[]).is_err());
    }
}
