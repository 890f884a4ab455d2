//! `GET /exec/{id}/json`.

use serde_json::{Value, json};

use crate::backend::Exec;

pub(crate) fn inspect(e: &Exec) -> Value {
    let (entry, arguments) = e.config.cmd.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    json!({
        "ID": e.id,
        "Running": e.running,
        "ExitCode": e.exit_code,
        "ProcessConfig": {
            "tty": e.config.tty,
            "entrypoint": entry,
            "arguments": arguments,
            "privileged": e.config.privileged,
            "user": e.config.user,
        },
        "OpenStdin": e.config.attach_stdin,
        "OpenStderr": e.config.attach_stderr,
        "OpenStdout": e.config.attach_stdout,
        "CanRemove": !e.running && e.exit_code.is_some(),
        "ContainerID": e.container_id,
        "DetachKeys": e.config.detach_keys,
        "Pid": e.pid,
    })
}
