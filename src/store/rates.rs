//! How fast examples are cut from a store. Ignored unless asked for:
//! `cargo test --release --lib store::rates -- --ignored --nocapture` with STORE=a store.
//! (`inazuma bench prepare` measures how fast a store is made, `inazuma bench data` whole batches.)

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::Store;
use super::examples::{EpochIndex, ExampleStream};

#[test]
#[ignore = "a measurement"]
fn rates() {
    let Some(path) = std::env::var_os("STORE") else {
        crate::testing::skipped("STORE is not set");
        return;
    };
    let start = Instant::now();
    let store = Arc::new(Store::open(Path::new(&path)).unwrap());
    println!("open: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    for max_length in [128, 512] {
        let start = Instant::now();
        let index = EpochIndex::build(&store, 1, 0, max_length).unwrap();
        let built = start.elapsed().as_secs_f64();
        let mut stream = ExampleStream::new(store.clone(), 1, max_length).unwrap();
        let start = Instant::now();
        let mut ids = 0;
        for n in 0..index.len() as u64 {
            ids += std::hint::black_box(stream.example(n).unwrap()).ids.len();
        }
        let cut = start.elapsed().as_secs_f64();
        println!(
            "length {max_length}: index of {} examples in {:.1} ms; examples made at {:.0} M tokens/s on one \
             thread, {:.0} with the index",
            index.len(),
            built * 1e3,
            ids as f64 / cut / 1e6,
            ids as f64 / (cut + built) / 1e6
        );
    }
}
