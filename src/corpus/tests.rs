//! Whole extractions of small dumps made here, sound and broken.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::bzip::tests::{compress, noise};
use super::*;

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
        headings: Headings::Drop,
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
fn a_truncated_dump_keeps_what_came_before() {
    let xml = whole(&articles(300));
    let dump = multistream(&xml, 50_000);
    let cut = run(&dump[..dump.len() * 2 / 3], 2);
    let ids = cut.ids();
    assert!(ids.len() > 150 && ids.iter().enumerate().all(|(i, id)| i == *id));
    assert!(!cut.extraction().manifest.complete);
    assert!(cut.problem().contains(&format!("byte {}", dump.len() * 2 / 3)), "{}", cut.problem());
    let text = xml.as_bytes();
    let inside = xml.find("記事200").unwrap() + 6;
    let cut = run(&text[..inside], 2);
    assert_eq!(cut.ids().len(), 200);
    let start = xml[..inside].rfind("<page>").unwrap();
    assert!(cut.problem().contains(&format!("byte {start}: the dump is truncated")), "{}", cut.problem());
    let end = run(&text[..text.len() - FOOT.len()], 1);
    assert_eq!(end.ids().len(), 300);
    assert!(end.problem().contains("without </mediawiki>"));
}

#[test]
fn a_flipped_bit_costs_its_stream_and_no_more() {
    let xml = whole(&articles(300));
    let streams: Vec<Vec<u8>> = xml.as_bytes().chunks(40_000).map(compress).collect();
    let damaged = 5;
    let start: usize = streams[..damaged].iter().map(Vec::len).sum();
    for offset in [0, 5, 900, streams[damaged].len() - 3] {
        let mut dump = streams.concat();
        dump[start + offset] ^= 1;
        let run = run(&dump, 2);
        let ids = run.ids();
        assert!(ids.len() > 260 && ids.len() <= 300, "{}", ids.len());
        assert!(ids.is_sorted() && ids.first() == Some(&0) && ids.last() == Some(&299));
        assert_eq!(run.extraction().problems.len(), 1, "{}", run.problem());
        let named = [start, start - streams[damaged - 1].len()]
            .iter()
            .any(|s| run.problem().contains(&format!("byte {s}")));
        assert!(named, "at {offset}: {}", run.problem());
    }
}

#[test]
fn bad_text_costs_its_page_and_is_named() {
    let mut pages = articles(4);
    pages[1] = page(1, "NUL\0", "0", "文。");
    pages[2] = pages[2].replace("</title>", "<title>");
    let mut xml = whole(&pages).into_bytes();
    let at = xml
        .windows(9)
        .position(|w| w == "記事3".as_bytes()[..7].iter().chain(b"</").copied().collect::<Vec<_>>())
        .unwrap();
    xml[at + 1] = 0xff;
    let run = run(&xml, 2);
    assert_eq!(run.ids(), [0]);
    let problem = run.problem();
    assert!(
        problem.contains("NUL") && problem.contains("well-formed") && problem.contains("UTF-8"),
        "{problem}"
    );
    assert!(problem.contains(&format!("byte {at}")), "{at}: {problem}");
    assert_eq!(run.extraction().manifest.skipped.malformed, 3);
}

#[test]
fn an_unclosed_page_does_not_swallow_the_next() {
    let mut pages = articles(3);
    pages[1] = pages[1].replace("</page>", "");
    let run = run(whole(&pages).as_bytes(), 1);
    assert_eq!(run.ids(), [0, 2]);
    assert!(run.problem().contains("not closed"));
}

#[test]
fn what_is_no_dump_is_refused_or_named() {
    let utf16: Vec<u8> = whole(&articles(2)).encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(run(&utf16, 1).problem().contains("byte 0: the dump is UTF-16"));
    assert!(run(b"<html></html>", 1).problem().contains("not a MediaWiki XML dump"));
    assert!(run(b"", 1).problem().contains("empty"));
    let gzip = run(&[0x1f, 0x8b, 8, 0], 1);
    assert!(format!("{:#}", gzip.result.unwrap_err()).contains("gzip"));
    let out = tempfile::tempdir().unwrap();
    let settings = settings(vec![out.path().join("missing.xml")], out.path(), 1);
    let error = extract(&settings, &AtomicBool::new(false), &mut |_| ()).unwrap_err();
    assert!(format!("{error:#}").contains("missing.xml"));
}

#[test]
fn a_page_of_many_megabytes_is_a_page() {
    let long = "長い文である。\n".repeat(400_000);
    let pages = [page(1, "前", "0", "文。"), page(2, "長", "0", &long), page(3, "後", "0", "文。")];
    let run = run(whole(&pages).as_bytes(), 2);
    assert_eq!(run.ids(), [1, 2, 3]);
    assert_eq!(run.problem(), "");
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
