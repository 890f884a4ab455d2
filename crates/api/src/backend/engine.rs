//! The engine of this machine.

use async_trait::async_trait;
use malha_model::{ApiError, ApiResult, LogOptions, NetworkView, Timestamp};

use super::{
    container::{
        AttachOptions, Container, ContainerLogs, ContainerSize, CreateContainer, CreatedContainer, RemoveContainer,
        Stdio, StopOptions, TerminalSize, Wait, WaitCondition,
    },
    exec::{Exec, ExecConfig},
    image::{
        ByteStream, Distribution, Image, ImageHistory, ImageImport, ImagePull, ImageReference, ProgressStream,
        RemovedImage,
    },
    network::{ConnectNetwork, CreateNetwork, DisconnectNetwork, LocalNetwork},
    system::{EngineVersion, EventStream, HostInfo},
    volume::{CreateVolume, Volume},
};

/// Containers, images, volumes and networks of this machine.
///
/// What the implementation does not offer it refuses with [`ApiError::unsupported`]; it never ignores a request.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    // system

    async fn host_info(&self) -> ApiResult<HostInfo>;
    fn version(&self) -> EngineVersion;
    /// Events since `since` as far as they are remembered, then those that happen; never ends by itself.
    async fn events(&self, since: Option<Timestamp>) -> ApiResult<EventStream>;

    // containers

    /// All, running or not, newest first.
    async fn containers(&self) -> ApiResult<Vec<Container>>;
    async fn container(&self, reference: &str) -> ApiResult<Container>;
    /// Counted when it is asked for.
    async fn container_size(&self, reference: &str) -> ApiResult<ContainerSize>;
    async fn create_container(&self, request: CreateContainer) -> ApiResult<CreatedContainer>;
    /// False where it already runs.
    async fn start_container(&self, reference: &str) -> ApiResult<bool>;
    /// False where it does not run.
    async fn stop_container(&self, reference: &str, options: StopOptions) -> ApiResult<bool>;
    async fn restart_container(&self, reference: &str, options: StopOptions) -> ApiResult<()>;
    /// `signal` is a name with or without `SIG`, or a number; empty is `SIGKILL`.
    async fn kill_container(&self, reference: &str, signal: &str) -> ApiResult<()>;
    async fn rename_container(&self, reference: &str, name: &str) -> ApiResult<()>;
    async fn remove_container(&self, reference: &str, options: RemoveContainer) -> ApiResult<()>;
    async fn wait_container(&self, reference: &str, condition: WaitCondition) -> ApiResult<Wait>;
    async fn attach_container(&self, reference: &str, options: AttachOptions) -> ApiResult<Stdio>;
    async fn resize_container(&self, reference: &str, size: TerminalSize) -> ApiResult<()>;
    async fn container_logs(&self, reference: &str, options: LogOptions) -> ApiResult<ContainerLogs>;

    // exec

    /// Returns the id of the exec.
    async fn create_exec(&self, container: &str, config: ExecConfig) -> ApiResult<String>;
    async fn exec(&self, id: &str) -> ApiResult<Exec>;
    /// Starts it; `None` where `detach`. `size` is the terminal's first size, else the one of its creation is.
    async fn start_exec(&self, id: &str, detach: bool, size: Option<TerminalSize>) -> ApiResult<Option<Stdio>>;
    async fn resize_exec(&self, id: &str, size: TerminalSize) -> ApiResult<()>;

    // images

    async fn images(&self) -> ApiResult<Vec<Image>>;
    async fn image(&self, reference: &str) -> ApiResult<Image>;
    async fn image_history(&self, reference: &str) -> ApiResult<Vec<ImageHistory>>;
    async fn pull_image(&self, request: ImagePull) -> ApiResult<ProgressStream>;
    async fn load_images(&self, archive: ByteStream) -> ApiResult<ProgressStream>;
    async fn import_image(&self, request: ImageImport, archive: ByteStream) -> ApiResult<ProgressStream>;
    async fn tag_image(&self, reference: &str, target: ImageReference) -> ApiResult<()>;
    async fn remove_image(&self, reference: &str, force: bool) -> ApiResult<Vec<RemovedImage>>;
    /// Asks the registry.
    async fn distribution(&self, reference: &str, registry_auth: Option<String>) -> ApiResult<Distribution>;

    // volumes

    async fn volumes(&self) -> ApiResult<Vec<Volume>>;
    async fn volume(&self, name: &str) -> ApiResult<Volume>;
    async fn create_volume(&self, request: CreateVolume) -> ApiResult<Volume>;
    async fn remove_volume(&self, name: &str, force: bool) -> ApiResult<()>;

    // networks

    /// `bridge`, `host`, `none`, `docker_gwbridge`, other local ones, and swarm networks in use here.
    async fn networks(&self) -> ApiResult<Vec<LocalNetwork>>;
    /// The swarm's view of a network that is in use here, for `inspect --verbose`; by id.
    async fn network_view(&self, id: &str) -> Option<NetworkView>;
    /// Returns the id.
    async fn create_network(&self, _request: CreateNetwork) -> ApiResult<String> {
        Err(ApiError::unsupported("a network of local scope"))
    }
    /// A local network, by id.
    async fn remove_network(&self, _id: &str) -> ApiResult<()> {
        Err(ApiError::unsupported("removing a network of local scope"))
    }
    /// `network` may be an attachable swarm network that this node has not seen yet.
    async fn connect_network(&self, network: &str, request: ConnectNetwork) -> ApiResult<()>;
    async fn disconnect_network(&self, network: &str, request: DisconnectNetwork) -> ApiResult<()>;
}
