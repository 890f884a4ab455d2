//! Join tokens: `SWMTKN-1-<digest of the root>-<secret>`, both in base 36 (SwarmKit `ca/config.go`).
//!
//! The digest lets a joining node check the swarm before it shows the secret; the secret lets the swarm check the node.

use ring::rand::{SecureRandom as _, SystemRandom};
use sha2::{Digest as _, Sha256};

use crate::{PkiError, TrustRoot};

const PREFIX: &str = "SWMTKN";
const VERSION: &str = "1";
const DIGEST_WIDTH: usize = 50;
const SECRET_WIDTH: usize = 25;

/// A parsed token. `Debug` shows the digest only.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    digest: [u8; 32],
    secret: [u8; 16],
}

impl JoinToken {
    /// A token with a fresh secret for the swarm of `root`.
    pub fn generate(root: &TrustRoot) -> Result<Self, PkiError> {
        let mut secret = [0; 16];
        SystemRandom::new().fill(&mut secret).map_err(|_| PkiError::Signing("no randomness".into()))?;
        Ok(Self { digest: root.digest(), secret })
    }

    pub fn parse(text: &str) -> Result<Self, PkiError> {
        let mut parts = text.trim().split('-');
        let (Some(PREFIX), Some(VERSION), Some(digest), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(PkiError::InvalidToken);
        };
        Ok(Self { digest: decode(digest, DIGEST_WIDTH)?, secret: decode(secret, SECRET_WIDTH)? })
    }

    /// The digest of the root certificate that this token belongs to.
    pub fn root_digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Refuses a root that this token was not made for.
    pub fn check_root(&self, root: &TrustRoot) -> Result<(), PkiError> {
        if self.digest == root.digest() { Ok(()) } else { Err(fingerprint_mismatch(&self.digest)) }
    }

    /// Whether `presented`, as sent by a joining node, is the token `stored`. The time that it takes tells nothing about
    /// how much of it is right.
    pub fn matches(stored: &str, presented: &str) -> bool {
        let [a, b]: [[u8; 32]; 2] = [stored, presented].map(|t| Sha256::digest(t.trim()).into());
        !stored.is_empty() && a.iter().zip(b).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
    }
}

pub(crate) fn fingerprint_mismatch(expected: &[u8]) -> PkiError {
    PkiError::FingerprintMismatch { expected: expected.iter().map(|b| format!("{b:02x}")).collect() }
}

impl std::fmt::Display for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (digest, secret) = (encode(&self.digest, DIGEST_WIDTH), encode(&self.secret, SECRET_WIDTH));
        write!(f, "{PREFIX}-{VERSION}-{digest}-{secret}")
    }
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{PREFIX}-{VERSION}-{}-…", encode(&self.digest, DIGEST_WIDTH))
    }
}

// === base 36 of big-endian byte strings ===

fn encode(bytes: &[u8], width: usize) -> String {
    let mut number = bytes.to_vec();
    let mut out = vec![b'0'; width];
    for slot in out.iter_mut().rev() {
        let mut rest = 0u32;
        for byte in &mut number {
            let value = rest << 8 | u32::from(*byte);
            *byte = (value / 36) as u8;
            rest = value % 36;
        }
        *slot = if rest < 10 { b'0' + rest as u8 } else { b'a' + (rest - 10) as u8 };
    }
    out.into_iter().map(char::from).collect()
}

fn decode<const N: usize>(text: &str, width: usize) -> Result<[u8; N], PkiError> {
    let mut number = [0u8; N];
    if text.len() != width {
        return Err(PkiError::InvalidToken);
    }
    for digit in text.bytes() {
        let mut carry = match digit {
            b'0'..=b'9' => u32::from(digit - b'0'),
            b'a'..=b'z' => u32::from(digit - b'a') + 10,
            _ => return Err(PkiError::InvalidToken),
        };
        for byte in number.iter_mut().rev() {
            let value = u32::from(*byte) * 36 + carry;
            *byte = value as u8;
            carry = value >> 8;
        }
        if carry != 0 {
            return Err(PkiError::InvalidToken);
        }
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(digest: [u8; 32], secret: [u8; 16]) {
            let token = JoinToken { digest, secret };
            let text = token.to_string();
            prop_assert_eq!(text.len(), 85);
            prop_assert_eq!(&JoinToken::parse(&text).unwrap(), &token);
            prop_assert!(JoinToken::matches(&text, &text));
        }

        #[test]
        fn no_text_makes_the_parser_fall_over(text in "\\PC*") {
            let _ = JoinToken::parse(&text);
        }

        #[test]
        fn agrees_with_the_base36_of_ids(secret: u128) {
            prop_assert_eq!(encode(&secret.to_be_bytes(), 25), malha_model::base36(secret, 25));
        }
    }

    #[test]
    fn refuses_what_is_not_a_token() {
        let digest = "3".repeat(50);
        for bad in [
            "",
            "SWMTKN",
            "SWMTKN-1-abc-def",
            &format!("SWMTKN-2-{digest}-{}", "0".repeat(25)),
            &format!("SWMTKN-1-{digest}-{}-x", "0".repeat(25)),
            &format!("SWMTKN-1-{digest}-{}", "z".repeat(25)), // more than 128 bits
            &format!("SWMTKN-1-{digest}-{}", "A".repeat(25)),
        ] {
            assert!(matches!(JoinToken::parse(bad), Err(PkiError::InvalidToken)), "{bad}");
        }
        assert!(!JoinToken::matches("", ""));
    }

    #[test]
    fn debug_hides_the_secret() {
        let token = JoinToken { digest: [1; 32], secret: [255; 16] };
        assert!(!format!("{token:?}").contains(&encode(&[255; 16], 25)));
    }
}
