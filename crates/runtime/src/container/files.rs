//! hosts, hostname and resolv.conf: files of the container's directory, bind-mounted over the image's.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use super::{info::ContainerPaths, options::ContainerFiles, table::Container};
use crate::{Result, Runtime, RuntimeError};

const HOSTS: &str = "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// Writes all three, with Docker's contents where none is given.
pub(crate) fn write_all(paths: &ContainerPaths, hostname: &str, files: &ContainerFiles) -> Result<()> {
    let default_resolv = || std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    write(&paths.hosts, files.hosts.as_deref().unwrap_or(HOSTS))?;
    write(&paths.hostname, &files.hostname.clone().unwrap_or_else(|| format!("{hostname}\n")))?;
    write(&paths.resolv_conf, &files.resolv_conf.clone().unwrap_or_else(default_resolv))
}

/// In place: a bind mount follows the inode, not the name.
fn write(path: &Path, content: &str) -> Result<()> {
    let fail = |e| RuntimeError::io(format!("write {}", path.display()), e);
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(path).map_err(fail)?;
    file.write_all(content.as_bytes()).map_err(fail)
}

impl Container {
    fn rewrite_files(&self, files: &ContainerFiles) -> Result<()> {
        let paths = self.paths();
        for (path, content) in
            [(&paths.hosts, &files.hosts), (&paths.hostname, &files.hostname), (&paths.resolv_conf, &files.resolv_conf)]
        {
            if let Some(content) = content {
                write(path, content)?;
            }
        }
        Ok(())
    }
}

impl Runtime {
    /// Rewrites hosts, hostname and resolv.conf in place; also while running. `None` leaves a file alone.
    pub async fn set_files(&self, container: &str, files: ContainerFiles) -> Result<()> {
        let container = self.inner.containers.find(container)?;
        let _changing = container.change().await?;
        container.rewrite_files(&files)
    }
}
