//! `malha daemon`: one node, from its settings to its orderly end.
//!
//! Everything that runs is started here, in order: containerd, runtime, names, membership, engine, API. At the end the
//! API goes first, once its requests have had their time, then the agent and the manager; containers, sandboxes, maps and
//! programs stay as they are and are taken over by the next start.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use malha_api::{Api, TlsFiles};
use malha_kit::{CancellationToken, Clock, Rng, SystemClock, Tasks};
use malha_runtime::{PrivateContainerd, RegistryConfig, Runtime, RuntimeConfig};
use tokio::{
    net::TcpListener,
    runtime::Handle,
    signal::unix::{SignalKind, signal},
};
use tracing::{info, warn};

use crate::{
    config::{Config, DaemonArgs, Host},
    logging,
    node::{
        engine::{LocalEngine, local_networks::LocalNetworks},
        events::EventLog,
        network::{KernelThreads, NodeNet, Settings},
        swarm::{Swarm, SwarmDeps},
    },
    paths,
};

/// How long a start waits for the daemon before it to be gone.
const LOCK_LIMIT: Duration = Duration::from_secs(3);
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// For the API to end, which gives its requests less than that.
const API_LIMIT: Duration = Duration::from_secs(5);

pub(crate) fn run(args: DaemonArgs) -> Result<()> {
    let config = Arc::new(Config::load(args)?);
    logging::init(&config);
    raise_file_limit();
    let kernel = KernelThreads::start()?;
    let handle = kernel.handle().context("threads for the kernel")?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(config, handle))
}

async fn serve(config: Arc<Config>, kernel: Handle) -> Result<()> {
    // First of all, so that a signal during the start is not lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let _lock = prepare_dirs(&config)?;
    info!(version = env!("CARGO_PKG_VERSION"), instance = config.instance, hostname = config.hostname, "starting");

    let tasks = Tasks::new();
    let containerd = containerd(&config).await?;
    let runtime = Runtime::open(runtime_config(&config, containerd)).await.context("containers")?;
    let dns = malha_dns::Server::start(&tasks, malha_dns::Listen::Elsewhere).context("embedded DNS")?;
    let clock = Arc::new(SystemClock);
    let local = LocalNetworks::load(&config.data_root, clock.now())?;
    let net = Arc::new(NodeNet::new(network_settings(&config)?, dns, local.gateway_config(), kernel));
    let events = Arc::new(EventLog::new());
    let deps = SwarmDeps {
        config: config.clone(),
        runtime: runtime.clone(),
        net: net.clone(),
        events: events.clone(),
        clock,
        rng: Rng::from_os(),
        tasks: tasks.clone(),
    };
    let swarm = Swarm::load(deps).await.context("swarm membership")?;
    let engine = LocalEngine::new(config.clone(), runtime, net, swarm.clone(), local, events);
    {
        let engine = engine.clone();
        tasks.spawn_supervised("engine events", move || engine.clone().follow());
    }
    {
        let (engine, rng) = (engine.clone(), Rng::from_os());
        tasks.spawn_supervised("owed addresses", move || engine.clone().pay(rng.fork()));
    }
    tasks.spawn("stand-alone containers", engine.clone().adopt_running());
    // A group apart with a token apart: cancelled with the group, the servers would be dropped with their requests.
    let (api, api_end) = (Tasks::new(), CancellationToken::new());
    serve_api(&config, swarm, engine, &api, &api_end).await?;
    if let Err(e) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        warn!(error = %e, "cannot tell the service manager that the node is ready");
    }
    info!("ready");

    let by = tokio::select! {
        biased;
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    info!(signal = by, "stopping; containers go on");
    // Sent for the service manager's sake; a failure changes nothing.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    api_end.cancel();
    api.drain(API_LIMIT).await;
    tasks.shutdown().await;
    for host in &config.hosts {
        if let Host::Unix(path) = host {
            // The next start replaces it all the same.
            let _ = std::fs::remove_file(path);
        }
    }
    info!("stopped");
    Ok(())
}

/// Each container costs a few descriptors (its names' sockets, streams, log): the soft limit of a login shell is soon
/// reached, the hard one is meant for daemons.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(e) = raised {
        warn!(error = %e, "cannot raise the limit of open files");
    }
}

/// Makes the directories, and holds the data directory for this process alone.
fn prepare_dirs(config: &Config) -> Result<nix::fcntl::Flock<File>> {
    use std::os::unix::fs::DirBuilderExt;
    for dir in [&config.data_root, &config.exec_root] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(dir)
            .with_context(|| format!("cannot make {}", dir.display()))?;
    }
    lock(&config.data_root)
}

/// One that was killed lets go when the last of its threads has left the kernel, a moment after it seems to be gone.
fn lock(data_root: &Path) -> Result<nix::fcntl::Flock<File>> {
    let path = data_root.join("lock");
    let mut file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let begin = Instant::now();
    loop {
        file = match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, nix::errno::Errno::EWOULDBLOCK)) if begin.elapsed() < LOCK_LIMIT => file,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                bail!("{} is in use by another malha daemon", data_root.display())
            }
            Err((_, e)) => return Err(e).with_context(|| format!("cannot lock {}", path.display())),
        };
        std::thread::sleep(LOCK_PAUSE);
    }
}

/// The containerd that answers on the configured socket, else one of our own.
async fn containerd(config: &Config) -> Result<PathBuf> {
    if tokio::net::UnixStream::connect(&config.containerd).await.is_ok() {
        return Ok(config.containerd.clone());
    }
    info!(asked = %config.containerd.display(), "no containerd there; starting one");
    let own = PrivateContainerd::find_or_start(&config.data_root.join("containerd")).await.context("containerd")?;
    Ok(own.socket().to_owned())
}

fn runtime_config(config: &Config, containerd: PathBuf) -> RuntimeConfig {
    RuntimeConfig {
        oci_runtime: config.oci_runtime.clone(),
        registries: RegistryConfig {
            insecure: config.insecure_registries.clone(),
            mirrors: config.registry_mirrors.clone(),
        },
        ..RuntimeConfig::new(
            containerd,
            &config.instance,
            config.data_root.join("containers"),
            paths::cgroup_parent(&config.instance),
        )
    }
}

fn network_settings(config: &Config) -> Result<Settings> {
    let mount = paths::cgroup2_mount().context("cgroup v2 is not mounted; `malha check` tells how to mount it")?;
    let cgroup = mount.join(paths::cgroup_parent(&config.instance).trim_start_matches('/'));
    std::fs::create_dir_all(&cgroup).with_context(|| format!("cannot make cgroup {}", cgroup.display()))?;
    Ok(Settings {
        run_dir: config.exec_root.clone(),
        pin_dir: paths::pin_dir(&config.instance),
        cgroup,
        upstreams: config.dns.clone(),
    })
}

/// Binds and serves each listener in turn, until `end`; one that cannot be bound ends the start.
async fn serve_api(
    config: &Config,
    swarm: Arc<Swarm>,
    engine: Arc<LocalEngine>,
    tasks: &Tasks,
    end: &CancellationToken,
) -> Result<()> {
    let api = Api::new(swarm, engine, Arc::new(SystemClock));
    for host in &config.hosts {
        match host {
            Host::Unix(path) => {
                make_parent(path)?;
                let listener = malha_api::bind_unix(path).await?;
                tasks.spawn("api unix", malha_api::serve_unix(listener, api.clone(), end.clone()));
            }
            Host::Tcp(addr) => {
                let files = config.tls.as_ref().context("tcp needs TLS")?;
                let tls = malha_api::server_config(TlsFiles { ca: &files.ca, cert: &files.cert, key: &files.key })
                    .context("TLS of the API")?;
                let listener = TcpListener::bind(addr).await.with_context(|| format!("cannot listen on {addr}"))?;
                tasks.spawn("api tcp", malha_api::serve_tls(listener, tls, api.clone(), end.clone()));
            }
        }
        info!(?host, "API listens");
    }
    Ok(())
}

fn make_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))
}
