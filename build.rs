//! Build steps: the table of shaders, and our C++ shim over SentencePiece (`src/tokenizer/shim.cpp`).
//!
//! The library itself is built by the crate `sentencepiece-sys` (feature `static`, cmake), whose link paths
//! reach us through cargo. Only the headers are wanted here, and they are taken from that crate's *sources*:
//! they are there before anything is built, whereas cargo promises no order between its build script and ours.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const HEADER: &str = "source/src/sentencepiece_trainer.h";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_GPU").is_some() {
        embed_shaders();
    }
    build_shim();
}

fn build_shim() {
    println!("cargo:rerun-if-changed=src/tokenizer/shim.cpp");
    println!("cargo:rerun-if-changed=Cargo.lock");
    println!("cargo:rerun-if-env-changed=SENTENCEPIECE_SYS_DIR");
    let Some(package) = sentencepiece_sys() else {
        panic!(
            "cannot find the sources of the crate sentencepiece-sys ({HEADER}); set SENTENCEPIECE_SYS_DIR \
             to where cargo keeps them"
        );
    };
    let mut build = cc::Build::new();
    if env::var_os("CARGO_FEATURE_TOKENIZER_TRAINING").is_some() {
        build.define("INAZUMA_TRAINING", None);
    }
    build
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .warnings(true)
        .include(package.join("source/src"))
        .file("src/tokenizer/shim.cpp")
        .compile("inazuma_shim");
}

/// Where cargo keeps sentencepiece-sys: as told, as `cargo metadata` says, or in the registry's folder.
fn sentencepiece_sys() -> Option<PathBuf> {
    let told = std::env::var_os("SENTENCEPIECE_SYS_DIR").map(PathBuf::from);
    told.filter(|path| path.join(HEADER).is_file())
        .or_else(|| from_metadata(&["--offline"]))
        .or_else(from_registry)
        .or_else(|| from_metadata(&[]))
}

fn from_metadata(more: &[&str]) -> Option<PathBuf> {
    let cargo = std::env::var_os("CARGO")?;
    let target = std::env::var("TARGET").ok()?;
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform"])
        .arg(target)
        .args(more)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split("\"manifest_path\":\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(|path| PathBuf::from(path.replace("\\\\", "\\")))
        .filter_map(|path| path.parent().map(Path::to_path_buf))
        .find(|path| is_package(path))
}

fn from_registry() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))?;
    let registries = std::fs::read_dir(home.join("registry/src")).ok()?;
    let version = locked_version()?;
    registries
        .flatten()
        .map(|registry| registry.path().join(format!("sentencepiece-sys-{version}")))
        .find(|path| is_package(path))
}

fn is_package(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("sentencepiece-sys")) && path.join(HEADER).is_file()
}

fn locked_version() -> Option<String> {
    let lock = std::fs::read_to_string("Cargo.lock").ok()?;
    let entry = lock.split("name = \"sentencepiece-sys\"").nth(1)?;
    let version = entry.split("version = \"").nth(1)?;
    Some(version.split('"').next()?.to_string())
}

/// Writes `OUT_DIR/shaders.rs`: every `shaders/*.wgsl` by name and text, so that a new shader is only a new file.
///
/// The paths in it are relative to the manifest, of the compilation that reads it: one target folder may serve several
/// checkouts, of which the one that made the table may be gone.
fn embed_shaders() {
    println!("cargo:rerun-if-changed=shaders");
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("set by cargo")).join("shaders");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .expect("shaders/ exists")
        .map(|entry| entry.expect("shaders/ can be listed").file_name().into_string().expect("UTF-8 names"))
        .filter_map(|name| name.strip_suffix(".wgsl").map(str::to_owned))
        .collect();
    names.sort();
    let mut table = String::from("pub const SHADERS: &[(&str, &str)] = &[\n");
    for name in names {
        let path = format!("/shaders/{name}.wgsl");
        writeln!(table, "    ({name:?}, include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {path:?}))),")
            .expect("strings do not fail");
    }
    table.push_str("];\n");
    let out = Path::new(&env::var("OUT_DIR").expect("set by cargo")).join("shaders.rs");
    fs::write(out, table).expect("OUT_DIR can be written");
}
