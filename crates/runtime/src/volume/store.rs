//! Named volumes: a directory each, with a small file that says what it is.
//!
//! The directory tree is the truth; nothing is cached, so a volume cannot exist here and not there.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::info::VolumeInfo;
use crate::{Result, Runtime, RuntimeError, VolumeAction, clock, container::random_id, durable, events::Events};

#[derive(Debug)]
pub(crate) struct VolumeStore {
    root: PathBuf,
    events: Events,
    changing: tokio::sync::Mutex<()>,
}

impl VolumeStore {
    pub(crate) fn open(root: &Path, events: Events) -> Result<Self> {
        fs::create_dir_all(root).map_err(|e| RuntimeError::io(format!("prepare {}", root.display()), e))?;
        Ok(Self { root: root.to_owned(), events, changing: tokio::sync::Mutex::default() })
    }

    /// The volume and whether it was made just now.
    pub(crate) async fn ensure(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<(VolumeInfo, bool)> {
        let anonymous = name.is_empty();
        let name = if anonymous { random_id() } else { name.to_owned() };
        check_name(&name)?;
        let _changing = self.changing.lock().await;
        if let Some(found) = self.read(&name)? {
            return Ok((found, false));
        }
        let dir = self.root.join(&name);
        let info =
            VolumeInfo { mountpoint: dir.join("_data"), created: clock::now(), name, labels, options, anonymous };
        let fail = |e| RuntimeError::io(format!("create volume {}", info.name), e);
        fs::create_dir_all(&info.mountpoint).map_err(fail)?;
        durable::write_json(&dir.join("volume.json"), &info).await?;
        self.events.volume(VolumeAction::Create, &info.name);
        Ok((info, true))
    }

    pub(crate) fn get(&self, name: &str) -> Result<VolumeInfo> {
        self.read(name)?.ok_or_else(|| RuntimeError::NoSuchVolume(name.into()))
    }

    pub(crate) fn list(&self) -> Result<Vec<VolumeInfo>> {
        let fail = |e| RuntimeError::io(format!("read {}", self.root.display()), e);
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name().to_string_lossy().into_owned();
            all.extend(self.read(&name)?);
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    pub(crate) async fn remove(&self, name: &str) -> Result<()> {
        let _changing = self.changing.lock().await;
        self.get(name)?;
        let dir = self.root.join(name);
        let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(dir)).await;
        match removed.map_err(RuntimeError::internal)? {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(RuntimeError::io(format!("remove volume {name}"), e)),
            _ => {
                self.events.volume(VolumeAction::Destroy, name);
                Ok(())
            }
        }
    }

    fn read(&self, name: &str) -> Result<Option<VolumeInfo>> {
        if check_name(name).is_err() {
            return Ok(None);
        }
        durable::read_json(&self.root.join(name).join("volume.json"))
    }
}

fn check_name(name: &str) -> Result<()> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if name.bytes().all(ok) && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) && name.len() < 256 {
        return Ok(());
    }
    Err(RuntimeError::invalid(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

impl Runtime {
    /// An empty name draws one. An existing volume is returned as it is.
    pub async fn volume_create(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<VolumeInfo> {
        if let Some(option) = options.keys().next() {
            return Err(RuntimeError::Unsupported(format!("volume option {option:?}")));
        }
        Ok(self.inner.volumes.ensure(name, labels, options).await?.0)
    }

    /// By name.
    pub async fn volume_list(&self) -> Result<Vec<VolumeInfo>> {
        self.inner.volumes.list()
    }

    pub async fn volume_inspect(&self, name: &str) -> Result<VolumeInfo> {
        self.inner.volumes.get(name)
    }

    /// `force` forgives a volume that is not there.
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        let users: Vec<String> = self.volume_users(name);
        if !users.is_empty() {
            return Err(RuntimeError::VolumeInUse { name: name.into(), users: users.join(" ") });
        }
        match self.inner.volumes.remove(name).await {
            Err(e) if force && e.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// Ids of containers that mount it, running or not.
    pub fn volume_users(&self, name: &str) -> Vec<String> {
        let uses = |c: &crate::ContainerInfo| c.mounts.iter().any(|m| m.kind == "volume" && m.name == name);
        self.list().into_iter().filter(uses).map(|c| c.id).collect()
    }
}
