//! Stores prepared by several ranks.

use super::*;
use crate::ranks::{Ranks, Together, threads};
use crate::store::prepare::Summary;

/// What each rank comes to that encodes `text` into `out`.
fn prepared(
    ranks: usize,
    scratch: &Scratch,
    text: &Path,
    out: &Path,
    options: impl Fn(Ranks) -> Options + Sync,
) -> Vec<anyhow::Result<Option<Summary>>> {
    threads::run(ranks, |ranks| {
        let documents = ranks.agree(Documents::open(&[text.to_path_buf()]))?;
        prepare(documents, &scratch.tokenizer, out, &options(ranks.clone()), |_| {})
    })
}

/// The store, and its held-out part if there is one.
fn written(out: &Path) -> (Vec<u8>, Option<Vec<u8>>) {
    verify(out).unwrap();
    let held_out = std::fs::read(crate::files::with_suffix(out, ".held-out")).ok();
    (std::fs::read(out).unwrap(), held_out)
}

fn as_json_lines(scratch: &Scratch, text: &Path) -> PathBuf {
    let path = scratch.path("text.jsonl");
    let documents = Documents::open(&[text.to_path_buf()]).unwrap();
    let row = |document: crate::corpus::input::Document| serde_json::json!({ "text": document.text });
    let rows: String = documents.map(|document| format!("{}\n", row(document.unwrap()))).collect();
    std::fs::write(&path, rows).unwrap();
    path
}

/// What was left of a store that was not made.
fn left(scratch: &Scratch) -> usize {
    let files = std::fs::read_dir(scratch.directory.path()).unwrap().flatten();
    files.filter(|file| file.file_name().to_string_lossy().contains(".store")).count()
}

#[test]
fn ranks_write_the_store_of_one_process() {
    let scratch = Scratch::new();
    // Many rounds, one that not all ranks have documents for, and fewer documents than ranks.
    for (count, held_out) in [(300, 0.2), (2, 0.0)] {
        let text = write_text(&scratch, count);
        for text in [as_json_lines(&scratch, &text), text] {
            for words in [Words::Script, Words::None] {
                let out = scratch.path("out.store");
                let given = |ranks: Ranks, batch_bytes: usize| {
                    let threads = 1 + ranks.rank() % 2;
                    Options { words, ranks, batch_bytes, ..options(threads, held_out) }
                };
                let alone = prepared(1, &scratch, &text, &out, |ranks| given(ranks, 1 << 18));
                let alone = alone.into_iter().next().unwrap().unwrap().unwrap();
                let expected = written(&out);
                assert_eq!((alone.store.words_kind, expected.1.is_some()), (words.kind(), held_out > 0.0));
                for (ranks, batch_bytes) in [(2, 900), (3, 900), (3, 1 << 18), (3, 1)] {
                    let summaries = prepared(ranks, &scratch, &text, &out, |ranks| given(ranks, batch_bytes));
                    for (rank, summary) in summaries.into_iter().enumerate() {
                        let summary = summary.unwrap();
                        assert_eq!(summary.is_some(), rank == 0);
                        let Some(summary) = summary else { continue };
                        assert_eq!(summary.empty_documents, alone.empty_documents);
                        assert_eq!(summary.store.tokens, alone.store.tokens);
                    }
                    assert!(
                        written(&out) == expected,
                        "{count} documents, {ranks} ranks, {batch_bytes} bytes"
                    );
                }
            }
        }
    }
}

#[test]
fn progress_is_that_of_the_whole_input() {
    let scratch = Scratch::new();
    let text = write_text(&scratch, 200);
    let out = scratch.path("out.store");
    let reports = threads::run(3, |ranks| {
        let documents = Documents::open(std::slice::from_ref(&text)).unwrap();
        let mut last = None;
        let options = Options { ranks, batch_bytes: 900, ..options(1, 0.0) };
        prepare(documents, &scratch.tokenizer, &out, &options, |progress| last = Some(progress)).unwrap();
        last
    });
    let length = std::fs::metadata(&text).unwrap().len();
    let last = reports[0].unwrap();
    assert_eq!((last.bytes_read, last.bytes_total), (length, length));
    assert_eq!(last.tokens, Store::open(&out).unwrap().tokens());
    assert!(reports[1].is_none() && reports[2].is_none());
}

/// All ranks end with one line, and nothing is left behind.
#[test]
fn ranks_fail_together() {
    let scratch = Scratch::new();
    let whole = std::fs::read_to_string(as_json_lines(&scratch, &write_text(&scratch, 300))).unwrap();
    let bad = scratch.path("bad.jsonl");
    std::fs::write(&bad, format!("{whole}{{\"txt\": 1}}\n{whole}")).unwrap();
    let blank = scratch.path("blank.txt");
    std::fs::write(&blank, "\n\n").unwrap();
    let signs = scratch.path("signs.txt");
    std::fs::write(&signs, "\u{200b}\n").unwrap();
    let (out, nowhere) = (scratch.path("out.store"), scratch.path("nowhere/out.store"));
    for (text, out, words) in [
        (&bad, &out, "bad.jsonl, line 301: not a JSON object"),
        (&blank, &out, "the input holds no text"),
        (&signs, &out, "no document of the input yields a piece"),
        (&scratch.path("missing.txt"), &out, "missing.txt"),
        (&bad, &nowhere, "nowhere/out.store"),
    ] {
        let given = |ranks: Ranks| Options { ranks, batch_bytes: 900, ..options(2, 0.3) };
        for ended in prepared(3, &scratch, text, out, given) {
            let error = ended.err().unwrap();
            assert!(error.is::<Together>(), "{error:#}");
            let error = error.to_string();
            assert!(error.starts_with("rank 0: ") && error.contains(words), "{error}");
        }
        assert_eq!(left(&scratch), 0);
    }
}

#[test]
fn ranks_that_were_asked_for_something_else_are_refused() {
    let scratch = Scratch::new();
    let (text, other) = (write_text(&scratch, 3), scratch.path("other.txt"));
    std::fs::write(&other, "山川\n").unwrap();
    let lower = &scratch.tokenizer;
    let as_it_is = Tokenizer::open(lower.path(), false).unwrap();
    let out = scratch.path("out.store");
    let refused = |odd: &Options, tokenizer: &Tokenizer, inputs: &[PathBuf]| {
        let errors = threads::run(2, |ranks| {
            let is_odd = ranks.rank() == 1;
            let plain = Options { ranks: ranks.clone(), ..options(1, 0.0) };
            let odd = Options {
                words: odd.words,
                lines: odd.lines,
                held_out: odd.held_out,
                ranks,
                ..options(1, 0.0)
            };
            let one = std::slice::from_ref(&text);
            let documents = Documents::open(if is_odd { inputs } else { one }).unwrap();
            let (tokenizer, options) = if is_odd { (tokenizer, odd) } else { (lower, plain) };
            failure(prepare(documents, tokenizer, &out, &options, |_| {}))
        });
        assert_eq!(errors[0], errors[1]);
        assert_eq!(left(&scratch), 0);
        errors[0].clone()
    };
    let one = std::slice::from_ref(&text);
    let plain = options(1, 0.0);
    let given = |options| refused(&options, lower, one);
    let end = "for rank 0; give all ranks the same";
    let words = given(Options { words: Words::None, ..options(1, 0.0) });
    assert_eq!(words, format!("rank 1: --words is none, and script {end}"));
    let lines = given(Options { lines: Lines::Paragraph, ..options(1, 0.0) });
    assert_eq!(lines, format!("rank 1: --lines is paragraph, and sentence {end}"));
    assert_eq!(given(options(1, 0.5)), format!("rank 1: --held-out is 0.5, and 0 {end}"));
    assert_eq!(refused(&plain, &as_it_is, one), format!("rank 1: lower-casing is false, and true {end}"));
    let input = refused(&plain, lower, std::slice::from_ref(&other));
    assert!(input.contains("rank 1: input 1 is ") && input.contains("other.txt (7 bytes), and "), "{input}");
    let more = refused(&plain, lower, &[text.clone(), other.clone()]);
    assert!(more.contains("rank 1: input 2 is ") && more.contains(&format!("and not given {end}")), "{more}");
}
