//! Typed identifiers.
//!
//! Swarm object ids are 25 characters of `[0-9a-z]`: 128 random bits in base 36 (SwarmKit `identity/randomid.go`).
//! A type per noun keeps a task id from ever being used where a node id is meant. Ids are drawn from a generator
//! that the caller passes in, so that a simulated cluster draws the same ids from the same seed.

use rand::Rng;
use serde::{Deserialize, Serialize};

/// Length of every swarm object id.
pub const ID_LEN: usize = 25;

/// Draws a fresh 25-character base-36 id.
pub fn random_id(rng: &mut (impl Rng + ?Sized)) -> String {
    base36(rng.random::<u128>(), ID_LEN)
}

/// `value` in base 36, left-padded with zeroes to `width`.
pub fn base36(mut value: u128, width: usize) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut out = vec![b'0'; width];
    for slot in out.iter_mut().rev() {
        *slot = DIGITS[(value % 36) as usize];
        value /= 36;
    }
    out.into_iter().map(char::from).collect()
}

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Draws a fresh id.
            pub fn random(rng: &mut (impl Rng + ?Sized)) -> Self {
                Self(random_id(rng))
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }
        impl From<String> for $name {
            fn from(s: String) -> Self {
                Self(s)
            }
        }
        impl From<&str> for $name {
            fn from(s: &str) -> Self {
                Self(s.to_owned())
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}

id! {
    /// The swarm itself.
    ClusterId,
    /// A machine (or network namespace) that runs the daemon.
    NodeId,
    /// A service: the spec that tasks are made from.
    ServiceId,
    /// One run of one slot of a service, or one attachment of a stand-alone container.
    TaskId,
    /// A swarm-scoped network.
    NetworkId,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn ids_are_25_base36_characters_and_follow_the_seed() {
        let draw = |seed| TaskId::random(&mut rand::rngs::SmallRng::seed_from_u64(seed));
        let id = draw(7);
        assert_eq!(id.as_str().len(), ID_LEN);
        assert!(id.as_str().bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()));
        assert_eq!(id, draw(7));
        assert_ne!(id, draw(8));
    }
}
