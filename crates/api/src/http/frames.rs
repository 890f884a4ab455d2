//! Docker's framing of several streams on one (`stdcopy`), and its fixed-width times.

use bytes::{BufMut, Bytes, BytesMut};
use malha_model::Timestamp;
use time::{OffsetDateTime, macros::format_description};

use crate::backend::OutputStream;

/// Errors in the middle of a stream; the CLI prints them and ends.
pub(crate) const SYSTEM_ERROR: u8 = 3;

pub(crate) const RAW: &str = "application/vnd.docker.raw-stream";
pub(crate) const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

pub(crate) fn number(stream: OutputStream) -> u8 {
    match stream {
        OutputStream::Stdout => 1,
        OutputStream::Stderr => 2,
    }
}

/// One frame: stream, three zeroes, length, payload.
pub(crate) fn frame(stream: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + 8);
    out.put_u8(stream);
    out.put_bytes(0, 3);
    out.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    out.put_slice(payload);
    out.freeze()
}

/// RFC 3339 with all nine digits, so that lines align and sort.
pub(crate) fn fixed_time(t: Timestamp) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(t.0))
        .ok()
        .and_then(|t| t.format(format).ok())
        .unwrap_or_else(|| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_times_have_their_fixed_form() {
        assert_eq!(&frame(2, b"hi")[..], &[2, 0, 0, 0, 0, 0, 0, 2, b'h', b'i']);
        assert_eq!(fixed_time(Timestamp(1_763_757_975_300_000_000)), "2025-11-21T20:46:15.300000000Z");
    }
}
