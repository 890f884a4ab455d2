//! What a container runs: its creator's words on top of the image's.

use std::collections::BTreeMap;

use super::{info::Process, options::CreateOptions};
use crate::{Result, RuntimeError, image::ImageConfig};

/// Docker's merge of `Config` and the image's config.
pub(crate) fn merge(id: &str, options: &CreateOptions, image: &ImageConfig) -> Result<Process> {
    let clears = |list: &Vec<String>| list.is_empty() || (list.len() == 1 && list[0].is_empty());
    let (entrypoint, cmd) = match &options.entrypoint {
        Some(given) => {
            let entrypoint = if clears(given) { Vec::new() } else { given.clone() };
            (entrypoint, options.cmd.clone().unwrap_or_default())
        }
        None => {
            let cmd = options.cmd.clone().filter(|c| !c.is_empty()).unwrap_or_else(|| image.cmd.clone());
            (image.entrypoint.clone(), cmd)
        }
    };
    let args: Vec<String> = entrypoint.iter().chain(&cmd).cloned().collect();
    if args.is_empty() {
        return Err(RuntimeError::invalid("no command specified"));
    }
    let either = |given: &Option<String>, of_image: &String| {
        given.clone().filter(|g| !g.is_empty()).unwrap_or_else(|| of_image.clone())
    };
    let mut labels: BTreeMap<String, String> = image.labels.clone();
    labels.extend(options.labels.clone());
    Ok(Process {
        entrypoint,
        cmd,
        args,
        env: merge_env(&image.env, &options.env),
        working_dir: either(&options.working_dir, &image.working_dir),
        user: either(&options.user, &image.user),
        hostname: options.hostname.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| id.chars().take(12).collect()),
        labels,
        exposed_ports: image.exposed_ports.clone(),
        volumes: image.volumes.clone(),
        stop_signal: either(&options.stop_signal, &image.stop_signal),
    })
}

/// `over` on top of `base`: a bare key in `over` removes, a set one replaces in place.
pub(crate) fn merge_env(base: &[String], over: &[String]) -> Vec<String> {
    let key = |e: &String| e.split_once('=').map_or(e.as_str(), |(k, _)| k).to_owned();
    let mut merged = base.to_vec();
    for entry in over {
        let name = key(entry);
        if !entry.contains('=') {
            merged.retain(|e| key(e) != name);
            continue;
        }
        match merged.iter_mut().find(|e| key(e) == name) {
            Some(slot) => slot.clone_from(entry),
            None => merged.push(entry.clone()),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn entrypoint_and_command_follow_docker() {
        let image = ImageConfig { entrypoint: strings(&["/e"]), cmd: strings(&["c"]), ..ImageConfig::default() };
        let args = |entrypoint: Option<&[&str]>, cmd: Option<&[&str]>| {
            let options = CreateOptions {
                entrypoint: entrypoint.map(strings),
                cmd: cmd.map(strings),
                ..CreateOptions::default()
            };
            merge(&"a".repeat(64), &options, &image).map(|p| p.args)
        };
        assert_eq!(args(None, None).unwrap(), ["/e", "c"]);
        assert_eq!(args(None, Some(&["x"])).unwrap(), ["/e", "x"]);
        assert_eq!(args(Some(&["/n"]), None).unwrap(), ["/n"]);
        assert_eq!(args(Some(&[""]), Some(&["x"])).unwrap(), ["x"]);
        assert!(args(Some(&[]), None).is_err());
    }

    #[test]
    fn environment_is_replaced_added_and_removed() {
        let merged = merge_env(&strings(&["A=1", "B=2"]), &strings(&["B=3", "C=4", "A"]));
        assert_eq!(merged, ["B=3", "C=4"]);
    }
}
