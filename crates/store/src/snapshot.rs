//! The form in which a whole state is kept on disk and sent to a manager that fell behind.
//!
//! JSON, because specs carry keys that this version does not know. Objects are in kind and id order: equal states have
//! equal bytes.

use malha_model::{Cluster, Network, Node, Object, Service, Task};
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeSeq};

use crate::State;

#[derive(Debug, thiserror::Error)]
#[error("snapshot: {0}")]
pub struct SnapshotError(#[from] serde_json::Error);

/// Written field by field like [`Object`], without a copy.
#[derive(Serialize)]
enum ObjectRef<'a> {
    Cluster(&'a Cluster),
    Node(&'a Node),
    Network(&'a Network),
    Service(&'a Service),
    Task(&'a Task),
}

struct Objects<'a>(&'a State);

impl Serialize for Objects<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut seq = s.serialize_seq(None)?;
        let state = self.0;
        let objects = (state.cluster.iter().map(|o| ObjectRef::Cluster(o)))
            .chain(state.nodes.values().map(|o| ObjectRef::Node(o)))
            .chain(state.networks.values().map(|o| ObjectRef::Network(o)))
            .chain(state.services.values().map(|o| ObjectRef::Service(o)))
            .chain(state.tasks.values().map(|o| ObjectRef::Task(o)));
        for object in objects {
            seq.serialize_element(&object)?;
        }
        seq.end()
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Snapshot<'a> {
            index: u64,
            objects: Objects<'a>,
        }
        Snapshot { index: self.index, objects: Objects(self) }.serialize(s)
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Snapshot {
            index: u64,
            objects: Vec<Object>,
        }
        let Snapshot { index, objects } = Snapshot::deserialize(d)?;
        let mut state = Self { index, ..Self::default() };
        for object in objects {
            state.put(object);
        }
        Ok(state)
    }
}

impl State {
    pub fn to_bytes(&self) -> Result<Vec<u8>, SnapshotError> {
        Ok(serde_json::to_vec(self)?)
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SnapshotError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}
