//! What a node's daemon keeps resident. `Pss` counts a page that nodes of this machine share by its part.

use std::{fs, time::Duration};

use crate::{
    cluster::{Cluster, IMAGE, NODES, until},
    report::{Floor, Report, megabytes},
};

const SERVICES: usize = 50;
const LIMIT: Duration = Duration::from_secs(180);

pub(crate) fn idle(c: &Cluster, report: &mut Report) {
    std::thread::sleep(Duration::from_secs(3));
    report.section("Resident memory of a node's daemon, idle");
    show(c, report, Floor::None);
}

pub(crate) fn fifty_services(c: &Cluster, report: &mut Report) {
    c.docker("node1", &["network", "create", "-d", "overlay", "many-net"]);
    for i in 0..SERVICES {
        let name = format!("many{i}");
        c.docker("node1", &["service", "create", "-q", "-d", "--name", &name, "--network", "many-net", IMAGE]);
    }
    until(LIMIT, "fifty services", || {
        let list = c.docker("node1", &["service", "ls", "--filter", "name=many", "--format", "{{.Replicas}}"]);
        (list.lines().filter(|l| *l == "1/1").count() == SERVICES).then_some(())
    });
    std::thread::sleep(Duration::from_secs(3));
    report.section("The same with 50 services");
    show(c, report, Floor::AtMost(60.0));
}

fn show(c: &Cluster, report: &mut Report, floor: Floor) {
    for node in NODES {
        let pid = &c.node(node)["pid"];
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let kilobytes = |key: &str| {
            let line = rollup.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
            line.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).unwrap_or_default() / 1e3
        };
        let role = c.node(node)["role"].as_str().unwrap_or_default();
        report.figure(&format!("{node} ({role}), Rss"), &[kilobytes("Rss:")], megabytes, floor);
        report.figure(&format!("{node} ({role}), Pss"), &[kilobytes("Pss:")], megabytes, Floor::None);
    }
}
