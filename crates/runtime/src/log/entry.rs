//! One line of a log file, in the form of Docker's json-file driver.

use bytes::Bytes;
use malha_model::Timestamp;
use serde::{Deserialize, Serialize};

use crate::container::{LogLine, StdStream};

/// Longer lines are cut into several entries, all but the last without a line end, as Docker does.
pub(super) const MAX_LINE: usize = 16 << 10;

#[derive(Serialize, Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    log: std::borrow::Cow<'a, str>,
    stream: &'a str,
    time: Timestamp,
}

/// Appends an entry for `line` to `out`. What is not UTF-8 is replaced, as in Docker.
pub(super) fn encode(line: &[u8], stream: StdStream, time: Timestamp, out: &mut Vec<u8>) {
    let start = out.len();
    let stream = if stream == StdStream::Stdout { "stdout" } else { "stderr" };
    let entry = Entry { log: String::from_utf8_lossy(line), stream, time };
    if serde_json::to_writer(&mut *out, &entry).is_err() {
        out.truncate(start);
        return;
    }
    out.push(b'\n');
}

/// `None` for what is not an entry: the end of a file that a full disk cut short.
pub(super) fn decode(line: &[u8]) -> Option<LogLine> {
    let entry: Entry<'_> = serde_json::from_slice(line).ok()?;
    let stream = if entry.stream == "stderr" { StdStream::Stderr } else { StdStream::Stdout };
    Some(LogLine { stream, time: entry.time, bytes: Bytes::copy_from_slice(entry.log.as_bytes()) })
}

/// Collects output until a line is whole.
#[derive(Debug, Default)]
pub(super) struct LineBuffer(Vec<u8>);

impl LineBuffer {
    /// Takes output in and hands out the lines that are whole now.
    pub(super) fn push(&mut self, mut data: &[u8], mut line: impl FnMut(&[u8])) {
        while let Some(end) = data.iter().position(|b| *b == b'\n') {
            self.0.extend_from_slice(&data[..=end]);
            self.cut_long(&mut line);
            line(&self.0);
            self.0.clear();
            data = &data[end + 1..];
        }
        self.0.extend_from_slice(data);
        self.cut_long(&mut line);
    }

    /// The rest, when nothing more comes.
    pub(super) fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.0.is_empty() {
            line(&self.0);
            self.0.clear();
        }
    }

    fn cut_long(&mut self, line: &mut impl FnMut(&[u8])) {
        while self.0.len() > MAX_LINE {
            let at = char_boundary(&self.0, MAX_LINE);
            line(&self.0[..at]);
            self.0.drain(..at);
        }
    }
}

/// `at`, or a little before it, so that no UTF-8 character is cut in two.
fn char_boundary(bytes: &[u8], at: usize) -> usize {
    let is_start = |b: u8| b & 0b1100_0000 != 0b1000_0000;
    (at - 3..=at).rev().find(|i| is_start(bytes[*i])).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut buffer, mut out) = (LineBuffer::default(), Vec::new());
        for piece in pieces {
            buffer.push(piece, |l| out.push(l.to_vec()));
        }
        buffer.finish(|l| out.push(l.to_vec()));
        out
    }

    #[test]
    fn lines_are_put_together_and_cut() {
        assert_eq!(lines(&[b"a", b"b\nc\n", b"d"]), [b"ab\n".to_vec(), b"c\n".to_vec(), b"d".to_vec()]);
        let long = [vec![b'x'; MAX_LINE - 1], "é\n".as_bytes().to_vec()].concat();
        let cut = lines(&[&long]);
        assert_eq!(cut.len(), 2);
        assert_eq!(cut.concat(), long);
        assert!(cut.iter().all(|l| std::str::from_utf8(l).is_ok()));
    }

    proptest::proptest! {
        #[test]
        fn no_byte_is_lost(data: Vec<Vec<u8>>) {
            let refs: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
            proptest::prop_assert_eq!(lines(&refs).concat(), data.concat());
        }

        #[test]
        fn entries_round_trip(text: String, nanos in 1i64..i64::MAX / 2) {
            let mut out = Vec::new();
            encode(text.as_bytes(), StdStream::Stderr, Timestamp(nanos), &mut out);
            let line = decode(&out).unwrap();
            proptest::prop_assert_eq!(line.bytes.as_ref(), text.as_bytes());
            proptest::prop_assert_eq!((line.stream, line.time), (StdStream::Stderr, Timestamp(nanos)));
        }
    }
}
