//! Which kernels a device is to use, as measured by `inazuma bench --tune`; and compiled pipelines: what is kept
//! between runs, one folder for all devices, one file for each adapter with its driver.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::Capabilities;

/// The strategy of each op by its signature (`Plan::signature`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// What it was measured on.
    pub device: String,
    pub strategies: BTreeMap<String, String>,
}

/// Name and driver: kernels are measured anew where either changes.
pub fn device_of(capabilities: &Capabilities) -> String {
    format!("{}, {}, {}", capabilities.name, capabilities.backend, capabilities.driver)
}

/// The folder of what is kept: `INAZUMA_CACHE`, or the user's cache folder.
pub(super) fn folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("INAZUMA_CACHE") {
        return Ok(folder.into());
    }
    let folder = dirs::cache_dir().context("no cache folder is known here; name one in INAZUMA_CACHE")?;
    Ok(folder.join("inazuma"))
}

/// A file for this device.
pub(super) fn file(capabilities: &Capabilities, extension: &str) -> Result<PathBuf> {
    let device = device_of(capabilities);
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let readable: String = capabilities.name.chars().map(letter).collect();
    // Two devices may read alike once they are spelled for a file name.
    let hash = crc32fast::hash(device.as_bytes());
    Ok(folder()?.join(format!("{readable}-{hash:08x}.{extension}")))
}

impl Tuning {
    /// What was measured on this device before; nothing where nothing was.
    ///
    /// Errors: a file that is no tuning, named, with what to do.
    pub fn cached(capabilities: &Capabilities) -> Result<Option<Tuning>> {
        let Ok(path) = file(capabilities, "tuning.json") else { return Ok(None) };
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        Self::parse(&text)
            .and_then(|tuning| tuning.ensure_of(capabilities).map(|()| Some(tuning)))
            .with_context(|| format!("{}: delete it, or run `inazuma bench kernels --tune`", path.display()))
    }

    pub fn parse(text: &str) -> Result<Tuning> {
        serde_json::from_str(text).context("not a choice of kernels")
    }

    fn ensure_of(&self, capabilities: &Capabilities) -> Result<()> {
        let device = device_of(capabilities);
        ensure!(self.device == device, "measured on {}, not on {device}", self.device);
        Ok(())
    }

    /// Keeps it for later runs on this device; the path.
    pub fn keep(&self, capabilities: &Capabilities) -> Result<PathBuf> {
        let path = file(capabilities, "tuning.json")?;
        write(&path, &serde_json::to_vec_pretty(self)?)?;
        Ok(path)
    }
}

/// Writes a file of the cache whole or not at all.
pub(super) fn write(path: &std::path::Path, content: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file without a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut new = tempfile::Builder::new();
    // As the umask has it, which is taken away from this; by itself a temporary file is its owner's alone.
    #[cfg(unix)]
    new.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let written = new.tempfile_in(folder).and_then(|mut file| {
        std::io::Write::write_all(&mut file, content)?;
        file.persist(path).map_err(|error| error.error)
    });
    written.with_context(|| format!("cannot write {}", path.display())).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuning_belongs_to_its_device() {
        let one =
            Capabilities { name: "Radeon VII".into(), driver: "radv 25".into(), ..Capabilities::baseline() };
        let other = Capabilities { driver: "radv 26".into(), ..one.clone() };
        let strategies = BTreeMap::from([("matmul".to_owned(), "tiled".to_owned())]);
        let tuning = Tuning { device: device_of(&one), strategies };
        let text = serde_json::to_string(&tuning).unwrap();
        assert_eq!(Tuning::parse(&text).unwrap(), tuning);
        assert!(tuning.ensure_of(&one).is_ok());
        let error = tuning.ensure_of(&other).unwrap_err().to_string();
        assert!(error.contains("radv 25") && error.contains("radv 26"), "{error}");
        assert!(Tuning::parse("{}").is_err());
    }
}
