//! Broken dumps: each in bounded time and memory, named with its byte, and everything sound is kept.

use std::time::{Duration, Instant};

use super::*;

/// Far more than any of these takes, however busy the machine; a square of the input would take hours.
const LONG: Duration = Duration::from_secs(120);

/// The article that says `id`, in the middle of broken ones.
fn sound(id: usize) -> String {
    page(id, &format!("記事{id}"), "0", "健全な文である。")
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
fn xml_cut_inside_a_tag_is_named_with_the_page_it_cuts() {
    let xml = whole(&articles(3));
    let last = xml.rfind("<page>").unwrap();
    for tag in ["<title>", "</title>", "<text", "xml:space", "</text>", "</page>"] {
        let at = last + xml[last..].find(tag).unwrap();
        for cut in [at + 1, at + tag.len() - 1] {
            for dump in [xml.as_bytes()[..cut].to_vec(), compress(&xml.as_bytes()[..cut])] {
                let run = run(&dump, 2);
                assert_eq!(run.ids(), [0, 1], "cut in {tag}");
                assert_eq!(run.extraction().problems.len(), 1, "{}", run.problem());
                let (plain, packed) = (format!("byte {last}:"), format!("byte 0 ({last} bytes into"));
                let problem = run.problem();
                assert!(problem.contains(&plain) || problem.contains(&packed), "{problem}");
            }
        }
    }
}

#[test]
fn a_broken_tag_in_the_middle_costs_its_page() {
    let mut pages = vec![sound(0), sound(1), sound(2)];
    pages[1] = pages[1].replace("<title>", "<title <");
    let xml = whole(&pages);
    let start = xml.find("<title <").unwrap();
    let end = start + xml[start..].find("</page>").unwrap();
    let run = run(xml.as_bytes(), 1);
    assert_eq!(run.ids(), [0, 2]);
    let named: usize =
        run.problem().split("byte ").nth(1).unwrap().split(':').next().unwrap().parse().unwrap();
    // Where the parser notices: at the first end tag that does not fit.
    assert!((start..=end).contains(&named), "{start}: {}", run.problem());
}

#[test]
fn utf_16_and_what_is_not_utf_8_are_named() {
    let xml = whole(&articles(2));
    let little: Vec<u8> = xml.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = xml.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let marked = |mark: &[u8], bytes: &[u8]| [mark, bytes].concat();
    for dump in [marked(b"\xff\xfe", &little), marked(b"\xfe\xff", &big), little.clone(), big] {
        for dump in [compress(&dump), dump] {
            let run = run(&dump, 2);
            assert_eq!(run.extraction().problems.len(), 1, "{}", run.problem());
            assert!(
                run.problem().contains("byte 0") && run.problem().contains("UTF-16"),
                "{}",
                run.problem()
            );
        }
    }
    // A byte order mark in front of UTF-8 does no harm.
    assert_eq!(run(&marked(b"\xef\xbb\xbf", xml.as_bytes()), 1).ids(), [0, 1]);
    for wrong in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xe3\x81", b"\x82\xa0"] {
        let pages = [sound(0), page(1, "誤", "0", "文@@@文"), sound(2)];
        let xml = whole(&pages);
        let at = xml.find("@@@").unwrap();
        let dump = [&xml.as_bytes()[..at], wrong, &xml.as_bytes()[at + 3..]].concat();
        let run = run(&dump, 1);
        assert_eq!(run.ids(), [0, 2]);
        assert!(
            run.problem().contains(&format!("byte {at}: a page is not valid UTF-8")),
            "{}",
            run.problem()
        );
    }
}

#[test]
fn a_nul_in_a_title_is_named() {
    for (title, what) in [("無\0", "NUL"), ("無&#0;", "impossible reference"), ("無&#xD800;", "impossible")]
    {
        let xml = whole(&[sound(0), page(1, title, "0", "文。"), sound(2)]);
        let at = xml.find(title).unwrap() + "無".len();
        let run = run(xml.as_bytes(), 1);
        assert_eq!(run.ids(), [0, 2]);
        assert!(run.problem().contains(&format!("byte {at}: ")), "{at}: {}", run.problem());
        assert!(run.problem().contains(what), "{}", run.problem());
    }
}

#[test]
fn a_page_of_50_mb_is_a_page_and_one_beyond_the_limit_is_left_out() {
    let started = Instant::now();
    let line = "長い文である。\n";
    for (megabytes, expected) in [(50, &[1, 2, 3][..]), (150, &[1, 3])] {
        let long = line.repeat((megabytes << 20) / line.len());
        let xml = whole(&[sound(1), page(2, "長", "0", &long), sound(3)]);
        let run = run(xml.as_bytes(), 2);
        assert_eq!(run.ids(), expected);
        let problems = &run.extraction().problems;
        assert_eq!(problems.len(), usize::from(expected.len() == 2), "{}", run.problem());
        if let Some(problem) = problems.first() {
            let start = xml.match_indices("<page>").nth(1).unwrap().0;
            assert!(problem.contains(&format!("byte {start}: a page longer than 67.1 MB")), "{problem}");
        }
    }
    assert!(started.elapsed() < LONG, "{:?}", started.elapsed());
}

#[test]
fn a_million_openings_cost_no_more_than_their_text() {
    let started = Instant::now();
    for opening in ["{{", "[[", "{|\n", "&lt;ref&gt;", "&lt;!--", "{{仮リンク|"] {
        let text = format!("前の文は残る。\n{}\n\n後の文は残る。", opening.repeat(1_000_000));
        let run = run(whole(&[sound(1), page(2, "開", "0", &text), sound(3)]).as_bytes(), 2);
        assert_eq!(run.ids(), [1, 2, 3], "{opening}");
        let bytes = run.bytes();
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(text.contains("前の文は残る。") && text.contains("後の文は残る。"), "{opening}");
    }
    assert!(started.elapsed() < LONG, "{:?}", started.elapsed());
}

#[test]
fn a_small_file_that_decodes_to_gigabytes_needs_no_memory_for_them() {
    // A page without end, 400 MB of it, in a few kB: the same stream again and again.
    let blank = compress(&vec![b' '; 40 << 20]);
    let mut dump = compress(format!("{HEAD}{}<page><title>", sound(1)).as_bytes());
    for _ in 0..10 {
        dump.extend_from_slice(&blank);
    }
    assert!(dump.len() < 100_000, "{}", dump.len());
    dump.extend(compress(format!("{}{FOOT}", sound(2)).as_bytes()));
    let run = run(&dump, 2);
    assert_eq!(run.ids(), [1, 2]);
    assert_eq!(run.extraction().problems.len(), 1, "{}", run.problem());
    assert!(run.problem().contains("longer than"), "{}", run.problem());
}
