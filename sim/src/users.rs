//! Users ask any manager, many at once, and remember what they were told.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use malha_kit::{Rng, SharedClock};
use malha_manager::Manager;
use malha_model::{ApiError, ApiResult, Code, ControlRequest, ControlResponse, Kind, Role};
use malha_simcluster::{SimCluster, SimNode};
use parking_lot::Mutex;
use rand::Rng as _;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    Plant,
    ledger::{Ending, Key, REV},
    plant,
    requests::{self, Known, Wish},
    watch::Watch,
};

/// As long as the CLI waits.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Users {
    watch: Arc<Watch>,
    dice: Rng,
    number: u64,
    /// Objects with a request under way.
    busy: Arc<Mutex<BTreeSet<Key>>>,
    asking: JoinSet<()>,
}

impl Users {
    pub(crate) fn new(watch: Arc<Watch>, dice: Rng, cluster: &SimCluster) -> Self {
        let newest = watch.newest();
        watch.ledger(|ledger| {
            for node in &cluster.nodes {
                ledger.exists((Kind::Node, node.id.to_string()), 0, newest);
            }
        });
        Self { watch, dice, number: 0, busy: Arc::default(), asking: JoinSet::new() }
    }

    /// A network before anything breaks, so that services have one.
    pub(crate) fn begin(&mut self, cluster: &SimCluster) {
        self.number += 1;
        let wish = requests::create_network(self.number);
        self.send(cluster, wish);
    }

    /// Somebody asks for something.
    pub(crate) fn ask(&mut self, cluster: &SimCluster) {
        self.number += 1;
        let known = self.known(cluster);
        let wish = requests::draw(&mut self.dice, &known, self.number);
        self.send(cluster, wish);
    }

    fn known(&self, cluster: &SimCluster) -> Known {
        let busy = self.busy.lock().clone();
        let kept = |kind: Kind| {
            let all = self.watch.ledger(|l| l.kept(kind));
            all.into_iter().filter(|id| !busy.contains(&(kind, id.clone()))).collect::<Vec<_>>()
        };
        // three workers always stay, for what needs nodes of its own
        let spare = |n: &&SimNode| n.role == Role::Manager || n.name.as_str() < "n6";
        let spare: BTreeSet<String> = cluster.nodes.iter().filter(spare).map(|n| n.id.to_string()).collect();
        let nodes = kept(Kind::Node).into_iter().filter(|id| spare.contains(id)).collect();
        Known { networks: kept(Kind::Network), services: kept(Kind::Service), nodes }
    }

    fn send(&mut self, cluster: &SimCluster, wish: Wish) {
        let up: Vec<&SimNode> = cluster.nodes.iter().filter(|n| n.manager().is_some()).collect();
        if up.is_empty() {
            return;
        }
        let node = up[self.dice.random_range(0..up.len())];
        let Some(manager) = node.manager().cloned() else { return };
        let number = self.number;
        self.watch.story.tell(format_args!("user {number} asks {}: {wish}", node.name));
        let key = wish.key();
        if let Some(key) = &key {
            self.busy.lock().insert(key.clone());
        }
        let user =
            User { manager, watch: self.watch.clone(), number, clock: cluster.clock.clone(), rng: self.dice.fork() };
        let busy = self.busy.clone();
        self.asking.spawn(async move {
            user.ask(wish).await;
            if let Some(key) = key {
                busy.lock().remove(&key);
            }
        });
    }

    /// Waits until everybody has an answer, or has given up.
    pub(crate) async fn rest(&mut self) {
        while self.asking.join_next().await.is_some() {}
    }
}

impl Wish {
    fn key(&self) -> Option<Key> {
        match self {
            Self::CreateNetwork(_) | Self::CreateService(_) => None,
            Self::ChangeService(id, _) => Some((Kind::Service, id.clone())),
            Self::Remove(kind, id) => Some((*kind, id.clone())),
            Self::SetAvailability(id, _) => Some((Kind::Node, id.clone())),
        }
    }
}

struct User {
    manager: Manager,
    watch: Arc<Watch>,
    number: u64,
    clock: SharedClock,
    rng: Rng,
}

impl User {
    async fn ask(mut self, wish: Wish) {
        let key = wish.key();
        match wish {
            Wish::CreateNetwork(spec) => {
                let answer = self.request(ControlRequest::NetworkCreate { spec }).await;
                self.created(answer);
            }
            Wish::CreateService(spec) => {
                let answer = self.create_service(spec).await;
                self.created(answer);
            }
            Wish::Remove(kind, id) => {
                let key = (kind, id.clone());
                self.watch.ledger(|l| l.removing(&key));
                let request = match kind {
                    Kind::Network => ControlRequest::NetworkRemove { id },
                    _ => ControlRequest::ServiceRemove { id },
                };
                let answer = self.request(request).await;
                if self.told(&answer) == Ending::Acknowledged {
                    let newest = self.watch.newest();
                    self.watch.ledger(|l| l.removed(&key, newest));
                }
            }
            update => {
                let answer = self.update(update, key.as_ref()).await;
                let ending = self.told(&answer);
                let newest = self.watch.newest();
                if let Some(key) = key {
                    self.watch.ledger(|l| l.updated(&key, self.number, ending, newest));
                }
            }
        }
    }

    /// Reads the object, changes it and writes it back.
    async fn update(&self, wish: Wish, key: Option<&Key>) -> ApiResult<ControlResponse> {
        let rev = self.number.to_string();
        let request = match wish {
            Wish::ChangeService(id, change) => {
                let ControlResponse::Service(service) =
                    self.request(ControlRequest::ServiceGet { id: id.clone() }).await?
                else {
                    return Err(ApiError::internal("not a service"));
                };
                let (mut spec, version) = (service.spec, service.meta.version);
                change.apply(&mut spec);
                spec.labels.insert(REV.to_owned(), rev);
                ControlRequest::ServiceUpdate { id, version, spec, registry_auth: None }
            }
            Wish::SetAvailability(id, to) => {
                let ControlResponse::Node(node) = self.request(ControlRequest::NodeGet { id: id.clone() }).await?
                else {
                    return Err(ApiError::internal("not a node"));
                };
                let (mut spec, version) = (node.spec, node.meta.version);
                spec.availability = to;
                spec.labels.insert(REV.to_owned(), rev);
                ControlRequest::NodeUpdate { id, version, spec }
            }
            _ => return Err(ApiError::internal("not an update")),
        };
        if let Some(key) = key {
            self.watch.ledger(|l| l.updating(key, self.number));
        }
        self.request(request).await
    }

    async fn create_service(&mut self, spec: malha_model::ServiceSpec) -> ApiResult<ControlResponse> {
        let stale = self.watch.earlier(12).filter(|_| self.watch.plant() == Some(Plant::StalePlan));
        match stale {
            Some(stale) if self.manager.leads() => {
                let now = self.clock.now();
                plant::create_service(&self.manager, spec, &stale, now, &mut self.rng).await
            }
            _ => self.request(ControlRequest::ServiceCreate { spec, registry_auth: None }).await,
        }
    }

    async fn request(&self, request: ControlRequest) -> ApiResult<ControlResponse> {
        match timeout(PATIENCE, Box::pin(self.manager.request(request))).await {
            Ok(answer) => answer,
            Err(_) => Err(ApiError::rpc(Code::DeadlineExceeded, "the user gave up")),
        }
    }

    fn created(&self, answer: ApiResult<ControlResponse>) {
        self.told(&answer);
        let key = match answer {
            Ok(ControlResponse::NetworkCreated { id }) => (Kind::Network, id.to_string()),
            Ok(ControlResponse::ServiceCreated { id, .. }) => (Kind::Service, id.to_string()),
            _ => return,
        };
        let newest = self.watch.newest();
        self.watch.ledger(|l| l.exists(key, self.number, newest));
    }

    fn told(&self, answer: &ApiResult<ControlResponse>) -> Ending {
        let number = self.number;
        match answer {
            Ok(ControlResponse::ServiceCreated { id, .. }) => {
                self.watch.story.tell(format_args!("user {number} has service {id}"));
            }
            Ok(ControlResponse::NetworkCreated { id }) => {
                self.watch.story.tell(format_args!("user {number} has network {id}"));
            }
            Ok(_) => self.watch.story.tell(format_args!("user {number}: done")),
            Err(error) => self.watch.story.tell(format_args!("user {number}: {error}")),
        }
        answer.as_ref().map_or_else(ending, |_| Ending::Acknowledged)
    }
}

fn ending(error: &ApiError) -> Ending {
    match error.code {
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => Ending::Refused,
        Code::Unavailable | Code::DeadlineExceeded | Code::Internal | Code::Unknown => Ending::Unknown,
    }
}
