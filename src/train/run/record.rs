//! `run.json`: what a run is made of and on, for who looks at it later. It decides nothing, and has no times in it.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::files::write_atomically;
use crate::interop::checkpoint::StoreIdentity;
use crate::store::{Store, Stores};

use super::Options;

/// Its name in the run's directory.
pub const RUN: &str = "run.json";

/// Written whenever a run begins or goes on: it may do so with another program or device, and its stores may have moved.
pub fn record(out: &Path, options: &Options, stores: &Stores, device: &str) -> Result<()> {
    let trained: Vec<Value> = stores.iter().map(|(store, weight)| described(store, Some(weight))).collect();
    let held_out = options.eval_store.as_deref().map(Store::open).transpose()?;
    let object = json!({
        "program": concat!("inazuma ", env!("CARGO_PKG_VERSION")),
        "device": device,
        "ranks": options.ranks.size(),
        "stores": trained,
        "eval_store": held_out.map(|store| described(&store, None)),
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
