//! What happens to containers, images and volumes, told as it happens.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use malha_model::Timestamp;
use tokio::sync::broadcast;

use crate::{
    clock,
    container::{CreateOptions, MountPoint},
};

/// Events that a slow subscriber may fall behind.
const BACKLOG: usize = 4096;

/// One thing that happened. All kinds come in one order, the one in which they did.
#[derive(Clone, Debug)]
pub enum RuntimeEvent {
    Container(ContainerEvent),
    Image(ImageEvent),
    Volume(VolumeEvent),
}

/// One thing that happened to one container.
#[derive(Clone, Debug)]
pub struct ContainerEvent {
    pub id: String,
    pub name: String,
    /// Image reference as the container's creator wrote it.
    pub image: String,
    pub labels: Arc<BTreeMap<String, String>>,
    /// As it was then: by the time that somebody reads this the container may be gone.
    pub options: Arc<CreateOptions>,
    pub mounts: Arc<Vec<MountPoint>>,
    pub kind: EventKind,
    pub time: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    Create,
    Start,
    Die {
        exit_code: i32,
        /// From its start to its end.
        ran: Duration,
    },
    /// A signal was sent.
    Kill {
        signal: i32,
    },
    /// `docker stop` ended it.
    Stop,
    Restart,
    Oom,
    Rename {
        old_name: String,
    },
    ExecCreate {
        exec_id: String,
        command: String,
    },
    ExecStart {
        exec_id: String,
        command: String,
    },
    ExecDie {
        exec_id: String,
        exit_code: i32,
    },
    Attach,
    Resize,
    Destroy,
}

/// One thing that happened to one image.
#[derive(Clone, Debug)]
pub struct ImageEvent {
    pub action: ImageAction,
    /// `sha256:…`; of a pull the reference that was pulled.
    pub id: String,
    /// The name that it is about, where there is one; else the id.
    pub name: String,
    /// The image's own; none once it is gone.
    pub labels: BTreeMap<String, String>,
    pub time: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageAction {
    Pull,
    Load,
    Import,
    Tag,
    Untag,
    Delete,
}

/// One thing that happened to one volume.
#[derive(Clone, Debug)]
pub struct VolumeEvent {
    pub action: VolumeAction,
    pub name: String,
    pub time: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeAction {
    Create,
    Destroy,
}

/// Where events are told. Nobody may be listening, and who does is not waited for.
#[derive(Clone, Debug)]
pub(crate) struct Events(broadcast::Sender<RuntimeEvent>);

impl Events {
    pub(crate) fn new() -> Self {
        Self(broadcast::channel(BACKLOG).0)
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.0.subscribe()
    }

    pub(crate) fn container(&self, event: ContainerEvent) {
        self.tell(RuntimeEvent::Container(event));
    }

    pub(crate) fn image(&self, action: ImageAction, id: &str, name: &str, labels: &BTreeMap<String, String>) {
        let (id, name, labels) = (id.to_owned(), name.to_owned(), labels.clone());
        self.tell(RuntimeEvent::Image(ImageEvent { action, id, name, labels, time: clock::now() }));
    }

    pub(crate) fn volume(&self, action: VolumeAction, name: &str) {
        self.tell(RuntimeEvent::Volume(VolumeEvent { action, name: name.to_owned(), time: clock::now() }));
    }

    fn tell(&self, event: RuntimeEvent) {
        let _ = self.0.send(event);
    }
}
