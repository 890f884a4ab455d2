//! A node without containers or packets: the [`ScriptedExecutor`].
//!
//! Its state stands for the machine: it outlives the agent that drives it, so a test can crash one and start the next
//! over the same containers. All waiting is on tokio's timers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use malha_kit::watch;
use malha_model::{
    ContainerStatus, LogLine, LogOptions, NodeDescription, NodeId, PublishMode, Task, TaskId, Timestamp,
};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::sleep};

use crate::executor::{Executor, Exit, Found, NodeNetworks, Started, TaskError};

/// How long things take on this node, and what fails.
#[derive(Clone, Debug)]
pub struct Script {
    /// To look at the node itself.
    pub describe: Duration,
    pub apply: Duration,
    pub fetch: Duration,
    pub prepare: Duration,
    pub start: Duration,
    /// From the stop signal to the end.
    pub stop: Duration,
    /// Containers end by themselves with this code after this time.
    pub exit: Option<(Duration, i32)>,
    pub prepare_error: Option<String>,
    pub start_error: Option<String>,
    pub start_panics: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            describe: Duration::ZERO,
            apply: Duration::from_millis(2),
            fetch: Duration::ZERO,
            prepare: Duration::from_millis(20),
            start: Duration::from_millis(10),
            stop: Duration::from_millis(10),
            exit: None,
            prepare_error: None,
            start_error: None,
            start_panics: false,
        }
    }
}

/// Clones are the same machine.
#[derive(Clone)]
pub struct ScriptedExecutor {
    node: NodeId,
    machine: Arc<Machine>,
}

struct Machine {
    description: Mutex<NodeDescription>,
    state: Mutex<State>,
    /// Counts changes of containers.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    script: Script,
    /// By image; what is not here follows `script`.
    images: BTreeMap<String, Script>,
    containers: BTreeMap<TaskId, Container>,
    networks: Option<Arc<NodeNetworks>>,
    /// The next change of names and maps panics.
    apply_panics: bool,
    next_pid: u32,
    /// Containers that were ever started: a task must not run twice.
    starts: BTreeMap<TaskId, u32>,
}

struct Container {
    task: Arc<Task>,
    status: ContainerStatus,
    phase: Phase,
}

#[derive(Clone, PartialEq, Eq)]
enum Phase {
    Created,
    Running,
    Exited(Exit),
}

impl ScriptedExecutor {
    pub fn new(node: NodeId, description: NodeDescription) -> Self {
        let description = Mutex::new(description);
        let machine = Machine { description, state: Mutex::default(), changed: watch::Sender::new(0) };
        Self { node, machine: Arc::new(machine) }
    }

    pub fn node(&self) -> &NodeId {
        &self.node
    }

    pub fn script(&self, script: Script) {
        self.machine.state.lock().script = script;
    }

    /// The node is another than it was.
    pub fn describe(&self, description: NodeDescription) {
        *self.machine.description.lock() = description;
    }

    pub fn script_image(&self, image: &str, script: Script) {
        self.machine.state.lock().images.insert(image.to_owned(), script);
    }

    pub fn panic_at_next_apply(&self) {
        self.machine.state.lock().apply_panics = true;
    }

    /// Ends a running container, as `docker kill` on the node would.
    pub fn kill(&self, task: &TaskId, code: i32) -> bool {
        self.machine.end(task, Exit { code, error: None })
    }

    /// The machine loses power: no process survives.
    pub fn reboot(&self) {
        for task in self.running() {
            self.kill(&task.id, 255);
        }
        self.machine.state.lock().networks = None;
    }

    pub fn running(&self) -> Vec<Arc<Task>> {
        let state = self.machine.state.lock();
        state.containers.values().filter(|c| c.phase == Phase::Running).map(|c| c.task.clone()).collect()
    }

    /// Every container that exists, running or not.
    pub fn containers(&self) -> Vec<Arc<Task>> {
        self.machine.state.lock().containers.values().map(|c| c.task.clone()).collect()
    }

    /// How often each task's container was started.
    pub fn starts(&self) -> BTreeMap<TaskId, u32> {
        self.machine.state.lock().starts.clone()
    }

    /// What names and maps reflect.
    pub fn networks(&self) -> Option<Arc<NodeNetworks>> {
        self.machine.state.lock().networks.clone()
    }

    /// Changes whenever a container does.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.machine.changed.subscribe()
    }

    fn script_of(&self, task: &Task) -> Script {
        let state = self.machine.state.lock();
        let image = task.spec.container_spec.as_ref().map(|c| c.image.as_str()).unwrap_or_default();
        state.images.get(image).unwrap_or(&state.script).clone()
    }
}

impl Machine {
    fn bump(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    fn end(&self, task: &TaskId, exit: Exit) -> bool {
        let mut state = self.state.lock();
        let Some(container) = state.containers.get_mut(task).filter(|c| c.phase == Phase::Running) else {
            return false;
        };
        container.status.exit_code = exit.code;
        container.status.pid = 0;
        container.phase = Phase::Exited(exit);
        drop(state);
        self.bump();
        true
    }
}

#[async_trait]
impl Executor for ScriptedExecutor {
    async fn description(&self) -> NodeDescription {
        let pause = self.machine.state.lock().script.describe;
        if !pause.is_zero() {
            sleep(pause).await;
        }
        self.machine.description.lock().clone()
    }

    async fn apply_networks(&self, networks: Arc<NodeNetworks>) -> Result<(), TaskError> {
        let pause = self.machine.state.lock().script.apply;
        sleep(pause).await;
        assert!(!std::mem::take(&mut self.machine.state.lock().apply_panics), "planted");
        self.machine.state.lock().networks = Some(networks);
        Ok(())
    }

    async fn fetch(&self, task: Arc<Task>) -> Result<(), TaskError> {
        let pause = self.script_of(&task).fetch;
        if !pause.is_zero() {
            sleep(pause).await;
        }
        Ok(())
    }

    async fn prepare(&self, task: Arc<Task>) -> Result<ContainerStatus, TaskError> {
        let script = self.script_of(&task);
        sleep(script.prepare).await;
        if let Some(error) = script.prepare_error {
            return Err(TaskError(error));
        }
        let status = ContainerStatus { container_id: format!("c-{}", task.id), ..ContainerStatus::default() };
        let made = Container { task: task.clone(), status, phase: Phase::Created };
        let status = self.machine.state.lock().containers.entry(task.id.clone()).or_insert(made).status.clone();
        self.machine.bump();
        Ok(status)
    }

    async fn start(&self, task: Arc<Task>) -> Result<Started, TaskError> {
        let script = self.script_of(&task);
        sleep(script.start).await;
        if let Some(error) = script.start_error {
            return Err(TaskError(error));
        }
        assert!(!script.start_panics, "planted");
        let mut state = self.machine.state.lock();
        state.next_pid += 1;
        let pid = 1000 + state.next_pid;
        let Some(container) = state.containers.get_mut(&task.id) else {
            return Err(TaskError(format!("No such container: {}", task.id)));
        };
        let fresh = container.phase == Phase::Created;
        if fresh {
            container.phase = Phase::Running;
            container.status.pid = pid;
        }
        let status = container.status.clone();
        if fresh {
            *state.starts.entry(task.id.clone()).or_default() += 1;
        }
        drop(state);
        self.machine.bump();
        if let Some((after, code)) = script.exit.filter(|_| fresh) {
            let (machine, id) = (self.machine.clone(), task.id.clone());
            tokio::spawn(async move {
                sleep(after).await;
                machine.end(&id, Exit { code, error: None });
            });
        }
        let host = task.endpoint.ports.iter().filter(|p| p.publish_mode == PublishMode::Host).cloned();
        Ok(Started { status, ports: host.collect() })
    }

    async fn wait(&self, task: TaskId) -> Result<Exit, TaskError> {
        let mut changed = self.machine.changed.subscribe();
        loop {
            let phase = self.machine.state.lock().containers.get(&task).map(|c| c.phase.clone());
            match phase {
                Some(Phase::Exited(exit)) => return Ok(exit),
                Some(Phase::Created | Phase::Running) => {}
                None => return Err(TaskError(format!("No such container: {task}"))),
            }
            if changed.changed().await.is_err() {
                return Err(TaskError("the machine is gone".to_owned()));
            }
        }
    }

    async fn stop(&self, task: Arc<Task>) -> Result<(), TaskError> {
        sleep(self.script_of(&task).stop).await;
        if self.machine.end(&task.id, Exit { code: 143, error: None }) {
            return Ok(());
        }
        let mut state = self.machine.state.lock();
        if let Some(container) = state.containers.get_mut(&task.id).filter(|c| c.phase == Phase::Created) {
            container.phase = Phase::Exited(Exit { code: 0, error: None });
        }
        drop(state);
        self.machine.bump();
        Ok(())
    }

    async fn remove(&self, task: TaskId) -> Result<(), TaskError> {
        self.machine.state.lock().containers.remove(&task);
        self.machine.bump();
        Ok(())
    }

    async fn found(&self) -> Result<BTreeMap<TaskId, Found>, TaskError> {
        let state = self.machine.state.lock();
        let found = state.containers.iter().map(|(id, c)| {
            let found = match c.phase {
                Phase::Created => Found::Created,
                Phase::Running => Found::Running(c.status.clone()),
                Phase::Exited(_) => Found::Exited(c.status.clone()),
            };
            (id.clone(), found)
        });
        Ok(found.collect())
    }

    async fn logs(&self, task: Arc<Task>, options: LogOptions, out: mpsc::Sender<LogLine>) -> Result<(), TaskError> {
        let line = LogLine {
            node: self.node.clone(),
            service: task.service.clone(),
            task: task.id.clone(),
            timestamp: Timestamp(1),
            stream: 1,
            data: format!("hello from {}\n", task.id).into_bytes(),
        };
        if out.send(line).await.is_ok() && options.follow {
            // a follower gets the end of the container
            self.wait(task.id.clone()).await.map(drop)?;
        }
        Ok(())
    }
}
