//! Mounts as the API speaks of them, for the runtime: those of services and those of `docker run` alike.

use std::{collections::BTreeMap, path::PathBuf};

use malha_model::{ApiError, ApiResult, Code, Mount as ApiMount};
use malha_runtime::{Mount, MountSource};

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// A mount that [`ApiMount::check`] has let pass.
pub(crate) fn of_api(mount: &ApiMount) -> Mount {
    let source = match mount.kind.as_str() {
        "bind" => {
            let options = mount.bind_options.clone().unwrap_or_default();
            MountSource::Bind {
                path: PathBuf::from(&mount.source),
                create: options.create_mountpoint,
                propagation: options.propagation,
            }
        }
        "tmpfs" => {
            let options = mount.tmpfs_options.clone().unwrap_or_default();
            MountSource::Tmpfs {
                size: options.size_bytes,
                mode: Some(options.mode).filter(|m| *m != 0),
                options: options.options.iter().map(|words| words.join("=")).collect(),
            }
        }
        _ => {
            let options = mount.volume_options.clone().unwrap_or_default();
            MountSource::Volume { name: mount.source.clone(), no_copy: options.no_copy, labels: options.labels }
        }
    };
    Mount { source, target: mount.target.clone(), read_only: mount.read_only }
}

/// `-v source:target[:options]`; a source without a slash is a volume.
pub(super) fn of_bind(text: &str) -> ApiResult<Mount> {
    let refuse = |why: &str| {
        let sep = if why.is_empty() { "" } else { ": " };
        ApiError::plain(Code::InvalidArgument, format!("invalid volume specification: '{text}'{sep}{why}"))
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(refuse("")),
    };
    if !target.starts_with('/') {
        return Err(refuse(&format!("invalid mount path: '{target}' mount path must be absolute")));
    }
    let (mut read_only, mut no_copy, mut propagation) = (false, false, String::new());
    for word in options.split(',').filter(|o| !o.is_empty()) {
        match word {
            "ro" => read_only = true,
            "nocopy" => no_copy = true,
            // The last two are for SELinux, which has no say here.
            "rw" | "z" | "Z" => {}
            word if PROPAGATIONS.contains(&word) => propagation = word.to_owned(),
            word => return Err(refuse(&format!("invalid mode: {word}"))),
        }
    }
    let source = if source.starts_with('/') {
        MountSource::Bind { path: PathBuf::from(source), create: true, propagation }
    } else {
        MountSource::Volume { name: source.to_owned(), no_copy, labels: BTreeMap::new() }
    };
    Ok(Mount { source, target: target.to_owned(), read_only })
}

/// A volume of this container alone.
pub(super) fn anonymous(target: &str) -> Mount {
    let source = MountSource::Volume { name: String::new(), no_copy: false, labels: BTreeMap::new() };
    Mount { source, target: target.to_owned(), read_only: false }
}

/// `--tmpfs target[:options]`
pub(super) fn tmpfs(target: &str, options: &str) -> Mount {
    let options = options.split(',').filter(|o| !o.is_empty()).map(str::to_owned).collect();
    Mount { source: MountSource::Tmpfs { size: 0, mode: None, options }, target: target.to_owned(), read_only: false }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn binds_are_read_as_docker_reads_them() {
        let m = of_bind("/a:/b:ro,rslave").unwrap();
        let MountSource::Bind { create: true, propagation, .. } = &m.source else { panic!("{m:?}") };
        assert!(m.read_only && m.target == "/b" && propagation == "rslave");
        let v = of_bind("data:/d:nocopy").unwrap();
        assert!(matches!(v.source, MountSource::Volume { ref name, no_copy: true, .. } if name == "data"));
        for (bad, why) in [("data:d", "must be absolute"), ("/a:/b:odd", "invalid mode: odd"), ("a:b:c:d", "'a:b:c:d'")]
        {
            assert!(of_bind(bad).unwrap_err().message.contains(why), "{bad}");
        }
    }

    #[test]
    fn nothing_of_a_mount_is_lost() {
        let of = |v| of_api(&serde_json::from_value::<ApiMount>(v).unwrap()).source;
        assert_eq!(
            of(json!({"Type": "bind", "Source": "/a", "BindOptions": {"Propagation": "rshared"}})),
            MountSource::Bind { path: "/a".into(), create: false, propagation: "rshared".into() }
        );
        assert_eq!(
            of(json!({"Type": "volume", "Source": "v", "VolumeOptions": {"NoCopy": true, "Labels": {"a": "b"}}})),
            MountSource::Volume { name: "v".into(), no_copy: true, labels: [("a".into(), "b".into())].into() }
        );
        assert_eq!(
            of(json!({"Type": "tmpfs", "TmpfsOptions": {"SizeBytes": 9, "Mode": 448, "Options": [["exec"]]}})),
            MountSource::Tmpfs { size: 9, mode: Some(0o700), options: vec!["exec".into()] }
        );
    }
}
