//! Rates, measured in one run on the main corpus. Ignored unless asked for:
//! `cargo test --release --lib store::rates -- --ignored --nocapture` with KYOTO=kyoto-jawiki.txt (decompressed)
//! and TOKENIZER=a model.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::examples::{EpochIndex, ExampleStream};
use super::prepare::{Options, prepare};
use super::{Lines, Store, sentences};
use crate::corpus::input::Documents;
use crate::tokenizer::Tokenizer;

fn given(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).map(PathBuf::from);
    if value.is_none() {
        eprintln!("skipped: {name} is not set");
    }
    value
}

/// Processor seconds of this process (Linux; ticks of 10 ms): what is left of a rate on a busy machine.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / 100.0
}

#[test]
#[ignore = "a measurement"]
fn rates() {
    let (Some(text), Some(model)) = (given("KYOTO"), given("TOKENIZER")) else {
        return;
    };
    let tokenizer = Tokenizer::open(&model, true).unwrap();
    let lines: Vec<String> = Documents::open(std::slice::from_ref(&text))
        .unwrap()
        .flat_map(|document| {
            let mut found = Vec::new();
            for paragraph in document.unwrap().paragraphs() {
                sentences::split(paragraph, |line| found.push(line.to_lowercase()));
            }
            found
        })
        .collect();
    let plain = Tokenizer::open(&model, false).unwrap();
    let mut library = 0.0f64;
    let mut library_cpu = 0.0f64;
    let mut tokens = 0usize;
    for _ in 0..3 {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let mut ids = Vec::new();
        tokens = 0;
        for line in &lines {
            ids.clear();
            plain.encode_into(line, &mut ids);
            tokens += ids.len();
        }
        library = library.max(tokens as f64 / start.elapsed().as_secs_f64());
        library_cpu = library_cpu.max(tokens as f64 / (cpu_seconds() - cpu));
    }
    println!(
        "id-only encoding, one thread: {:.2} M tokens/s, {:.2} M a processor second ({tokens} tokens)",
        library / 1e6,
        library_cpu / 1e6
    );

    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("rate.store");
    for threads in [1, 2] {
        let mut best = 0.0f64;
        let mut best_cpu = 0.0f64;
        for _ in 0..3 {
            let options = Options { lines: Lines::Sentence, threads, held_out: 0.0 };
            let documents = Documents::open(std::slice::from_ref(&text)).unwrap();
            let (start, cpu) = (Instant::now(), cpu_seconds());
            let summary = prepare(documents, &tokenizer, &out, &options, |_| {}).unwrap();
            best = best.max(summary.store.tokens as f64 / start.elapsed().as_secs_f64());
            best_cpu = best_cpu.max(summary.store.tokens as f64 / (cpu_seconds() - cpu));
        }
        println!(
            "prepare, {threads} threads: {:.2} M tokens/s, {:.2} of the encoding; {:.2} M a processor second, {:.2}",
            best / 1e6,
            best / (library * threads as f64),
            best_cpu / 1e6,
            best_cpu / library_cpu
        );
    }

    let start = Instant::now();
    let store = Arc::new(Store::open(&out).unwrap());
    println!("open: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    for max_length in [128, 512] {
        let start = Instant::now();
        let index = EpochIndex::build(&store, 1, 0, max_length);
        let built = start.elapsed().as_secs_f64();
        let mut stream = ExampleStream::new(store.clone(), 1, max_length).unwrap();
        let start = Instant::now();
        let mut ids = 0;
        for n in 0..index.len() as u64 {
            ids += std::hint::black_box(stream.example(n)).ids.len();
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
