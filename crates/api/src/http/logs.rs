//! Log lines as the stream of bytes that `docker logs` and `docker service logs` read.

use std::{collections::BTreeMap, convert::Infallible};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use malha_model::{ApiResult, LogLine, LogOptions, Timestamp};

use super::{
    frames::{self, SYSTEM_ERROR},
    query::{Query, bad},
    reply::{self, Reply},
    version::ApiVersion,
};
use crate::backend::{ContainerLogs, SwarmLogs};

/// How lines are to be shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Show {
    pub(crate) timestamps: bool,
    pub(crate) details: bool,
    /// Raw bytes, not frames.
    pub(crate) tty: bool,
}

/// Reads the parameters of a log request. At least one stream has to be asked for.
pub(crate) fn options(query: &Query) -> ApiResult<LogOptions> {
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !stdout && !stderr {
        return Err(bad("Bad parameters: you must choose at least one stream"));
    }
    Ok(LogOptions {
        follow: query.flag("follow"),
        stdout,
        stderr,
        since: query.time("since")?,
        until: query.time("until")?,
        tail: tail(query.get("tail").unwrap_or_default())?,
    })
}

fn tail(asked: &str) -> ApiResult<Option<u64>> {
    match asked {
        "" | "all" => Ok(None),
        // what clients send for all of it
        negative if negative.parse::<i64>().is_ok_and(|n| n < 0) => Ok(None),
        number => number.parse().map(Some).map_err(|_| bad("tail value must be a positive integer or \"all\"")),
    }
}

impl Show {
    pub(crate) fn new(query: &Query, tty: bool) -> Self {
        Self { timestamps: query.flag("timestamps"), details: query.flag("details"), tty }
    }

    fn line(self, stream: u8, timestamp: Timestamp, details: &str, data: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(data.len() + 64);
        if self.timestamps {
            out.extend_from_slice(frames::fixed_time(timestamp).as_bytes());
            out.push(b' ');
        }
        if self.details {
            out.extend_from_slice(details.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(data);
        if self.tty { out.into() } else { frames::frame(stream, &out) }
    }

    fn error(self, text: &str) -> Bytes {
        let text = format!("Error grabbing logs: {text}\n");
        if self.tty { text.into() } else { frames::frame(SYSTEM_ERROR, text.as_bytes()) }
    }

    fn reply(self, version: ApiVersion, body: impl Stream<Item = Bytes> + Send + 'static) -> Reply {
        let kind = if !self.tty && version.at_least(42) { frames::MULTIPLEXED } else { frames::RAW };
        reply::stream(kind, body.map(Ok::<_, Infallible>))
    }
}

pub(crate) fn of_container(lines: ContainerLogs, show: Show, version: ApiVersion) -> Reply {
    show.reply(
        version,
        lines.map(move |line| match line {
            Ok(l) => show.line(frames::number(l.stream), l.timestamp, "", &l.data),
            Err(text) => show.error(&text),
        }),
    )
}

/// Lines of many tasks. What could not be had is told once, after the last line, because a client stops reading there.
pub(crate) fn of_swarm(lines: SwarmLogs, show: Show, version: ApiVersion) -> Reply {
    let start = (lines, Vec::<String>::new());
    let body = stream::unfold(Some(start), move |state| async move {
        let (mut lines, mut missing) = state?;
        loop {
            match lines.next().await {
                Some(Ok(line)) => {
                    let bytes = show.line(line.stream, line.timestamp, &details(&line), &line.data);
                    return Some((bytes, Some((lines, missing))));
                }
                Some(Err(text)) => missing.push(text),
                None if missing.is_empty() => return None,
                None => {
                    let text = format!(
                        "rpc error: code = Unknown desc = warning: incomplete log stream. some logs could not be \
                         retrieved for the following reasons: {}",
                        missing.join(", ")
                    );
                    return Some((show.error(&text), None));
                }
            }
        }
    });
    show.reply(version, body)
}

/// `k=v,k=v`, sorted, each part escaped as in a query; the CLI takes node and task from here.
fn details(line: &LogLine) -> String {
    let mut attributes = BTreeMap::from([
        ("com.docker.swarm.node.id", line.node.as_str()),
        ("com.docker.swarm.task.id", line.task.as_str()),
    ]);
    if let Some(service) = &line.service {
        attributes.insert("com.docker.swarm.service.id", service.as_str());
    }
    let escape = |s: &str| form_urlencoded::byte_serialize(s.as_bytes()).collect::<String>();
    attributes.iter().map(|(k, v)| format!("{}={}", escape(k), escape(v))).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_names_node_service_and_task() {
        let line = LogLine {
            node: "n1".into(),
            service: Some("s1".into()),
            task: "t1".into(),
            timestamp: Timestamp(1_763_757_975_000_000_000),
            stream: 2,
            data: b"hi\n".to_vec(),
        };
        let show = Show { timestamps: true, details: true, tty: true };
        assert_eq!(
            show.line(2, line.timestamp, &details(&line), &line.data),
            "2025-11-21T20:46:15.000000000Z com.docker.swarm.node.id=n1,com.docker.swarm.service.id=s1,\
             com.docker.swarm.task.id=t1 hi\n"
        );
    }

    #[test]
    fn one_stream_at_least_has_to_be_chosen() {
        assert_eq!(options(&Query::parse("follow=1")).unwrap_err().http_status(), 400);
        let o = options(&Query::parse("stdout=1&tail=5&since=10")).unwrap();
        assert_eq!((o.tail, o.since, o.stderr), (Some(5), Some(Timestamp(10_000_000_000)), false));
        assert_eq!(options(&Query::parse("stderr=1&tail=all")).unwrap().tail, None);
    }
}
