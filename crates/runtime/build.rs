//! Compiles containerd's API (`proto/`, Apache-2.0, from the containerd authors) without protoc.

const PROTOS: &[&str] = &[
    "services/containers/v1/containers.proto",
    "services/content/v1/content.proto",
    "services/diff/v1/diff.proto",
    "services/events/v1/events.proto",
    "services/images/v1/images.proto",
    "services/leases/v1/leases.proto",
    "services/namespaces/v1/namespace.proto",
    "services/snapshots/v1/snapshots.proto",
    "services/tasks/v1/tasks.proto",
    "services/version/v1/version.proto",
    "events/task.proto",
    "types/runc/options/oci.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = PROTOS.iter().map(|p| format!("github.com/containerd/containerd/api/{p}"));
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().build_server(false).include_file("containerd_api.rs").compile_fds(descriptors)?;
    Ok(())
}
