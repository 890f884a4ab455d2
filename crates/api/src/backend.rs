//! What the API needs of the node it fronts.
//!
//! Two ports: [`Cluster`] answers for the swarm, [`Engine`] for this machine's containers, images, volumes and networks.
//! The node implements both; the API only turns HTTP into these calls and their answers into Docker's JSON. References
//! (`reference`, `container`, `network`) may be an id, a name or an id prefix, and are resolved behind the port.
//! Every error that a port returns reaches the client with its own status and text.

mod cluster;
mod container;
mod engine;
mod exec;
mod image;
mod network;
mod system;
mod volume;

pub use self::{
    cluster::{Cluster, InitRequest, JoinRequest, LocalState, RemoteManager, SwarmInfo, SwarmLogs},
    container::{
        AttachOptions, Container, ContainerConfig, ContainerLogLine, ContainerLogs, ContainerSize, ContainerState,
        ContainerStatus, CreateContainer, CreatedContainer, Exit, Health, HostConfig, LogConfig, MountPoint,
        OutputChunk, OutputStream, PortBinding, PortSummary, RemoveContainer, RestartPolicy, Stdio, StopOptions,
        TerminalSize, Ulimit, Wait, WaitCondition,
    },
    engine::Engine,
    exec::{Exec, ExecConfig},
    image::{
        ByteStream, Distribution, Image, ImageHistory, ImageImport, ImagePull, ImageReference, Progress,
        ProgressStream, RemovedImage,
    },
    network::{
        ConnectNetwork, CreateNetwork, DisconnectNetwork, EndpointIpam, EndpointSettings, LocalEndpoint, LocalNetwork,
        NetworkingConfig, PeerInfo, is_user_defined,
    },
    system::{EngineVersion, Event, EventStream, HostInfo, RegistrySettings},
    volume::{CreateVolume, Volume},
};
