//! Whole extractions of small dumps made here, sound and broken.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::bzip::tests::{compress, noise};
use super::*;

mod bad_input;
mod shared;

const HEAD: &str = "<mediawiki xml:lang=\"ja\">\n  <siteinfo><sitename>試</sitename></siteinfo>\n";
const FOOT: &str = "</mediawiki>\n";

fn page(id: usize, title: &str, namespace: &str, text: &str) -> String {
    format!(
        "  <page>\n    <title>{title}</title>\n    <ns>{namespace}</ns>\n    <id>{id}</id>\n    <revision>\n      \
         <id>9{id}</id>\n      <contributor><id>7</id></contributor>\n      <model>wikitext</model>\n      \
         <text xml:space=\"preserve\">{text}</text>\n    </revision>\n  </page>\n"
    )
}

/// `count` articles of very different lengths, each of which says its number.
fn articles(count: usize) -> Vec<String> {
    (0..count)
        .map(|id| {
            let filler = String::from_utf8(noise(50 + (id * 7919) % 3000)).unwrap();
            page(id, &format!("記事{id}"), "0", &format!("'''記事{id}'''は&lt;br /&gt;文である。{filler}"))
        })
        .collect()
}

struct Run {
    result: anyhow::Result<Extraction>,
    out: tempfile::TempDir,
}

impl Run {
    fn extraction(&self) -> &Extraction {
        self.result.as_ref().unwrap()
    }

    /// The bytes of all output files in order.
    fn bytes(&self) -> Vec<u8> {
        let files = &self.extraction().manifest.files;
        files.iter().flat_map(|name| fs::read(self.out.path().join(name)).unwrap()).collect()
    }

    fn ids(&self) -> Vec<usize> {
        let bytes = self.bytes();
        let lines = std::str::from_utf8(&bytes).unwrap().lines();
        lines
            .map(|line| {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                value["id"].as_str().unwrap().parse().unwrap()
            })
            .collect()
    }

    fn problem(&self) -> String {
        self.extraction().problems.join("; ")
    }
}

fn settings(dumps: Vec<PathBuf>, out: &Path, threads: usize) -> Settings {
    Settings {
        dumps,
        out: out.to_owned(),
        format: Format::Jsonl,
        threads,
        min_chars: 0,
        style: Style::PROSE,
        file_bytes: 64 << 20,
        force: false,
    }
}

fn run(dump: &[u8], threads: usize) -> Run {
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("dump");
    fs::write(&file, dump).unwrap();
    let settings = settings(vec![file], out.path(), threads);
    let result = extract(&settings, &AtomicBool::new(false), &mut |_| ());
    Run { result, out }
}

fn whole(pages: &[String]) -> String {
    format!("{HEAD}{}{FOOT}", pages.concat())
}

/// Streams of at most `size` bytes of XML, cut anywhere.
fn multistream(xml: &str, size: usize) -> Vec<u8> {
    xml.as_bytes().chunks(size).flat_map(compress).collect()
}

#[test]
fn every_container_and_thread_count_gives_the_same_bytes() {
    let xml = whole(&articles(600));
    let plain = run(xml.as_bytes(), 1);
    assert_eq!(plain.ids(), (0..600).collect::<Vec<_>>());
    assert!(plain.extraction().manifest.complete);
    let expected = plain.bytes();
    let dumps = [
        xml.clone().into_bytes(),
        compress(xml.as_bytes()),
        multistream(&xml, 100_000),
        multistream(&xml, 2_000),
        [multistream(&xml, 400_000), vec![0; 1000]].concat(),
    ];
    for dump in dumps {
        for threads in [1, 2, 5] {
            let run = run(&dump, threads);
            assert_eq!(run.problem(), "");
            assert!(run.bytes() == expected, "{threads} threads");
        }
    }
}

#[test]
fn a_stream_too_long_to_hold_is_decoded_piece_by_piece() {
    let filler = String::from_utf8(noise(12_000_000)).unwrap();
    let pages = [page(1, "長", "0", &filler), page(2, "後", "0", "次の記事。")];
    let mut dump = compress(whole(&pages).as_bytes());
    assert!(dump.len() > 6 << 20);
    assert_eq!(run(&dump, 2).ids(), [1, 2]);
    let end = dump.len();
    dump.truncate(end - 1000);
    let cut = run(&dump, 2);
    assert_eq!(cut.ids(), [] as [usize; 0]);
    assert!(cut.problem().contains("truncated"), "{}", cut.problem());
}

#[test]
fn what_is_no_article_is_counted() {
    let mut pages = articles(2);
    pages.push(page(2, "利用者:甲", "2", "文。"));
    pages.push(page(3, "転送", "0", "#転送 [[記事0]]"));
    pages.push(page(4, "稲妻 (曖昧さ回避)", "0", "* [[雷]]"));
    pages.push(page(5, "空", "0", "{{x}}"));
    pages.push(page(6, "転", "0", "文。").replace("<revision>", "<redirect title=\"記事0\" /><revision>"));
    pages.push(page(7, "表", "0", "{}").replace(">wikitext<", ">json<"));
    let run = run(whole(&pages).as_bytes(), 2);
    let skipped = run.extraction().manifest.skipped;
    assert_eq!(run.ids(), [0, 1]);
    assert_eq!((skipped.namespace, skipped.redirect, skipped.disambiguation), (1, 2, 1));
    assert_eq!((skipped.empty, skipped.model, skipped.malformed), (1, 1, 0));
}

#[test]
fn files_are_bounded_and_a_whole_extraction_is_not_overwritten() {
    let out = tempfile::tempdir().unwrap();
    let dump = out.path().join("dump.xml");
    fs::write(&dump, whole(&articles(100))).unwrap();
    let mut settings = settings(vec![dump.clone(), dump], &out.path().join("articles"), 2);
    settings.file_bytes = 50_000;
    let stop = AtomicBool::new(false);
    let first = extract(&settings, &stop, &mut |_| ()).unwrap();
    assert_eq!(first.manifest.articles, 200);
    assert!(first.manifest.files.len() > 4);
    for name in &first.manifest.files {
        assert!(fs::metadata(settings.out.join(name)).unwrap().len() <= 50_000);
    }
    assert!(extract(&settings, &stop, &mut |_| ()).is_err());
    settings.force = true;
    settings.file_bytes = 64 << 20;
    let again = extract(&settings, &stop, &mut |_| ()).unwrap();
    assert_eq!(again.manifest.files, ["articles-00000.jsonl"]);
    let names: Vec<_> = fs::read_dir(&settings.out).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(extract(&settings, &stop, &mut |_| ()).unwrap().interrupted);
    assert!(!settings.out.join("manifest.json").exists());
}
