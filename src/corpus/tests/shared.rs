//! Real dumps, which are not ours; without them these tests say `skipped`.

use crate::testing::shared;

use super::*;

fn extract_file(dump: PathBuf, threads: usize) -> Run {
    let out = tempfile::tempdir().unwrap();
    let settings = settings(vec![dump], out.path(), threads);
    let result = extract(&settings, &AtomicBool::new(false), &mut |_| ());
    Run { result, out }
}

#[test]
fn the_dumps_of_24_wikis_and_the_english_one_are_read_whole() {
    let Some(folder) = shared("data/wikitext/minidumps") else { return };
    let mut dumps: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    dumps.sort();
    assert_eq!(dumps.len(), 24);
    dumps.extend(shared("data/wikitext/enwiki-shortened.xml.bz2"));
    for dump in dumps {
        let name = dump.display().to_string();
        let run = extract_file(dump, 2);
        assert_eq!(run.problem(), "", "{name}");
        let manifest = &run.extraction().manifest;
        assert!(manifest.complete && manifest.skipped.malformed == 0, "{name}");
        // The Sinhala one is a single page that is no article.
        assert!(manifest.articles > 0 || name.contains("siwiki"), "{name}");
        let text = String::from_utf8(run.bytes()).unwrap();
        for row in text.lines() {
            let row: serde_json::Value = serde_json::from_str(row).unwrap();
            let text = row["text"].as_str().unwrap();
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{name}");
        }
    }
}

#[test]
fn the_japanese_dump_is_the_same_for_any_number_of_threads() {
    let Some(dump) = shared("data/wikitext/jawiki-countries-pages-articles-multistream.xml.bz2") else {
        return;
    };
    let first = extract_file(dump.clone(), 1);
    assert_eq!(first.problem(), "");
    assert_eq!(first.extraction().manifest.articles, 205);
    for threads in [2, 3, 8] {
        assert!(extract_file(dump.clone(), threads).bytes() == first.bytes(), "{threads} threads");
    }
}
