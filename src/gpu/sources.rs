//! The text of the shaders, as the build embedded it.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::Path;
use std::{env, fs};

use anyhow::{Context, Result};

include!(concat!(env!("OUT_DIR"), "/shaders.rs"));

/// The text of `shaders/<name>.wgsl`: the embedded one, or, for experiments without a build, the file of that name in
/// the folder that `INAZUMA_SHADERS` names.
pub(super) fn read(name: &str) -> Result<Cow<'static, str>> {
    if let Some(folder) = env::var_os("INAZUMA_SHADERS") {
        let path = Path::new(&folder).join(format!("{name}.wgsl"));
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            text => return Ok(text.with_context(|| path.display().to_string())?.into()),
        }
    }
    let found = SHADERS.iter().find(|(known, _)| *known == name);
    Ok(found.with_context(|| format!("there is no shaders/{name}.wgsl"))?.1.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table that build.rs writes lies in the target folder, which several checkouts may share and outlive.
    #[test]
    fn the_table_of_shaders_names_no_checkout() {
        let table = include_str!(concat!(env!("OUT_DIR"), "/shaders.rs"));
        assert!(!table.contains(env!("CARGO_MANIFEST_DIR")), "{table}");
        assert_eq!(table.matches("concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/shaders/").count(), SHADERS.len());
    }
}
