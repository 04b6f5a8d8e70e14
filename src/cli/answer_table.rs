//! Questions beside the answers that a model gave and those that are known, for people to judge.

use std::io::Write;

use anyhow::Result;

use crate::tasks::squad::score::squad_pair;
use crate::tasks::squad::{Answer, Answers};
use crate::view::columns::{fitted, terminal_width};

/// Widths of question, answer and gold: they share what four columns of marks leave of the line.
fn widths(columns: usize) -> [usize; 3] {
    let left = columns.saturating_sub(4 + 3 * 2).max(18);
    let answer = left / 4;
    [left - 2 * answer, answer, answer]
}

/// At most so many of them, evenly spread, and the F1 of each.
pub fn write(out: &mut dyn Write, answers: &Answers, most: usize) -> Result<()> {
    let columns = terminal_width();
    let shown = most.min(answers.0.len());
    let row = |f1: &str, texts: [&str; 3]| {
        let mut line = format!("{f1:>4}");
        for (text, width) in texts.iter().zip(widths(columns)) {
            line.push_str("  ");
            line.push_str(&fitted(&text.replace(['\n', '\t'], " "), width));
        }
        line.trim_end().to_owned()
    };
    writeln!(out, "{}", row("F1", ["question", "answer", "known answer"]))?;
    for number in 0..shown {
        let answer = &answers.0[number * answers.0.len() / shown];
        let (_, f1) = squad_pair(&answer.golds, &answer.text);
        writeln!(
            out,
            "{}",
            row(
                &format!("{:.0}", 100.0 * f1),
                [answer.question.as_str(), or_none(&answer.text), gold(answer)]
            )
        )?;
    }
    if shown < answers.0.len() {
        writeln!(out, "{shown} of {} questions", answers.0.len())?;
    }
    Ok(())
}

/// The known answer that is nearest.
fn gold(answer: &Answer) -> &str {
    let f1 = |gold: &String| squad_pair(std::slice::from_ref(gold), &answer.text).1;
    let nearest = answer.golds.iter().max_by(|a, b| f1(a).total_cmp(&f1(b)));
    or_none(nearest.map_or("", String::as_str))
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "(none)" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::squad::answers::Prediction;
    use crate::view::columns::width;

    #[test]
    fn the_table_fits_however_long_questions_are() {
        let answer = |question: &str, text: &str| Answer {
            id: "q".into(),
            question: question.into(),
            golds: vec!["雲の底".into(), "積乱雲".into()],
            text: text.into(),
            no_answer: None,
            prediction: Prediction::default(),
        };
        let long = "稲妻はどこからどこまで走りますか、そしてそれはなぜですか。".repeat(3);
        let answers = Answers(vec![answer(&long, "積乱雲"), answer("何？", ""), answer("a", &long)]);
        let mut text = Vec::new();
        write(&mut text, &answers, 3).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.lines().all(|line| width(line) <= 80), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[1].starts_with(" 100  稲妻") && lines[1].ends_with("積乱雲"), "{text}");
        assert!(lines[2].contains("(none)") && lines[3].contains('~'), "{text}");
        let mut text = Vec::new();
        write(&mut text, &answers, 2).unwrap();
        assert!(String::from_utf8(text).unwrap().ends_with("2 of 3 questions\n"));
    }
}
