//! Pictures of awkward runs.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use quick_xml::Reader;
use quick_xml::events::Event;
use tempfile::TempDir;

use super::*;

fn options() -> Options {
    Options::plain(Language::En)
}

fn run(folder: &Path, name: &str, lines: &str, evaluations: &str) -> Recorded {
    let path = folder.join(name);
    fs::create_dir(&path).unwrap();
    fs::write(path.join("config.toml"), "steps = 30\n").unwrap();
    fs::write(path.join("metrics.jsonl"), lines).unwrap();
    fs::write(path.join("eval.jsonl"), evaluations).unwrap();
    Recorded::open(&path).unwrap()
}

fn model(folder: &Path, name: &str, lines: &str) -> Recorded {
    let path = folder.join(name);
    fs::create_dir(&path).unwrap();
    fs::write(path.join("metrics.jsonl"), lines).unwrap();
    Recorded::open(&path).unwrap()
}

fn line(step: u64, loss: &str) -> String {
    format!(
        "{{\"step\":{step},\"tokens\":{},\"tokens_per_second\":100.5,\"loss\":{loss},\"disc_auc\":0.5,\"lr\":1e-4}}\n",
        step * 100
    )
}

/// Elements by name, where it is well-formed.
fn count(svg: &str, name: &str) -> usize {
    let mut reader = Reader::from_str(svg);
    let mut count = 0;
    loop {
        match reader.read_event().expect("well-formed") {
            Event::Start(element) | Event::Empty(element) => {
                count += usize::from(element.name().as_ref() == name);
            }
            Event::Eof => return count,
            _ => {}
        }
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn awkward_runs_are_drawn() {
    let folder = folder();
    let one = run(folder.path(), "one", &line(10, "3.5"), "");
    let flat = run(folder.path(), "flat", &(line(1, "2") + &line(2, "2")), "{\"step\":2,\"loss\":2}\n");
    let holes: String =
        [line(1, "null"), line(2, "5"), line(3, "null"), line(4, "1e308"), line(5, "4")].concat();
    let holes = run(folder.path(), "穴 <&>", &holes, "");
    for over in [Over::Steps, Over::Tokens, Over::Hours] {
        for (smooth, log) in [(0.0, false), (0.9, true)] {
            let options = Options { over, smooth, log, title: Some("A < B & \"C\"".into()), ..options() };
            for runs in [&one, &flat, &holes].map(std::slice::from_ref) {
                let svg = Figure::of(runs, &options).unwrap().draw().unwrap().svg;
                assert!(count(&svg, "text") > 10 && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }
    let figure = Figure::of(&[one, flat, holes], &options()).unwrap();
    assert_eq!(figure.panels.len(), 4, "only what there is");
    let svg = figure.draw().unwrap().svg;
    assert!(svg.contains("held-out text") && svg.contains("穴 &lt;&amp;&gt;"), "{svg}");
}

#[test]
fn a_quantity_that_is_always_null_says_so() {
    let folder = folder();
    let run = run(folder.path(), "run", "{\"step\":1,\"loss\":1,\"mfu\":null}\n", "");
    let asked = Options { quantities: vec!["mfu".into()], language: Language::Ja, ..options() };
    let svg = Figure::of(&[run], &asked).unwrap().draw().unwrap().svg;
    assert!(svg.contains("値なし") && svg.contains("ピーク性能"), "{svg}");
}

#[test]
fn what_cannot_be_drawn_is_one_line() {
    let folder = folder();
    let empty = || run(folder.path(), "empty", "", "");
    let trained = run(folder.path(), "run", &line(1, "1"), "");
    let model = model(folder.path(), "model", "{\"step\":9,\"epoch\":1,\"loss\":1,\"f1\":0.5}\n");
    let told = |runs: &[Recorded], options: &Options| {
        let error = Figure::of(runs, options).and_then(|figure| figure.draw()).unwrap_err();
        format!("{error:#}")
    };
    let empty = empty();
    assert!(told(std::slice::from_ref(&empty), &options()).contains("empty has no line of metrics yet"));
    let mixed = [trained, model];
    assert!(told(&mixed, &options()).contains("is a fine-tuned model"));
    let [trained, model] = mixed;
    let asked = |name: &str| Options { quantities: vec![name.into()], ..options() };
    let message = told(std::slice::from_ref(&trained), &asked("f1"));
    assert!(message.contains("no line has a number called f1; there are: tokens"), "{message}");
    let small = Options { size: Some((200, 150)), ..options() };
    assert!(told(std::slice::from_ref(&trained), &small).contains("200x150 is too small"));
    // A run that has nothing yet keeps the others from nothing.
    let figure = Figure::of(&[empty, trained], &options()).unwrap();
    assert_eq!((figure.runs.as_slice(), figure.notes.len()), (&["run".to_owned()][..], 1));
    let figure = Figure::of(&[model], &options()).unwrap();
    let titles: Vec<&str> = figure.panels.iter().map(|panel| panel.title.as_str()).collect();
    assert_eq!(titles, ["loss", "F1, dev (%)"]);
}

#[test]
fn shares_that_are_all_zero_reach_from_zero_to_one() {
    let folder = folder();
    let lines = |share: &str| {
        format!("{{\"step\":1,\"mlm_accuracy\":{share}}}\n{{\"step\":2,\"mlm_accuracy\":{share}}}\n")
    };
    for (number, (share, low, high)) in
        [("0", 0.0, 1.0), ("1", 0.9, 1.0), ("0.5", 0.45, 0.55)].into_iter().enumerate()
    {
        let run = run(folder.path(), &number.to_string(), &lines(share), "");
        let figure = Figure::of(&[run], &options()).unwrap();
        let axis = figure.panels[0].axis;
        assert!((axis.low - low).abs() < 1e-9 && (axis.high - high).abs() < 1e-9, "{share}: {axis:?}");
        assert!(!figure.draw().unwrap().svg.contains(">-"), "{share}");
    }
}

#[test]
fn low_scores_of_squad_are_no_shares() {
    let folder = folder();
    let panels = |name: &str, scores: &str| {
        let line = |step: u64| format!("{{\"step\":{step},\"epoch\":1,\"loss\":1,{scores}}}\n");
        let model = model(folder.path(), name, &(line(1) + &line(2)));
        let panels = Figure::of(&[model], &options()).unwrap().panels;
        panels[1..].iter().map(|panel| panel.percent).collect::<Vec<_>>()
    };
    assert_eq!(panels("squad", "\"f1\":0.8,\"exact_match\":0.1"), [false, false]);
    assert_eq!(panels("tags", "\"f1\":0.8"), [true]);
}

#[test]
fn short_runs_are_drawn_over_minutes() {
    let folder = folder();
    let of = |name: &str, hours: u64, language| {
        let tokens = hours * 3600 * 100;
        let line = format!("{{\"step\":1,\"tokens\":{tokens},\"tokens_per_second\":100,\"loss\":1}}\n");
        let run = run(folder.path(), name, &line, "");
        let options = Options {
            over: Over::Hours,
            size: Some((640, 380)),
            quantities: vec!["loss".into()],
            ..options()
        };
        Figure::of(&[run], &Options { language, ..options }).unwrap().draw().unwrap().svg
    };
    let short = of("a", 1, Language::En);
    for part in [">time in steps (minutes)<", ">10<", ">60<"] {
        assert!(short.contains(part), "{part}: {short}");
    }
    assert!(of("b", 1, Language::Ja).contains(">学習のみの時間(分)<"));
    assert!(of("c", 20, Language::Ja).contains(">学習のみの時間(時間)<"));
    let long = of("d", 20, Language::En);
    assert!(long.contains(">time in steps (hours)<") && !long.contains(">1200<"), "{long}");
}

#[test]
fn runs_of_one_name_are_called_by_their_paths() {
    let folder = folder();
    let runs = ["a", "b"].map(|parent| {
        fs::create_dir(folder.path().join(parent)).unwrap();
        run(&folder.path().join(parent), "run", &line(1, "1"), "")
    });
    let figure = Figure::of(&runs, &options()).unwrap();
    assert!(figure.runs[0].ends_with("a/run") && figure.runs[1].ends_with("b/run"));
}

#[test]
fn a_long_run_is_drawn_soon_and_small() {
    let folder = folder();
    let mut lines = String::new();
    for step in 1..=100_000 {
        lines += &line(step, &format!("{}", 5.0 + (step as f64).sin()));
    }
    let run = run(folder.path(), "long", &lines, "");
    let since = Instant::now();
    let svg = Figure::of(&[run], &Options { smooth: 0.99, ..options() }).unwrap().draw().unwrap().svg;
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert!(svg.len() < 300_000, "{}", svg.len());
}

#[test]
fn files_are_svg_or_png_by_their_names() {
    let folder = folder();
    let runs = [run(folder.path(), "run", &(line(1, "2") + &line(2, "1")), "")];
    for (name, begin) in [("a.svg", &b"<svg"[..]), ("a.png", b"\x89PNG")] {
        let out = folder.path().join(name);
        let notes = write(&runs, &options(), &out).unwrap();
        assert!(fs::read(&out).unwrap().starts_with(begin));
        assert!(notes.last().unwrap().ends_with("4 panels of 1 run"), "{notes:?}");
    }
}
