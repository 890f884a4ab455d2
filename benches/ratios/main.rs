//! `make bench`: what Malha costs, as ratios against the bare kernel on the same machine in the same minute.
//!
//! A real cluster of three nodes is driven by the stock docker CLI; the load runs inside its containers. Absolute figures
//! of a shared machine say little, so both sides of a comparison alternate: links every few milliseconds in one process,
//! names in short rounds. The ratio is the median of the ratios of what was taken together, printed with its interval of
//! confidence. A floor that is missed is printed as such; it does not fail the run.
//!
//! `ratios MALHA NETLOAD IMAGE.tar`, run as root; `ROUNDS` and `SECS` in the environment change the rounds.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement stops where something is wrong"
)]

mod cluster;
mod favour;
mod memory;
mod pairs;
mod report;
mod resolver;
mod rounds;
mod speed;
mod traffic;
mod versus;

use cluster::Cluster;
use report::Report;
use rounds::Rounds;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [malha, netload, image] = &args[..] else {
        eprintln!("usage: ratios MALHA NETLOAD IMAGE.tar");
        std::process::exit(2);
    };
    let only = std::env::var("ONLY").unwrap_or_default();
    let wanted = |part: &str| only.is_empty() || only.split(',').any(|o| o == part);
    let cluster = Cluster::up(malha, netload, image);
    let rounds = Rounds::from_env();
    let mut report = Report::new(&rounds);
    if wanted("memory") {
        memory::idle(&cluster, &mut report);
    }
    let favoured = favour::Favoured::containers(&cluster);
    if wanted("traffic") || wanted("names") {
        let lab = traffic::Lab::new(&cluster);
        if wanted("traffic") {
            traffic::run(&cluster, &lab, &rounds, &mut report);
        }
        if wanted("names") {
            resolver::run(&cluster, &lab, &rounds, &mut report);
        }
    }
    if wanted("speed") {
        speed::run(&cluster, &mut report);
    }
    if wanted("memory") {
        memory::fifty_services(&cluster, &mut report);
    }
    drop((favoured, cluster));
    report.summary();
}
