//! What is mounted into a container: from the creator's words to directories, and to the OCI spec's `mounts`.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    info::{ContainerPaths, MountPoint},
    options::{CreateOptions, Mount, MountSource},
    process::merge_env,
};
use crate::{Result, RuntimeError, image::ImageConfig, runtime::Inner, volume::VolumeInfo};

/// Mounts that have been made ready, and what must be undone or filled.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    pub(crate) points: Vec<MountPoint>,
    /// Volumes made for this container: removed again should its creation fail.
    pub(crate) fresh: Vec<VolumeInfo>,
    /// Volumes that take the image's content: volume, path in the container.
    pub(crate) copy_up: Vec<(VolumeInfo, String)>,
}

impl Inner {
    /// Makes every mount's source ready. On failure the caller still gets what was made, in `prepared`.
    pub(crate) async fn prepare_mounts(
        &self,
        id: &str,
        options: &CreateOptions,
        image: &ImageConfig,
        prepared: &mut Prepared,
    ) -> Result<()> {
        for mount in &options.mounts {
            check_target(&mount.target)?;
            if prepared.points.iter().any(|p| p.target == clean(&mount.target)) {
                return Err(RuntimeError::invalid(format!("Duplicate mount point: {}", mount.target)));
            }
            self.prepare_mount(id, mount, prepared).await?;
        }
        for target in &image.volumes {
            let target = clean(target);
            if prepared.points.iter().any(|p| p.target == target) {
                continue;
            }
            let source =
                MountSource::Volume { name: String::new(), no_copy: false, labels: std::collections::BTreeMap::new() };
            self.prepare_mount(id, &Mount { source, target, read_only: false }, prepared).await?;
        }
        Ok(())
    }

    async fn prepare_mount(&self, id: &str, mount: &Mount, prepared: &mut Prepared) -> Result<()> {
        let mut point = MountPoint {
            kind: String::new(),
            name: String::new(),
            source: PathBuf::new(),
            target: clean(&mount.target),
            read_only: mount.read_only,
            propagation: String::new(),
            anonymous: false,
        };
        match &mount.source {
            MountSource::Bind { path, create, propagation } => {
                point.kind = "bind".into();
                point.source = bind_source(path, *create)?;
                point.propagation =
                    if propagation.is_empty() { "rprivate".into() } else { check_propagation(propagation)?.into() };
            }
            MountSource::Volume { name, no_copy, labels } => {
                let (volume, fresh) =
                    self.volumes.ensure(name, labels.clone(), std::collections::BTreeMap::new()).await?;
                point.kind = "volume".into();
                point.name.clone_from(&volume.name);
                point.source.clone_from(&volume.mountpoint);
                point.anonymous = name.is_empty();
                if !*no_copy {
                    prepared.copy_up.push((volume.clone(), point.target.clone()));
                }
                if fresh {
                    prepared.fresh.push(volume);
                }
            }
            MountSource::Tmpfs { .. } => point.kind = "tmpfs".into(),
            MountSource::File { content, mode, uid, gid } => {
                point.kind = "bind".into();
                point.propagation = "rprivate".into();
                point.read_only = true;
                point.source = self.write_secret(id, prepared.points.len(), content, *mode, (*uid, *gid))?;
            }
        }
        prepared.points.push(point);
        Ok(())
    }

    /// Secrets and configs live in memory only: `/run` is a tmpfs.
    pub(crate) fn secrets_dir(&self, id: &str) -> PathBuf {
        Path::new("/run/malha-files").join(self.containerd.namespace()).join(id)
    }

    fn write_secret(&self, id: &str, n: usize, content: &[u8], mode: u32, owner: (u32, u32)) -> Result<PathBuf> {
        let dir = self.secrets_dir(id);
        let path = dir.join(n.to_string());
        let write = || {
            fs::create_dir_all(&dir)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
            let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path)?;
            file.write_all(content)?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            chown(&path, Some(owner.0), Some(owner.1))
        };
        write().map_err(|e| RuntimeError::io("write a secret or config", e))?;
        Ok(path)
    }
}

fn check_target(target: &str) -> Result<()> {
    if !target.starts_with('/') {
        let text = format!("invalid mount config: invalid mount path: '{target}' mount path must be absolute");
        return Err(RuntimeError::invalid(text));
    }
    if clean(target) == "/" {
        return Err(RuntimeError::invalid("invalid mount config: destination can't be '/'"));
    }
    Ok(())
}

fn bind_source(path: &Path, create: bool) -> Result<PathBuf> {
    let shown = path.display();
    if !path.is_absolute() {
        let text = format!(
            "invalid mount config for type \"bind\": invalid mount path: '{shown}' mount path must be absolute"
        );
        return Err(RuntimeError::invalid(text));
    }
    match path.try_exists() {
        Ok(true) => {}
        Ok(false) if create => {
            fs::create_dir_all(path)
                .map_err(|e| RuntimeError::io(format!("error while creating mount source path '{shown}'"), e))?;
        }
        _ => {
            return Err(RuntimeError::invalid(format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {shown}"
            )));
        }
    }
    Ok(path.to_owned())
}

fn check_propagation(text: &str) -> Result<&str> {
    match text {
        "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => Ok(text),
        other => Err(RuntimeError::invalid(format!("invalid propagation mode: {other}"))),
    }
}

/// An absolute path without `.`, `..` and double slashes.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The spec's `mounts`, parents before children.
pub(crate) fn spec_mounts(options: &CreateOptions, points: &[MountPoint], paths: &ContainerPaths) -> Vec<Value> {
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": source, "options": options});
    let shm = format!("size={}", if options.shm_size > 0 { options.shm_size } else { 64 << 20 });
    let sys = if options.privileged { "rw" } else { "ro" };
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &[sys, "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
    ];
    let taken = |target: &str| points.iter().any(|p| p.target == target);
    all.retain(|m| m["destination"].as_str().is_none_or(|d| !taken(d)));

    let mut own: Vec<(String, Value)> = points.iter().map(|p| (p.target.clone(), spec_point(options, p))).collect();
    let files =
        [("/etc/resolv.conf", &paths.resolv_conf), ("/etc/hostname", &paths.hostname), ("/etc/hosts", &paths.hosts)];
    for (target, source) in files.into_iter().filter(|(t, _)| !taken(t)) {
        let value = mount(target, "bind", &source.to_string_lossy(), &["rbind", "rprivate"]);
        own.push((target.into(), value));
    }
    own.sort_by_key(|(target, _)| target.matches('/').count());
    all.extend(own.into_iter().map(|(_, value)| value));
    all
}

fn spec_point(options: &CreateOptions, point: &MountPoint) -> Value {
    let access = if point.read_only { "ro" } else { "rw" };
    if point.kind != "tmpfs" {
        let propagation = if point.propagation.is_empty() { "rprivate" } else { &point.propagation };
        return json!({"destination": point.target, "type": "bind", "source": point.source,
            "options": ["rbind", propagation, access]});
    }
    let source = options.mounts.iter().find(|m| clean(&m.target) == point.target).map(|m| &m.source);
    let mut words: Vec<String> = ["noexec", "nosuid", "nodev", access].map(str::to_owned).into();
    if let Some(MountSource::Tmpfs { size, mode, options }) = source {
        if *size > 0 {
            words.push(format!("size={size}"));
        }
        if let Some(mode) = mode {
            words.push(format!("mode={mode:o}"));
        }
        for word in options {
            // `exec` undoes `noexec`, and so on.
            words.retain(|w| *w != format!("no{word}"));
            words.push(word.clone());
        }
    }
    json!({"destination": point.target, "type": "tmpfs", "source": "tmpfs", "options": words})
}

/// Environment as a process gets it: Docker's own entries below the container's.
pub(crate) fn process_env(hostname: &str, tty: bool, env: &[String]) -> Vec<String> {
    let mut base = vec![
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        format!("HOSTNAME={hostname}"),
    ];
    if tty {
        base.push("TERM=xterm".into());
    }
    merge_env(&base, env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_cleaned_and_checked() {
        assert_eq!(clean("/a/./b//../c/"), "/a/c");
        assert!(check_target("a").is_err() && check_target("/a/..").is_err());
        check_target("/a").unwrap();
    }
}
