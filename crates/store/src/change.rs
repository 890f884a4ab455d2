//! One write, as it stands in the log.

use malha_model::{Kind, Object};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// The whole object as it is to be. Its `meta.version` is set by [`crate::State::apply`].
    Put(Object),
    Delete(Kind, String),
}

impl Change {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Put(object) => object.kind(),
            Self::Delete(kind, _) => *kind,
        }
    }

    pub fn id(&self) -> &str {
        match self {
            Self::Put(object) => object.id(),
            Self::Delete(_, id) => id,
        }
    }
}
