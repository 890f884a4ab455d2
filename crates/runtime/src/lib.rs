//! Containers and images, on containerd.
//!
//! A [`Runtime`] is one node's handle on its containers, images and volumes. Containers belong to containerd and a log
//! writer each, not to this process: they run, exit and log on while the daemon is away, and [`Runtime::open`] takes
//! them over again from containerd and the metadata under the state directory.

mod adopt;
mod cgroup;
mod clock;
mod config;
pub mod container;
mod containerd;
mod daemon;
mod durable;
mod error;
mod events;
pub mod image;
mod log;
mod reference;
mod rootfs;
mod runtime;
mod volume;

pub use self::{
    config::{RegistryConfig, RuntimeConfig},
    container::{
        AttachOptions, Attachment, ConsoleSize, ContainerFiles, ContainerInfo, ContainerPaths, ContainerSize,
        ContainerState, ContainerStatus, CreateOptions, ExecInfo, ExecOptions, ExitStatus, LogLine, LogOptions,
        LogStream, Mount, MountPoint, MountSource, NetworkMode, OutputChunk, OutputStream, Process, Resources,
        StdStream, StdinWriter, Ulimit, WaitCondition, WaitHandle,
    },
    daemon::PrivateContainerd,
    error::{ErrorKind, Result, RuntimeError},
    events::{ContainerEvent, EventKind, ImageAction, ImageEvent, RuntimeEvent, VolumeAction, VolumeEvent},
    image::{
        DistributionInfo, HistoryEntry, ImageConfig, ImageDelete, ImageInfo, ImagePlatform, ImportOptions, LoadedImage,
        Progress, ProgressSink, PullOptions, PulledImage, RegistryAuth,
    },
    log::logger_main,
    runtime::Runtime,
    volume::VolumeInfo,
};
