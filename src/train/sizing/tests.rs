use std::cell::Cell;

use super::*;
use crate::gpu::Capabilities;
use crate::plan::DeviceMemory;
use crate::train::config::{Sources, Surroundings, TrainConfig};

const GB: u64 = 1 << 30;

/// An adapter of this kind with so much memory, none of it in use, and bindings as large as may be.
fn adapter(kind: &'static str, memory: Option<u64>) -> Capabilities {
    Capabilities {
        kind,
        software: kind == "software",
        half: true,
        binding_bytes: 4 * GB - 4,
        buffer_bytes: 2 * GB,
        memory: memory.map(DeviceMemory::unused),
        ..Capabilities::baseline()
    }
}

fn card(memory: u64) -> Room {
    Room::adapter(adapter("discrete", Some(memory)))
}

fn resolve(room: &Room, preset: &str, set: &[&str]) -> Result<TrainConfig> {
    let set = set.iter().map(|text| text.to_string()).collect();
    let sources = Sources { preset: Some(preset.into()), set, ..Sources::default() };
    TrainConfig::resolve(sources.settings()?.0, Surroundings { vocab_size: 32_000, room })
}

/// Of the plan with this micro-batch.
fn bytes(room: &Room, micro_batch: usize) -> u64 {
    let config = resolve(room, "small", &[&format!("micro_batch={micro_batch}")]).unwrap();
    config.plan().unwrap().plan.bytes()
}

#[test]
fn the_largest_is_found_in_few_tries() {
    let sizes = divisions(1000);
    assert_eq!(sizes[..5], [1000, 500, 334, 250, 200]);
    assert!(sizes.is_sorted_by(|a, b| a > b) && sizes.last() == Some(&1));
    for limit in 1..=1001 {
        let tries = Cell::new(0);
        let found = largest(&sizes, |size| {
            tries.set(tries.get() + 1);
            Ok((size > limit).then(|| anyhow::anyhow!("{size}")))
        });
        let found = found.unwrap().unwrap();
        assert_eq!(Some(&found), sizes.iter().find(|&&size| size <= limit));
        assert!(tries.get() <= 8, "{limit}: {tries:?}");
    }
    let refused = largest(&sizes, |size| Ok(Some(anyhow::anyhow!("{size}")))).unwrap().unwrap_err();
    assert_eq!(refused.to_string(), "1");
    assert!(largest(&sizes, |_| anyhow::bail!("no plan")).is_err());
}

#[test]
fn chunks_are_whole_tiles_and_equal() {
    const MIB: u64 = 1 << 20;
    for (rows, vocabulary, bytes, expected) in [
        (5056, 32_000, 64 * MIB, 512),
        (5056, 32_000, 320 * MIB, 2560),
        (316, 32_000, 32 * MIB, 256),
        (304, 2_000, 32 * MIB, 304),
        (262, 32_000, 32 * MIB, 262),
        (1000, 1_000_000, 128 * MIB, 33),
        (1000, 1 << 24, MIB, 1),
    ] {
        let chunk = vocabulary_chunk(rows, vocabulary, bytes);
        assert_eq!(chunk, expected, "{rows} rows of {vocabulary} in {bytes}");
        assert!(chunk == 1 || (4 * chunk * vocabulary) as u64 <= bytes);
    }
}

#[test]
fn a_card_is_given_what_its_share_holds() {
    let mut last = 0;
    for memory in [2, 4, 8, 80].map(|memory| memory * GB) {
        let (room, share) = (card(memory), memory / 5 * 4);
        let config = resolve(&room, "small", &[]).unwrap();
        let micro_batch = config.micro_batch;
        assert!(bytes(&room, micro_batch) <= share, "{memory}: {micro_batch}");
        let next = divisions(64).into_iter().rfind(|&size| size > micro_batch);
        assert!(next.is_none_or(|next| bytes(&room, next) > share), "{memory}: {micro_batch}");
        assert!(micro_batch >= last, "{memory}: {micro_batch} after {last}");
        assert!((4 * 32_000 * config.vocabulary_chunk) as u64 <= (memory / 256).max(64 << 20), "{memory}");
        last = micro_batch;
    }
    assert_eq!(last, 64);
}

#[test]
fn a_small_card_is_given_all_it_has() {
    // Its share would not hold the 8,192 tokens that fill it.
    let filling = bytes(&card(4 * GB), 16);
    assert_eq!(resolve(&card(filling + (64 << 20)), "small", &[]).unwrap().micro_batch, 16);
    assert!(resolve(&card(filling - 1), "small", &[]).unwrap().micro_batch < 16);
}

#[test]
fn others_are_given_what_fills_them() {
    let room = |kind, memory| Room::adapter(adapter(kind, memory));
    for room in [room("discrete", None), room("integrated", Some(64 * GB)), room("software", Some(64 * GB))] {
        assert_eq!(resolve(&room, "small", &[]).unwrap().micro_batch, 16);
    }
    let processor = |memory| Room::unlimited().with_memory(Some(DeviceMemory::unused(memory)));
    assert_eq!(resolve(&processor(64 * GB), "small", &[]).unwrap().micro_batch, 4);
    // Half of 900 MB holds less.
    assert_eq!(resolve(&processor(900 << 20), "small", &[]).unwrap().micro_batch, 2);
    let refused = resolve(&processor(100 << 20), "base", &[]).unwrap_err().to_string();
    assert!(refused.contains("B of memory, and this machine has 105 MB for it"), "{refused}");
}

#[test]
fn memory_in_use_counts() {
    let used = DeviceMemory { total: 80 * GB, free: 2 * GB };
    let room = card(80 * GB).with_memory(Some(used));
    assert_eq!(
        resolve(&room, "small", &[]).unwrap().micro_batch,
        resolve(&card(80 * GB).with_memory(Some(DeviceMemory { total: 100 * GB, ..used })), "small", &[])
            .unwrap()
            .micro_batch
    );
    let plan = resolve(&room, "small", &[]).unwrap().plan().unwrap().plan;
    assert!(plan.bytes() <= 2 * GB);
}

#[test]
fn limits_of_bindings_are_kept() {
    // Partial sums of attention's gradient, [T, 4, 2, 256], in 64 MiB: 8,192 tokens.
    let narrow = Capabilities { binding_bytes: 64 << 20, ..adapter("discrete", Some(80 * GB)) };
    let config = resolve(&Room::adapter(narrow.clone()), "small", &[]).unwrap();
    assert_eq!((config.micro_batch, config.vocabulary_chunk), (16, 512));
    let narrow = Room::adapter(narrow);
    let refused = |set: &[&str]| {
        let refused = resolve(&narrow, "small", set).unwrap().check(&narrow, true).unwrap_err();
        format!("{refused:#}")
    };
    let micro_batch = refused(&["micro_batch=64"]);
    assert!(micro_batch.starts_with("micro_batch=64: "), "{micro_batch}");
    assert!(micro_batch.ends_with("; micro_batch=32 would fit"), "{micro_batch}");
    let chunk = refused(&["micro_batch=16", "vocabulary_chunk=1000"]);
    assert!(chunk.starts_with("vocabulary_chunk=1000: "), "{chunk}");
    assert!(chunk.ends_with("; vocabulary_chunk=512 would fit"), "{chunk}");
}

#[test]
fn numbers_are_kept_and_refused_where_they_do_not_fit() {
    let room = card(4 * GB);
    let config = resolve(&room, "base", &["micro_batch=2", "vocabulary_chunk=100"]).unwrap();
    assert_eq!((config.micro_batch, config.vocabulary_chunk), (2, 100));
    config.check(&room, false).unwrap();
    let refused = resolve(&room, "base", &["micro_batch=128"]).unwrap().check(&room, false).unwrap_err();
    let refused = refused.to_string();
    let fits = refused.split_once("; micro_batch=").unwrap().1.strip_suffix(" would fit").unwrap();
    assert!(refused.contains("baseline has 4.29 GB for it (4.29 GB free of 4.29 GB)"), "{refused}");
    resolve(&room, "base", &[&format!("micro_batch={fits}")]).unwrap().check(&room, false).unwrap();
    // Nothing fits: why one sequence does not.
    let room = card(GB / 2);
    let refused = resolve(&room, "base", &["micro_batch=128"]).unwrap().check(&room, false).unwrap_err();
    assert!(refused.to_string().starts_with("the plan needs "), "{refused}");
}

/// The gigabytes are there for an evaluation too.
#[test]
fn evaluation_counts_where_it_is_wanted() {
    let config = resolve(&card(80 * GB), "small", &[]).unwrap();
    let step = config.plan().unwrap().plan.bytes();
    let room = card(step + (1 << 20));
    config.check(&room, false).unwrap();
    assert!(config.check(&room, true).is_err());
}

#[test]
fn plans_of_too_many_chunks_are_not_built() {
    let room = card(80 * GB);
    let config = resolve(&room, "small", &["vocabulary_chunk=1"]).unwrap();
    let slots = config.slots();
    assert!(config.micro_batch < 64 && config.micro_batch * slots <= MOST_CHUNKS, "{}", config.micro_batch);
    let asked = Asked {
        batch_size: 1_000_000,
        max_length: 512,
        slots,
        vocabulary: 32_000,
        micro_batch: None,
        vocabulary_chunk: Some(1),
    };
    let sizes = Sizes { micro_batch: 1_000_000, vocabulary_chunk: 1 };
    let built = |_: Sizes| -> Result<Vec<Plan>> { Ok(vec![config.plan()?.plan]) };
    let error = asked.check(sizes, &room, built).unwrap_err().to_string();
    assert!(error.contains("chunks of 1; 4096 are the most; micro_batch="), "{error}");
}
