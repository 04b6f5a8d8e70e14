//! Build steps: the table of shaders.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    embed_shaders();
}

/// Writes `OUT_DIR/shaders.rs`: every `shaders/*.wgsl` by name and text, so that a new shader is only a new file.
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
        let path = folder.join(format!("{name}.wgsl"));
        writeln!(table, "    ({name:?}, include_str!({path:?})),").expect("strings do not fail");
    }
    table.push_str("];\n");
    let out = Path::new(&env::var("OUT_DIR").expect("set by cargo")).join("shaders.rs");
    fs::write(out, table).expect("OUT_DIR can be written");
}
