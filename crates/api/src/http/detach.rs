//! The key sequence that leaves an attached terminal (`ctrl-p,ctrl-q`) without ending what runs in it.

use malha_model::ApiResult;

use super::query::bad;

/// Looks for the sequence in typed bytes. Bytes that may begin it are held back until that is decided.
#[derive(Clone, Debug)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// `ctrl-<letter>`, `ctrl-@`… or single characters, separated by commas. Empty is the default sequence.
    pub(crate) fn parse(text: &str) -> ApiResult<Self> {
        let text = if text.is_empty() { "ctrl-p,ctrl-q" } else { text };
        let keys = text.split(',').map(key).collect::<Option<Vec<u8>>>();
        let keys = keys.ok_or_else(|| bad(format!("invalid detach keys ({text}) provided")))?;
        Ok(Self { keys, matched: 0 })
    }

    /// What of `input` goes on to the process, and whether the sequence was completed.
    pub(crate) fn filter(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(input.len());
        for &byte in input {
            if self.keys.get(self.matched) != Some(&byte) {
                out.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
            }
            if self.keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (out, true);
                }
            } else {
                out.push(byte);
            }
        }
        (out, false)
    }
}

fn key(text: &str) -> Option<u8> {
    let single = |s: &str| (s.len() == 1).then(|| s.as_bytes()[0]);
    match text.strip_prefix("ctrl-") {
        None => single(text),
        Some(rest) => match single(rest)?.to_ascii_lowercase() {
            c @ b'a'..=b'z' => Some(c - b'a' + 1),
            b'@' => Some(0),
            b'[' => Some(27),
            b'\\' => Some(28),
            b']' => Some(29),
            b'^' => Some(30),
            b'_' => Some(31),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_sequence_detaches_and_nothing_typed_is_lost() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.filter(b"ls\x10"), (b"ls".to_vec(), false));
        assert_eq!(keys.filter(b"x\x10"), (b"\x10x".to_vec(), false));
        assert_eq!(keys.filter(b"\x11rest"), (vec![], true));
        assert_eq!(DetachKeys::parse("ctrl-@,z").unwrap().filter(b"a\0z"), (b"a".to_vec(), true));
        assert!(DetachKeys::parse("ctrl-1").is_err() && DetachKeys::parse("abc").is_err());
    }
}
