//! `user[:group]` looked up in the image's own `/etc/passwd` and `/etc/group`.

use crate::{Result, RuntimeError, rootfs::Rootfs};

/// Who a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) additional_gids: Vec<u32>,
}

/// Resolves Docker's user syntax; `group_add` holds names or numbers.
pub(crate) fn resolve(rootfs: &Rootfs, user: &str, group_add: &[String]) -> Result<Identity> {
    let passwd = rootfs.read("/etc/passwd")?.unwrap_or_default();
    let group = rootfs.read("/etc/group")?.unwrap_or_default();
    resolve_in(&passwd, &group, user, group_add)
}

fn resolve_in(passwd: &str, group: &str, user: &str, group_add: &[String]) -> Result<Identity> {
    let (user, wanted_group) = user.split_once(':').map_or((user, None), |(u, g)| (u, Some(g)));
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    // name:password:uid:gid:…
    let entry = passwd
        .lines()
        .map(|l| l.split(':').collect::<Vec<_>>())
        .find(|f| f.len() >= 4 && (f[0] == user || (number.is_some() && f[2].parse::<u32>().ok() == number)));
    let (name, uid, gid) = match (&entry, number) {
        (Some(f), _) => {
            let bad = || RuntimeError::invalid(format!("the image's /etc/passwd is broken at {user}"));
            (Some(f[0]), f[2].parse().map_err(|_| bad())?, f[3].parse().map_err(|_| bad())?)
        }
        (None, Some(uid)) => (None, uid, 0),
        (None, None) => {
            return Err(RuntimeError::invalid(format!(
                "unable to find user {user}: no matching entries in passwd file"
            )));
        }
    };
    let mut identity = Identity { uid, gid, additional_gids: Vec::new() };
    match wanted_group.filter(|g| !g.is_empty()) {
        Some(wanted) => identity.gid = find_group(group, wanted)?,
        None => identity.additional_gids = name.map(|n| groups_of(group, n)).unwrap_or_default(),
    }
    for extra in group_add {
        identity.additional_gids.push(find_group(group, extra)?);
    }
    // The primary group too: a set-gid program must not lose the way back to it.
    identity.additional_gids.push(identity.gid);
    identity.additional_gids.sort_unstable();
    identity.additional_gids.dedup();
    Ok(identity)
}

/// name:password:gid:members
fn find_group(group: &str, wanted: &str) -> Result<u32> {
    let by_name = group.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f.len() >= 3 && f[0] == wanted);
    by_name.and_then(|f| f[2].parse().ok()).or_else(|| wanted.parse().ok()).ok_or_else(|| {
        RuntimeError::invalid(format!("unable to find group {wanted}: no matching entries in group file"))
    })
}

fn groups_of(group: &str, user: &str) -> Vec<u32> {
    let fields = group.lines().map(|l| l.split(':').collect::<Vec<_>>());
    fields
        .filter(|f| f.len() >= 4 && f[3].split(',').any(|m| m.trim() == user))
        .filter_map(|f| f[2].parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_groups_resolve() {
        let passwd = "root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/:/bin/sh\n";
        let group = "root:x:0:root\nwheel:x:10:root,web\nweb:x:1001:\n";
        let get = |user: &str| resolve_in(passwd, group, user, &[]).unwrap();
        assert_eq!(get(""), Identity { uid: 0, gid: 0, additional_gids: vec![0, 10] });
        assert_eq!(get("web"), Identity { uid: 1000, gid: 1001, additional_gids: vec![10, 1001] });
        assert_eq!(get("1000"), get("web"));
        assert_eq!(get("web:wheel"), Identity { uid: 1000, gid: 10, additional_gids: vec![10] });
        assert_eq!(get("7:8"), Identity { uid: 7, gid: 8, additional_gids: vec![8] });
        assert!(resolve_in(passwd, group, "nobody", &[]).is_err());
        assert!(resolve_in(passwd, group, "web:none", &[]).is_err());
        assert_eq!(resolve_in(passwd, group, "7", &["wheel".into()]).unwrap().additional_gids, [0, 10]);
    }
}
