//! What breaks, and that it is mended.

use std::time::Duration;

use malha_kit::Rng;
use malha_model::Role;
use malha_simcluster::SimCluster;
use malha_simnet::Latency;
use rand::Rng as _;

use crate::Story;

pub(crate) struct Faults {
    pub dice: Rng,
    pub story: Story,
}

impl Faults {
    /// One fault, or an end to some.
    pub(crate) async fn strike(&mut self, cluster: &mut SimCluster) -> Result<(), String> {
        match self.dice.random_range(0..20) {
            0..=3 => self.crash(cluster).await,
            4..=7 => return self.restart_one(cluster).await,
            8 => self.power_failure(cluster).await,
            9 => self.reboot(cluster).await,
            10 | 11 => self.isolate(cluster),
            12 | 13 => self.cut(cluster),
            14 | 15 => self.slow_down(cluster),
            16 | 17 => self.kill_container(cluster),
            _ => {
                self.story.tell("all links work");
                cluster.net.heal();
            }
        }
        Ok(())
    }

    fn any(&mut self, cluster: &SimCluster) -> usize {
        self.dice.random_range(0..cluster.nodes.len())
    }

    async fn crash(&mut self, cluster: &mut SimCluster) {
        // managers are fewer, and more depends on them
        let index = if self.dice.random_ratio(1, 2) { self.any(cluster) } else { self.dice.random_range(0..3) };
        if cluster.nodes[index].is_up() {
            self.story.tell(format_args!("the daemon of {} crashes", cluster.nodes[index].name));
            cluster.crash(index).await;
        }
    }

    async fn restart_one(&mut self, cluster: &mut SimCluster) -> Result<(), String> {
        let down: Vec<usize> = (0..cluster.nodes.len()).filter(|i| !cluster.nodes[*i].is_up()).collect();
        if down.is_empty() {
            return Ok(());
        }
        let index = down[self.dice.random_range(0..down.len())];
        self.restart(cluster, index).await
    }

    async fn restart(&mut self, cluster: &mut SimCluster, index: usize) -> Result<(), String> {
        let name = cluster.nodes[index].name.clone();
        self.story.tell(format_args!("the daemon of {name} starts"));
        cluster.restart(index).await.map_err(|error| format!("{name} does not start again: {error}"))
    }

    /// All managers at the same moment, with what none of them had synced.
    async fn power_failure(&mut self, cluster: &mut SimCluster) {
        self.story.tell("the power of all managers fails");
        for index in 0..cluster.nodes.len() {
            if cluster.nodes[index].role == Role::Manager {
                cluster.nodes[index].raft_disk.crash();
            }
        }
        for index in 0..cluster.nodes.len() {
            if cluster.nodes[index].role == Role::Manager && cluster.nodes[index].is_up() {
                cluster.crash(index).await;
                cluster.nodes[index].machine.reboot();
            }
        }
    }

    async fn reboot(&mut self, cluster: &mut SimCluster) {
        let index = self.any(cluster);
        self.story.tell(format_args!("{} loses power", cluster.nodes[index].name));
        cluster.crash(index).await;
        cluster.nodes[index].machine.reboot();
    }

    fn isolate(&mut self, cluster: &SimCluster) {
        let node = &cluster.nodes[self.any(cluster)];
        self.story.tell(format_args!("{} is cut off", node.name));
        cluster.net.isolate(&node.id);
    }

    fn cut(&mut self, cluster: &SimCluster) {
        let from = &cluster.nodes[self.dice.random_range(0..3)];
        let to = &cluster.nodes[self.any(cluster)];
        match self.dice.random_range(0..3) {
            0 => {
                self.story.tell(format_args!("nothing passes between {} and {}", from.name, to.name));
                cluster.net.cut(&from.id, &to.id);
            }
            1 => {
                self.story.tell(format_args!("nothing passes from {} to {}", from.name, to.name));
                cluster.net.cut_one_way(&from.id, &to.id);
            }
            _ => {
                self.story.tell(format_args!("nothing passes from {} to {}", to.name, from.name));
                cluster.net.cut_one_way(&to.id, &from.id);
            }
        }
    }

    /// Wide ranges of delay let calls overtake each other.
    fn slow_down(&mut self, cluster: &SimCluster) {
        let max = Duration::from_millis([1, 5, 40, 150, 400][self.dice.random_range(0..5)]);
        self.story.tell(format_args!("messages take up to {max:?}"));
        cluster.net.set_latency(Latency { max, ..Latency::default() });
    }

    fn kill_container(&mut self, cluster: &SimCluster) {
        let node = &cluster.nodes[self.any(cluster)];
        let running = node.machine.running();
        if running.is_empty() {
            return;
        }
        let task = &running[self.dice.random_range(0..running.len())];
        self.story.tell(format_args!("container of {} ends on {}", task.id, node.name));
        node.machine.kill(&task.id, 1);
    }

    pub(crate) async fn mend(&mut self, cluster: &mut SimCluster) -> Result<(), String> {
        self.story.tell("everything is mended");
        cluster.net.heal();
        cluster.net.set_latency(Latency::default());
        for index in 0..cluster.nodes.len() {
            if !cluster.nodes[index].is_up() {
                self.restart(cluster, index).await?;
            }
        }
        Ok(())
    }
}
