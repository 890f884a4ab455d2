//! Compiles the kernel programs in `/bpf` and hands the objects to `ebpf::objects`.
//!
//! clang is needed here and nowhere else: the daemon carries the objects inside itself.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, exit},
};

/// One object for each attach point, and the layout that a test compares with Rust's.
const SOURCES: [&str; 5] = ["endpoint", "overlay", "ingress", "sock", "layout"];

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let bpf = here.join("../../bpf");
    println!("cargo:rerun-if-changed={}", bpf.display());
    println!("cargo:rerun-if-env-changed=CLANG");
    for entry in fs::read_dir(&bpf).into_iter().flatten().flatten() {
        println!("cargo:rerun-if-changed={}", entry.path().display());
    }
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    for name in SOURCES {
        if let Err(why) = compile(&clang, &bpf, name, &out.join(format!("{name}.o"))) {
            eprintln!("bpf/{name}.c: {why}\n(needs the Debian packages clang, llvm, libbpf-dev and linux-libc-dev)");
            exit(1);
        }
    }
}

fn compile(clang: &str, bpf: &Path, name: &str, object: &Path) -> Result<(), String> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let status = Command::new(clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"])
        .arg(format!("-I/usr/include/{arch}-linux-gnu")) // asm/types.h of a multiarch Debian
        .arg("-c")
        .arg(bpf.join(format!("{name}.c")))
        .arg("-o")
        .arg(object)
        .status()
        .map_err(|e| format!("cannot run {clang}: {e}"))?;
    if !status.success() {
        return Err(format!("{clang} failed"));
    }
    // Debug sections are most of the object and of the time to load it; the BTF that the kernel wants stays.
    let _ = Command::new("llvm-strip").arg("-g").arg(object).status();
    Ok(())
}
