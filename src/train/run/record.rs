//! `run.json`: what a run is made of and on, for who looks at it later. It decides nothing, and has no times in it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cpu;
use crate::files::write_atomically;
use crate::interop::checkpoint::StoreIdentity;
use crate::plan::Identity;
use crate::store::{Store, Stores};

use super::super::events::FOLDER;
use super::Options;

/// Its name in the run's directory.
pub const RUN: &str = "run.json";

/// Where the held-out store of a run was, as far as its directory says.
pub fn held_out_store(run: &Path) -> Option<PathBuf> {
    recorded(run)?["eval_store"]["path"].as_str().map(PathBuf::from)
}

fn recorded(run: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(run.join(RUN)).ok()?).ok()
}

/// What a run went on with beside its training, as far as its directory says.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Before {
    /// Where its held-out store was.
    held_out: Option<PathBuf>,
    /// Whether it wrote events for TensorBoard.
    events: bool,
}

impl Before {
    pub fn of(out: &Path) -> Self {
        Before { held_out: held_out_store(out), events: out.join(FOLDER).is_dir() }
    }

    /// A run that is resumed goes on as it did where the command says nothing of it.
    pub fn go_on(self, options: &mut Options) {
        options.tensorboard |= self.events;
        if options.eval_store.is_some() {
            return;
        }
        if let Some(path) = self.held_out {
            let shown = path.display();
            if path.is_file() {
                note!("evaluations go on with {shown}");
                options.eval_store = Some(path);
            } else {
                warning!(
                    "warning: {shown}, the held-out store of this run, is not there: nothing is evaluated; --eval-store \
                     names where it is"
                );
            }
        }
    }
}

/// Written whenever a run begins or goes on: it may do so with another program or device, and its stores may have moved.
/// The held-out store of a run that goes on without it stays named: it may come back.
pub fn record(
    out: &Path,
    options: &Options,
    stores: &Stores,
    device: &str,
    identity: &Identity,
) -> Result<()> {
    let trained: Vec<Value> = stores.iter().map(|(store, weight)| described(store, Some(weight))).collect();
    let held_out = match &options.eval_store {
        Some(path) => described(&Store::open(path)?, None),
        None if options.resume => recorded(out).map_or(Value::Null, |before| before["eval_store"].clone()),
        None => Value::Null,
    };
    let threads = match identity {
        Identity::Cpu { threads, .. } => Some(threads),
        Identity::Gpu { .. } => None,
    };
    let object = json!({
        "program": concat!("inazuma ", env!("CARGO_PKG_VERSION")),
        "device": device,
        "processor": cpu::name(),
        "threads": threads,
        "ranks": options.ranks.size(),
        "stores": trained,
        "eval_store": held_out,
    });
    write_atomically(&out.join(RUN), &serde_json::to_vec_pretty(&object)?)
}

/// Where a store is, what is in it, and the checksum of its header, which holds those of everything else.
fn described(store: &Store, weight: Option<f64>) -> Value {
    let path = std::path::absolute(store.path()).unwrap_or_else(|_| store.path().to_owned());
    let mut object = json!({
        "path": path.to_string_lossy(),
        "documents": store.documents(),
        "lines": store.lines(),
        "tokens": store.tokens(),
        "crc": StoreIdentity::crc_of(store),
    });
    if let Some(weight) = weight {
        object["weight"] = json!(weight);
    }
    object
}
