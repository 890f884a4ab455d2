//! `docker logs`.

use std::{io::SeekFrom, path::Path, time::Duration};

use tokio::{
    fs::File,
    io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader},
    sync::mpsc,
};

use super::{LOG_FILE, Subscription, entry};
use crate::{
    Result, Runtime, RuntimeError,
    container::{LogLine, LogOptions, LogStream, StdStream},
};

/// Lines that wait for a slow reader.
const BACKLOG: usize = 256;

impl Runtime {
    /// Part of the log; with `follow` until the container stops.
    pub async fn logs(&self, container: &str, options: LogOptions) -> Result<LogStream> {
        let container = self.inner.containers.find(container)?;
        // What an ended process wrote last may still be on its way.
        let mut live = container.live.subscribe();
        let _ = tokio::time::timeout(Duration::from_secs(5), live.wait_for(|l| !l.draining)).await;
        // Connected first: between the last read and the first tick nothing is missed.
        let subscription = if options.follow { Subscription::connect(&container.dir).await } else { None };
        let (lines, stream) = mpsc::channel(BACKLOG);
        let dir = container.dir.clone();
        self.inner.tasks.spawn("logs", async move {
            if let Err(e) = pump(&dir, options, subscription, &lines).await {
                let _ = lines.send(Err(e)).await;
            }
        });
        Ok(LogStream(stream))
    }
}

/// Reads to the end, and on as long as there is a subscription. Ends early when nobody listens.
async fn pump(
    dir: &Path,
    options: LogOptions,
    mut subscription: Option<Subscription>,
    lines: &mpsc::Sender<Result<LogLine>>,
) -> Result<()> {
    let path = dir.join(LOG_FILE);
    let fail = |e: std::io::Error| RuntimeError::io(format!("read {}", path.display()), e);
    let mut file = match File::open(&path).await {
        Ok(file) => file,
        // A writer that follows makes it; a container that never ran has none.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(fail(e)),
    };
    if let Some(tail) = options.tail {
        let start = tail_start(&mut file, tail).await.map_err(fail)?;
        file.seek(SeekFrom::Start(start)).await.map_err(fail)?;
    }
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let mut line = Vec::new();
    loop {
        // A line without its end stays in `line` until the rest is there.
        let n = reader.read_until(b'\n', &mut line).await.map_err(fail)?;
        if line.ends_with(b"\n") {
            let parsed = entry::decode(&line);
            line.clear();
            let Some(parsed) = parsed else { continue };
            if options.until.is_some_and(|until| parsed.time > until) {
                return Ok(());
            }
            if wanted(&parsed, &options) && lines.send(Ok(parsed)).await.is_err() {
                return Ok(());
            }
            continue;
        }
        if n > 0 {
            continue;
        }
        match &mut subscription {
            None => return Ok(()),
            Some(ticks) => {
                tokio::select! {
                    biased;
                    () = lines.closed() => return Ok(()),
                    more = ticks.changed() => if !more {
                        // The writer has ended: one last look.
                        subscription = None;
                    },
                }
            }
        }
    }
}

fn wanted(line: &LogLine, options: &LogOptions) -> bool {
    let stream = if line.stream == StdStream::Stdout { options.stdout } else { options.stderr };
    stream && options.since.is_none_or(|since| line.time >= since)
}

/// Where the last `count` lines begin.
async fn tail_start(file: &mut File, count: u64) -> std::io::Result<u64> {
    const BLOCK: u64 = 64 << 10;
    let length = file.metadata().await?.len();
    if count == 0 {
        return Ok(length);
    }
    let (mut end, mut seen) = (length, 0);
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start)).await?;
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.read_exact(&mut block).await?;
        for (n, byte) in block.iter().enumerate().rev() {
            let at = start + n as u64;
            // The last line's own end does not begin a line.
            if *byte == b'\n' && at + 1 < length {
                seen += 1;
                if seen == count {
                    return Ok(at + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

impl LogLine {
    /// As `docker logs` prints it; with `timestamps` behind the time in Docker's fixed nine digits.
    pub fn formatted(&self, timestamps: bool) -> bytes::Bytes {
        if !timestamps {
            return self.bytes.clone();
        }
        let mut out = fixed_nano(self.time).into_bytes();
        out.push(b' ');
        out.extend_from_slice(&self.bytes);
        out.into()
    }
}

/// `2006-01-02T15:04:05.000000000Z`
fn fixed_nano(time: malha_model::Timestamp) -> String {
    let text = time.to_string();
    let body = text.strip_suffix('Z').unwrap_or(&text);
    let (seconds, fraction) = body.split_once('.').unwrap_or((body, ""));
    format!("{seconds}.{fraction:0<9}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_tail_begins_at_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "a\nbb\nccc\n").unwrap();
        let mut file = File::open(&path).await.unwrap();
        for (count, start) in [(0, 9), (1, 5), (2, 2), (3, 0), (9, 0)] {
            assert_eq!(tail_start(&mut file, count).await.unwrap(), start, "{count}");
        }
    }

    #[test]
    fn timestamps_have_nine_digits() {
        assert_eq!(fixed_nano(malha_model::Timestamp(1_500_000_000)), "1970-01-01T00:00:01.500000000Z");
        assert_eq!(fixed_nano(malha_model::Timestamp(1_000_000_000)), "1970-01-01T00:00:01.000000000Z");
    }
}
