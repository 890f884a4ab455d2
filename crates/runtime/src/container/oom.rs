//! Out-of-memory kills, as containerd's event stream tells them: of some process, while the container may run on.
//! Whether its end was one is read at the end, which no event is certain to come before.

use std::{sync::Arc, time::Duration};

use prost::Message;

use crate::{
    EventKind, cgroup,
    containerd::{events::TaskOom, services::events::SubscribeRequest},
    runtime::Inner,
};

const TOPIC: &str = "/tasks/oom";
const RETRY: Duration = Duration::from_secs(1);

impl Inner {
    pub(crate) fn watch_oom(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        self.tasks.spawn("oom events", async move {
            loop {
                if let Err(status) = inner.follow_oom().await {
                    tracing::debug!(%status, "containerd's events ended; subscribing again");
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    async fn follow_oom(&self) -> Result<(), tonic::Status> {
        let filter = format!("topic==\"{TOPIC}\",namespace==\"{}\"", self.containerd.namespace());
        let request = SubscribeRequest { filters: vec![filter] };
        let mut stream = self.containerd.events().subscribe(request).await?.into_inner();
        while let Some(envelope) = stream.message().await? {
            let value = envelope.event.map(|e| e.value).unwrap_or_default();
            let Ok(event) = TaskOom::decode(value.as_slice()) else { continue };
            let Ok(container) = self.containers.find(&event.container_id) else { continue };
            // A late event is not of the run that has begun since.
            let killed = cgroup::oom_killed(&container.cgroup);
            container.live.send_modify(|live| live.state.oom_killed |= killed && live.state.status.is_running());
            self.emit(&container, EventKind::Oom);
        }
        Ok(())
    }
}
