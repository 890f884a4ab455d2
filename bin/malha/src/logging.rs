//! Structured logs on standard error.

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::config::Config;

/// `MALHA_LOG` overrides the level with a filter, e.g. `malha_manager=debug,info`.
pub(crate) fn init(config: &Config) {
    // openraft warns of every heartbeat that a dead peer does not take; who leads is told by our own lines.
    let default = format!("{},openraft=error,h2=warn,hyper=warn,tonic=warn,netlink=warn", config.log_level);
    let filter = EnvFilter::try_from_env("MALHA_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let registry = tracing_subscriber::registry().with(filter);
    if config.log_json {
        registry.with(fmt::layer().json().with_writer(std::io::stderr)).init();
    } else {
        registry.with(fmt::layer().with_ansi(false).with_target(true).with_writer(std::io::stderr)).init();
    }
}
