//! What a person sees: plain lines in pipes, one line that rewrites itself on a terminal, and nothing of it afterwards.

use std::path::Path;
use std::process::{Command, Output};

use ratatui::text::Span;

use crate::command_line::{TRAIN, prepared};

fn with(folder: &Path, arguments: &str, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inazuma"));
    command.args(arguments.split_whitespace()).current_dir(folder).env("INAZUMA_CACHE", folder.join("cache"));
    command.env_remove("RUST_LOG").envs(variables.iter().copied());
    let output = command.output().expect("the binary starts");
    (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
}

#[test]
fn lines_in_pipes_are_plain() {
    let (code, errors) = with(prepared(), &format!("{TRAIN} --out piped"), &[("RUST_LOG", " ")]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(!errors.contains(['\x1b', '\r']), "{errors:?}");
    let steps: Vec<&str> = errors.lines().filter(|line| line.starts_with("step ")).collect();
    let lines: Vec<&&str> = steps.iter().filter(|line| line.contains("  loss ")).collect();
    assert_eq!(lines.len(), 3, "{errors}");
    assert!(lines[0].starts_with("step 2/6  loss ") && lines[0].contains(" tokens/s  "), "{errors}");
    let last: Vec<&str> = errors.lines().rev().take(2).collect();
    assert!(
        last[1].starts_with("done: 6 steps") && last[0].starts_with("the model is in piped; next: inazuma "),
        "{errors}"
    );
    // What it is about to do.
    assert!(errors.contains("piped: step 0 of 6 on "), "{errors}");
    for name in ["  parameters  ", "  data        ", "  steps       ", "  checkpoints "] {
        assert_eq!(errors.lines().filter(|line| line.starts_with(name)).count(), 1, "{name}: {errors}");
    }
}

#[test]
fn as_much_is_said_as_is_wanted() {
    let folder = prepared();
    assert_eq!(with(folder, &format!("{TRAIN} --out hushed --quiet"), &[]), (Some(0), String::new()));
    let off = [("RUST_LOG", "off")];
    assert_eq!(with(folder, &format!("--quiet {TRAIN} --out hushed-first"), &off), (Some(0), String::new()));
    // An error is said in any case, in one line.
    for (arguments, variables) in [("--quiet store info nowhere", &[][..]), ("store info nowhere", &off[..])]
    {
        let (code, errors) = with(folder, arguments, variables);
        assert_eq!((code, errors.lines().count()), (Some(1), 1), "{errors}");
        assert!(errors.starts_with("inazuma: error: ") && errors.contains("nowhere"), "{errors}");
    }
    let (code, errors) = with(folder, &format!("{TRAIN} --out loud"), &[("RUST_LOG", "debug")]);
    assert!(code == Some(0) && errors.contains("store: ") && errors.contains(", weight 1\n"), "{errors}");
    let (code, errors) = with(folder, &format!("{TRAIN} --out dated --verbose"), &[]);
    assert!(code == Some(0) && errors.contains("Z DEBUG store: ") && errors.contains("Z INFO  "), "{errors}");
    let (code, errors) = with(folder, "store info store", &[("RUST_LOG", "inazuma=loudly")]);
    assert!(code == Some(0) && errors.contains("warning: RUST_LOG=inazuma=loudly: "), "{errors}");
    let (code, errors) = with(folder, "store info store --quiet --verbose", &[]);
    assert_eq!(code, Some(2), "{errors}");
}

/// What a terminal shows in the end of what is written to it, and the longest line of progress that it showed.
fn shown(written: &str) -> (Vec<String>, usize) {
    let (mut lines, mut cursor, mut longest) = (vec![Vec::new()], 0, 0);
    let mut characters = written.chars();
    while let Some(character) = characters.next() {
        let line: &mut Vec<char> = lines.last_mut().expect("one");
        match character {
            '\r' => cursor = 0,
            '\n' => {
                lines.push(Vec::new());
                cursor = 0;
            }
            '\x1b' => {
                let code: String =
                    characters.by_ref().take_while(|next| *next != 'm' && *next != 'K').collect();
                match code.as_str() {
                    "[2" => line.clear(),
                    "[0" | "[31" | "[33" => {}
                    code => panic!("unexpected {code:?} in {written:?}"),
                }
            }
            _ => {
                line.resize(line.len().max(cursor + 1), ' ');
                line[cursor] = character;
                cursor += 1;
                let text: String = line.iter().collect();
                // Lines that stay may be as long as they like.
                if text.contains("/30 ") && !text.contains("saved") {
                    longest = longest.max(Span::raw(text).width());
                }
            }
        }
    }
    (lines.into_iter().map(|line| line.into_iter().collect()).collect(), longest)
}

/// Runs in a terminal of so many columns; nothing where there is none to be had.
fn in_a_terminal(folder: &Path, columns: usize, command: &str, variables: &[(&str, &str)]) -> Option<Output> {
    let program = env!("CARGO_BIN_EXE_inazuma");
    let script = format!("stty cols {columns} && {}", command.replace("inazuma ", &format!("{program} ")));
    let mut terminal = Command::new("script");
    terminal
        .args(["-qec", &script, "/dev/null"])
        .current_dir(folder)
        .env("INAZUMA_CACHE", folder.join("cache"));
    terminal
        .env("TERM", "xterm")
        .env_remove("RUST_LOG")
        .env_remove("NO_COLOR")
        .envs(variables.iter().copied());
    match terminal.output() {
        Ok(output) => Some(output),
        Err(error) => {
            crate::testing::skipped(&format!("no `script` of util-linux: {error}"));
            None
        }
    }
}

#[test]
fn the_line_of_progress_fits_and_goes() {
    let folder = prepared();
    // Short intervals and checkpoints between them: lines come while it stands.
    let train = TRAIN.replace("steps=6", "steps=30");
    for columns in [80, 40] {
        let command = format!("inazuma {train} --out on-{columns}");
        let Some(output) = in_a_terminal(folder, columns, &command, &[]) else { return };
        let written = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(output.status.success(), "{written}");
        let (lines, longest) = shown(&written);
        assert!(written.contains("/30 "), "{written:?}");
        assert!(0 < longest && longest < columns, "{longest} of {columns}: {written:?}");
        // It is gone, what was said beside it is whole, and there are no lines of intervals.
        let steps: Vec<&String> = lines.iter().filter(|line| line.contains("/30")).collect();
        assert!(steps.is_empty(), "{steps:?} of {lines:#?}");
        let saved =
            lines.iter().filter(|line| line.starts_with("step ") && line.contains(" saved: ")).count();
        assert_eq!(saved, 10, "{lines:#?}");
        assert!(lines.iter().any(|line| line.starts_with("done: 30 steps")), "{lines:#?}");
    }
    let command = format!("inazuma {TRAIN} --out on-hushed --quiet");
    let output = in_a_terminal(folder, 80, &command, &[]).expect("there was one before");
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{:?}",
        String::from_utf8_lossy(&output.stdout)
    );
}

/// What stays on a terminal is broken at spaces; a pipe gets whole lines.
#[test]
fn long_notes_go_on_below() {
    let folder = prepared();
    let command = format!("inazuma {TRAIN} --out on-narrow");
    let Some(output) = in_a_terminal(folder, 44, &command, &[]) else { return };
    let written = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{written}");
    let (lines, _) = shown(&written);
    for line in lines.iter().filter(|line| !line.trim_start().starts_with("inazuma ")) {
        assert!(Span::raw(line.as_str()).width() < 44, "{line:?} of {lines:#?}");
    }
    let at = lines.iter().position(|line| line.starts_with("  parameters  ")).expect("parameters");
    assert!(lines[at + 1].starts_with("    ") && !lines[at + 1].trim().is_empty(), "{lines:#?}");
    let (code, errors) = with(folder, &format!("{TRAIN} --out on-wide"), &[]);
    assert_eq!(code, Some(0), "{errors}");
    let whole = |line: &&str| line.starts_with("  parameters  ") && line.ends_with(" of the generator's own");
    assert_eq!(errors.lines().filter(whole).count(), 1, "{errors}");
    assert!(errors.contains("; the warm-up is longer than the run, which never"), "{errors}");
}

/// A command that reads what is typed says so, once; one that reads a pipe does not.
#[test]
fn who_waits_for_a_text_says_so() {
    let folder = prepared();
    let encode = "inazuma tokenizer encode --model pieces.model";
    let Some(output) = in_a_terminal(folder, 80, encode, &[]) else { return };
    let written = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(written.matches("waiting for a text a line on stdin").count(), 1, "{written:?}");
    let piped =
        in_a_terminal(folder, 80, &format!("echo 稲妻 | {encode}"), &[]).expect("there was one before");
    let written = String::from_utf8(piped.stdout).expect("UTF-8");
    assert!(piped.status.success() && !written.contains("waiting"), "{written:?}");
}

#[test]
fn an_interrupted_run_leaves_a_command_to_paste() {
    let folder = prepared();
    let place = folder.join("東京 の 記事");
    std::fs::create_dir_all(&place).expect("a folder");
    let train =
        TRAIN.replace("steps=6", "steps=3000").replace("--store store", "--store '東京 の 記事/the store'");
    std::fs::copy(folder.join("store"), place.join("the store")).expect("copied");
    let train = train.replace("checkpoint_every=3", "checkpoint_every=1000");
    let command =
        format!("timeout --foreground -s INT 6 inazuma {train} --out '東京 の 記事/it'\\''s a run'");
    let Some(output) = in_a_terminal(folder, 80, &command, &[("NO_COLOR", "1")]) else { return };
    let written = String::from_utf8(output.stdout).expect("UTF-8");
    let (lines, _) = shown(&written);
    let mut last = lines.iter().rev().filter(|line| !line.trim().is_empty());
    let command = last.next().expect("a line");
    // The command is whole, on a line of its own: the terminal may break it where it likes.
    let said = last.next().expect("a line");
    assert!(
        said.starts_with("inazuma: interrupted after step ") && said.ends_with("go on with:"),
        "{lines:#?}"
    );
    assert!(!written.contains("\x1b[3"), "{written:?}");
    let words = command.trim_start().strip_prefix("inazuma ").expect("a command");
    let pasted = Command::new("sh").args(["-c", &format!("printf '%s\\n' {words}")]).output().expect("sh");
    let pasted = String::from_utf8(pasted.stdout).expect("UTF-8");
    let words: Vec<&str> = pasted.lines().collect();
    let expected =
        "pretrain,--store,東京 の 記事/the store,--out,東京 の 記事/it's a run,--device,cpu,--resume";
    assert_eq!(words.join(","), expected);
}

/// An error takes the line away as well, and is coloured only where colours are wanted.
#[test]
fn errors_are_coloured_on_terminals_alone() {
    let folder = prepared();
    for (variables, coloured) in
        [(&[][..], true), (&[("NO_COLOR", "1")][..], false), (&[("TERM", "dumb")][..], false)]
    {
        let Some(output) = in_a_terminal(folder, 80, "inazuma store info nowhere", variables) else { return };
        let written = String::from_utf8(output.stdout).expect("UTF-8");
        assert_eq!(written.contains("\x1b[31minazuma: error: "), coloured, "{written:?}");
        assert_eq!(written.contains('\x1b'), coloured, "{written:?}");
    }
}
