use std::fs;
use std::path::Path;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::terminal::{Asked, asked};
use super::*;

const ALL: Look = Look { color: true, unicode: true };
const ASCII: Look = Look { color: false, unicode: false };

fn line(step: u64) -> String {
    let loss = 40.0 / (1.0 + step as f64 / 100.0);
    format!(
        "{{\"step\":{step},\"tokens\":{},\"loss\":{loss},\"mlm_loss\":{},\"disc_auc\":0.75,\"lr\":0.0005,\
         \"tokens_per_second\":1000.0,\"mfu\":null}}\n",
        step * 100,
        loss / 4.0
    )
}

/// A run of 1000 steps that has made so many.
fn write_run(path: &Path, steps: u64) {
    fs::create_dir_all(path).unwrap();
    fs::write(path.join("config.toml"), "steps = 1000\n").unwrap();
    let lines: String = (1..=steps / 10).map(|n| line(10 * n)).collect();
    fs::write(path.join("metrics.jsonl"), lines).unwrap();
}

/// Holds the directory as a process does that trains in it.
fn held(path: &Path) -> fs::File {
    let lock = fs::File::options().write(true).create(true).truncate(false).open(path.join("lock")).unwrap();
    lock.try_lock().unwrap();
    lock
}

fn open(paths: &[&Path]) -> Dashboard {
    Dashboard::open(&paths.iter().map(|path| path.to_path_buf()).collect::<Vec<_>>()).unwrap()
}

#[test]
fn every_size_is_drawn() {
    let directory = tempfile::tempdir().unwrap();
    let [first, second] = ["電気", "b"].map(|name| directory.path().join(name));
    write_run(&first, 500);
    write_run(&second, 0);
    let _held = held(&first);
    let mut dashboard = open(&[&first, &second]);
    for look in [ALL, ASCII] {
        for (width, height) in [(1, 1), (2, 9), (20, 5), (40, 12), (80, 24), (200, 60), (300, 2)] {
            let text = dashboard.text(look, width, height).unwrap();
            assert_eq!(text.lines().count(), usize::from(height));
            let widest = text.lines().map(|line| ratatui::text::Span::raw(line).width()).max();
            assert!(widest.unwrap() <= usize::from(width), "{text}");
            assert!(look.unicode || text.is_ascii(), "{text}");
        }
        dashboard.press(Key::Single);
    }
    let usual = dashboard.text(ALL, 80, 24).unwrap();
    for part in
        ["電気", "step 500/1000", "50 s left", "1000 tokens/s", "loss", "mlm_loss", "disc_auc", "q leave"]
    {
        assert!(usual.contains(part), "{part}:\n{usual}");
    }
    // Braille.
    assert!(usual.chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c)), "{usual}");
    let small = dashboard.text(ASCII, 40, 12).unwrap();
    assert!(small.contains("step 500/1000") && small.contains("loss") && small.contains('*'), "{small}");
}

/// A process that was killed leaves its lock, and nobody holds it. Who watches neither makes nor changes one.
#[test]
fn whether_a_run_goes_on_is_told_by_its_lock() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path();
    write_run(run, 500);
    let mut dashboard = open(&[run]);
    let mut shown = || {
        dashboard.refresh();
        dashboard.text(ALL, 80, 24).unwrap()
    };
    let stopped = |text: &str| text.contains("step 500/1000  stopped") && !text.contains("left");
    assert!(stopped(&shown()), "{}", shown());
    assert!(!run.join("lock").exists());
    let lock = held(run);
    assert!(shown().contains("step 500/1000  50 s left"), "{}", shown());
    fs::write(run.join("lock"), "holder").unwrap();
    drop(lock);
    let written = || fs::metadata(run.join("lock")).unwrap().modified().unwrap();
    let before = written();
    assert!(stopped(&shown()) && stopped(&shown()), "{}", shown());
    assert_eq!((fs::read_to_string(run.join("lock")).unwrap().as_str(), written()), ("holder", before));
    // Resumed: nothing of the watching keeps the lock, and the file is written anew.
    let lock = held(run);
    lock.set_modified(before + std::time::Duration::from_secs(1)).unwrap();
    assert!(shown().contains("left"), "{}", shown());
    write_run(run, 1000);
    assert!(shown().contains("step 1000/1000  done"));
}

/// Ends of an axis that round to the same number have more digits.
#[test]
fn labels_of_an_axis_differ() {
    let directory = tempfile::tempdir().unwrap();
    let label = |low: f64, high: f64| {
        write_run(directory.path(), 0);
        let lines = format!("{{\"step\":1,\"loss\":{low}}}\n{{\"step\":9,\"loss\":{high}}}\n");
        fs::write(directory.path().join("metrics.jsonl"), lines).unwrap();
        let text = open(&[directory.path()]).text(ALL, 40, 12).unwrap();
        let labels: Vec<&str> =
            text.lines().filter_map(|line| line.split_once('│')).map(|(end, _)| end.trim()).collect();
        let labels: Vec<String> =
            labels.into_iter().filter(|label| !label.is_empty()).map(str::to_owned).collect();
        (labels[1].clone(), labels[0].clone())
    };
    for (low, high, expected) in [
        (17_100.0, 17_400.0, ("17.1k", "17.4k")),
        (17_100.0, 18_400.0, ("17k", "18k")),
        (5e-4, 5.000001e-4, ("5.000000e-4", "5.000001e-4")),
        (0.75, 0.75001, ("0.75000", "0.75001")),
        (35.9999, 36.0, ("35.9999", "36")),
        // Nothing but zeros.
        (0.0, 0.0, ("0", "1")),
    ] {
        let (left, right) = label(low, high);
        assert_eq!((left.as_str(), right.as_str()), expected, "{low} to {high}");
    }
}

/// Where there is little room, words and the beginnings of names go before numbers do.
#[test]
fn narrow_lines_keep_their_first_number() {
    let directory = tempfile::tempdir().unwrap();
    let runs = ["phases-1", "phases-disentangled-2"].map(|name| directory.path().join(name));
    for run in &runs {
        write_run(run, 1000);
        fs::write(run.join("eval.jsonl"), "{\"step\":1000,\"loss\":24.61}\n").unwrap();
    }
    let of = |paths: &[&Path], width| open(paths).text(ALL, width, 40).unwrap();
    let both = of(&[&runs[0], &runs[1]], 40);
    for line in [
        "phases-1: step 1000 held-out: loss 24.61",
        "-disentangled-2: step 1000 E: loss 24.61",
        "s-disentangled-2: step 1000: loss 3.6364",
    ] {
        assert!(both.lines().any(|shown| shown.ends_with(line)), "{line}\n{both}");
    }
    let alone = of(&[&runs[0]], 40);
    assert!(alone.contains("\nstep 1000, held-out text: loss 24.61\n"), "{alone}");
    let wide = of(&[&runs[0], &runs[1]], 80);
    assert!(wide.contains("\nphases-1: step 1000, held-out text: loss 24.61\n"), "{wide}");
}

/// A curve of one row has room for one end of its axis.
#[test]
fn labels_are_not_mixed() {
    let directory = tempfile::tempdir().unwrap();
    write_run(directory.path(), 0);
    let lines = "{\"step\":1,\"loss\":36000}\n{\"step\":9,\"loss\":6667}\n";
    fs::write(directory.path().join("metrics.jsonl"), lines).unwrap();
    let dashboard = open(&[directory.path()]);
    let of = |height| dashboard.text(ALL, 20, height).unwrap();
    assert!(of(5).contains("\n36k │"), "{}", of(5));
    assert!(of(6).contains("\n36k │") && of(6).contains("\n6667│"), "{}", of(6));
}

#[test]
fn keys_choose_what_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    write_run(&run, 300);
    let mut dashboard = open(&[&run]);
    let quantities = dashboard.quantities();
    assert_eq!(quantities, ["loss", "mlm_loss", "disc_auc", "lr", "tokens_per_second"]);
    dashboard.press(Key::Single);
    let title =
        |dashboard: &Dashboard| dashboard.text(ASCII, 80, 12).unwrap().lines().nth(1).unwrap().to_owned();
    assert!(title(&dashboard).starts_with("loss "), "{}", title(&dashboard));
    dashboard.press(Key::Next);
    assert!(title(&dashboard).starts_with("mlm_loss "));
    (0..2).for_each(|_| dashboard.press(Key::Previous));
    assert!(title(&dashboard).starts_with("tokens_per_second "));
    dashboard.press(Key::Over);
    assert!(dashboard.text(ASCII, 80, 12).unwrap().contains("30k tokens"));
    dashboard.press(Key::Over);
    assert!(dashboard.text(ASCII, 80, 12).unwrap().contains(" h"));
    dashboard.press(Key::Run(0));
    dashboard.press(Key::Run(7));
    assert!(dashboard.text(ASCII, 80, 12).unwrap().contains("- run"));
    let key = |code, modifiers| asked(KeyEvent::new(code, modifiers));
    let plain = KeyModifiers::NONE;
    for leaving in [
        key(KeyCode::Char('q'), plain),
        key(KeyCode::Esc, plain),
        key(KeyCode::Char('c'), KeyModifiers::CONTROL),
    ] {
        assert_eq!(leaving, Asked::Leave);
    }
    assert_eq!(key(KeyCode::Char('2'), plain), Asked::Press(Key::Run(1)));
    assert_eq!(key(KeyCode::Char('c'), plain), Asked::Nothing);
}

/// A run that grows, is resumed, is damaged and is deleted does not end who looks at it.
#[test]
fn what_happens_to_a_run_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    write_run(&run, 100);
    let mut dashboard = open(&[&run]);
    let mut shown = || {
        dashboard.refresh();
        dashboard.text(ALL, 100, 30).unwrap()
    };
    assert!(shown().contains("step 100/1000"));
    write_run(&run, 200);
    fs::write(run.join("eval.jsonl"), "{\"step\":200,\"loss\":12.5}\n").unwrap();
    let happened = "{\"step\":150,\"event\":\"changed\",\"key\":\"learning_rate\",\"from\":1,\"to\":2}\n";
    fs::write(run.join("history.jsonl"), happened).unwrap();
    fs::create_dir(run.join("incidents")).unwrap();
    fs::write(run.join("incidents/step-00000160.json"), "{}").unwrap();
    fs::write(run.join("latest"), "checkpoints/step-00000200\n").unwrap();
    let text = shown();
    for part in
        ["step 200/1000", "held-out text: loss 12.5", "changed: key learning_rate", "step 160: its numbers"]
    {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    // Resumed from a checkpoint before, with more steps.
    write_run(&run, 50);
    fs::write(run.join("config.toml"), "steps = 2000\n").unwrap();
    let modified = fs::File::options().write(true).open(run.join("config.toml")).unwrap();
    modified.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(5)).unwrap();
    assert!(shown().contains("step 50/2000"));
    fs::write(run.join("metrics.jsonl"), line(10) + "no JSON\n").unwrap();
    assert!(shown().contains("metrics.jsonl, line 2"));
    fs::remove_dir_all(&run).unwrap();
    assert!(shown().contains("its directory is gone"));
    write_run(&run, 1000);
    assert!(shown().contains("step 1000/1000  done"));
}

#[test]
fn a_fine_tuned_model_is_shown_by_its_epochs() {
    let directory = tempfile::tempdir().unwrap();
    let line = |epoch: u64| {
        format!(
            "{{\"step\":{},\"epoch\":{epoch},\"steps\":9,\"loss\":0.5,\"train_accuracy\":0.7,\"tokens\":100,\
             \"tokens_per_second\":50.0,\"f1\":0.{epoch}}}\n",
            epoch * 9
        )
    };
    fs::write(directory.path().join("metrics.jsonl"), line(1) + &line(2)).unwrap();
    let dashboard = open(&[directory.path()]);
    assert_eq!(dashboard.quantities(), ["loss", "f1", "tokens_per_second", "train_accuracy"]);
    let text = dashboard.text(ALL, 80, 24).unwrap();
    assert!(text.contains("epoch 2, step 18") && text.contains("f1  0.2"), "{text}");

    // The best model so far is there long before the end.
    let kept = |options: &str| {
        let training =
            format!("{{\"command\":\"inazuma finetune tag {options} --seed 1\",\"best_epoch\":1}}");
        fs::write(directory.path().join("training.json"), training).unwrap();
        open(&[directory.path()]).text(ALL, 80, 24).unwrap()
    };
    assert!(kept("--epochs 3").contains("epoch 2, step 18  stopped"));
    assert!(kept("--epochs 2").contains("epoch 2, step 18  done"));
    assert!(kept("--patience 1 --epochs 9").contains("epoch 2, step 18  done"));
    let _lock = held(directory.path());
    let goes_on = kept("--patience 2 --epochs 9");
    assert!(goes_on.contains("epoch 2, step 18  50 tokens/s"), "{goes_on}");
}

/// Of several trials one process holds the folder above.
#[test]
fn trials_are_stopped_together() {
    let directory = tempfile::tempdir().unwrap();
    let trial = directory.path().join("trial-1");
    fs::create_dir(&trial).unwrap();
    fs::write(trial.join("metrics.jsonl"), "{\"step\":9,\"epoch\":1,\"loss\":0.5}\n").unwrap();
    let shown = || open(&[directory.path()]).text(ALL, 80, 24).unwrap();
    let lock = held(directory.path());
    assert!(!shown().contains("stopped"), "{}", shown());
    drop(lock);
    assert!(shown().contains("epoch 1, step 9  stopped"), "{}", shown());
}
