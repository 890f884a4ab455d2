//! Queries over TCP: rarer, so one task per sandbox accepts and one per connection answers.

use std::{io, sync::Arc, time::Duration};

use rand::RngCore as _;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tracing::{debug, warn};

use crate::{
    answer::{Answer, Transport, answer},
    forward::{Forwarder, read_message, write_message},
    sandbox::Sandbox,
    stats::count,
};

/// Connections of one sandbox at a time; one more closes itself at once.
const MAX_CONNECTIONS: usize = 128;
/// For the next query, and for taking a reply.
const PATIENCE: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the sandbox is gone.
pub(crate) fn serve(sandbox: Arc<Sandbox>, listener: TcpListener, forwarder: Forwarder) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tasks = sandbox.tasks.clone();
    tasks.clone().spawn("dns tcp", async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(sandbox = sandbox.id, %error, "cannot accept DNS over TCP");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = connections.clone().try_acquire_owned() else { continue };
            let (sandbox, forwarder) = (sandbox.clone(), forwarder.clone());
            tasks.spawn("dns tcp connection", async move {
                if let Err(error) = converse(&sandbox, stream, &forwarder).await {
                    debug!(sandbox = sandbox.id, %error, "DNS over TCP ended");
                }
                drop(permit);
            });
        }
    });
}

async fn converse(sandbox: &Sandbox, mut stream: TcpStream, forwarder: &Forwarder) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let query = match timeout(PATIENCE, read_message(&mut stream)).await {
            Ok(Ok(query)) => query,
            Ok(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(e)) => return Err(e),
            Err(_) => return Ok(()),
        };
        let mut reply = Vec::new();
        let zone = sandbox.zone.load_full();
        let seed = rand::rng().next_u64();
        match answer(&zone, &query, Transport::Tcp, seed, &mut reply) {
            Answer::Reply => count(&sandbox.counters.local),
            Answer::Forward => reply = forwarder.tcp(sandbox, query).await,
            Answer::Drop => {
                count(&sandbox.counters.dropped);
                return Ok(());
            }
        }
        timeout(PATIENCE, write_message(&mut stream, &reply)).await??;
    }
}
