//! The load tool of the benchmarks. It is the same program on both sides of every comparison and runs inside containers.
//!
//! ```text
//! netload serve PORT                      TCP server of the loads
//! netload echo ADDR:PORT                  bare UDP loop that sends each datagram back
//! netload missing ADDR:PORT               DNS server that knows no name
//! netload versus stream|rr|crr A B SECS CPU
//!                                         two targets against each other: bytes one way; one byte to and fro; the same
//!                                         with a connection for each. A target is [NETNS@]ADDR:PORT; CPU may be `any`
//! netload dns ADDR:PORT NAME SECS         queries of type A, eight under way; against `echo` the most that UDP allows
//! netload named ADDR:PORT NAME COUNT      waits until the name has COUNT addresses; prints the wall clock
//! netload gone ADDR:PORT NAME ADDRESS     waits until it no longer has that one; prints the wall clock
//! ```
//!
//! `dns` prints one line of JSON: `rate` per second, `p50` and `p99` in microseconds, and what was `lost`; `versus` one for
//! each pair of connections: rates `a` and `b` (of bits for `stream`) and their `ratio`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a tool for measurements"
)]

mod names;
mod serve;
mod side;
mod versus;

use std::time::{Duration, Instant};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["serve", port] => serve::serve(port.parse().unwrap()),
        ["echo", addr] => names::echo(addr),
        ["missing", addr] => names::missing(addr),
        ["versus", kind, a, b, secs, cpu] => {
            pin(cpu);
            versus::run(kind, &[a, b].map(side::Side::new), time(secs));
        }
        ["dns", addr, name, secs] => print(&names::load(addr, name, time(secs))),
        ["named", addr, name, count] => {
            let count = count.parse().unwrap();
            println!("{}", names::wait(addr, name, |found| found.len() == count));
        }
        ["gone", addr, name, address] => {
            let address = address.parse().unwrap();
            println!("{}", names::wait(addr, name, |found| !found.contains(&address)));
        }
        _ => {
            eprintln!("usage: see the head of benches/netload/main.rs");
            std::process::exit(2);
        }
    }
}

fn time(secs: &str) -> Duration {
    Duration::from_secs_f64(secs.parse().unwrap())
}

/// Threads that are started later stand on the same processor.
fn pin(cpu: &str) {
    if cpu != "any" {
        let mut set = CpuSet::new();
        set.set(cpu.parse().unwrap()).unwrap();
        sched_setaffinity(Pid::from_raw(0), &set).unwrap();
    }
}

fn print(measured: &Measured) {
    let Measured { rate, p50, p99, lost } = measured;
    println!("{{\"rate\":{rate:.1},\"p50\":{p50:.1},\"p99\":{p99:.1},\"lost\":{lost}}}");
}

/// What one load came to.
#[derive(Default)]
struct Measured {
    rate: f64,
    p50: f64,
    p99: f64,
    lost: u64,
}

impl Measured {
    fn of_times(mut times: Vec<Duration>, start: Instant, lost: u64) -> Self {
        let rate = times.len() as f64 / start.elapsed().as_secs_f64();
        times.sort();
        let at = |share: f64| {
            let time = times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
            time.as_secs_f64() * 1e6
        };
        Self { rate, p50: at(0.5), p99: at(0.99), lost }
    }
}
