//! DNS from inside a container, against a loop in the same sandbox that only echoes.

use crate::{
    cluster::{Background, Cluster},
    favour,
    report::{Floor, Report, micros, per_second},
    rounds::{Compared, Rounds, load},
    traffic::Lab,
};

const RESOLVER: &str = "127.0.0.11:53";
const ECHO: &str = "127.0.0.12:7053";
const MISSING: &str = "nowhere.example.com";

pub(crate) fn run(c: &Cluster, lab: &Lab, rounds: &Rounds, report: &mut Report) {
    let here = ("node1", lab.container.as_str());
    let secs = &rounds.secs.to_string();
    let (client, netns) = c.client();
    let _upstream = Background::start(&mut c.in_netns(netns, &["missing", &format!("{client}:53")]));
    c.docker("node1", &["exec", "-d", &lab.container, "netload", "echo", ECHO]);
    // It answers names itself: it must not wait where the echo beside it does not.
    favour::process(&c.node("node1")["pid"].to_string());
    let ask = |server: &str, name: &str| load(&mut c.inside(here, &["dns", server, name, secs]));
    report.section("Names from inside a container, against a bare UDP echo there");
    for (what, name, floors) in [
        ("a service's name", "near", (Floor::AtLeast(0.6), Floor::AtMost(3.0))),
        ("tasks. of ten", "tasks.ten", (Floor::None, Floor::None)),
        ("a missing external name", MISSING, (Floor::None, Floor::None)),
    ] {
        let measured = rounds.run(|| ask(RESOLVER, name), || ask(ECHO, name));
        report.compared(&format!("{what}, queries"), &Compared::of(&measured, |l| l.rate), per_second, floors.0);
        report.compared(&format!("{what}, p50"), &Compared::of(&measured, |l| l.p50), micros, Floor::None);
        report.compared(&format!("{what}, p99"), &Compared::of(&measured, |l| l.p99), micros, floors.1);
    }
}
