//! Questions about contexts: SQuAD's JSON, versions 1.1 and 2.0 (JaQuAD and JSQuAD as they come), and lines of `predict`.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::data::{Problems, Purpose, read_text};
use super::source::Line;

/// An answer: a substring of the context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub text: String,
    /// Where it begins in the context, in code points.
    pub start: usize,
}

/// A question about a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub id: String,
    pub title: String,
    pub question: String,
    pub context: Arc<str>,
    /// Training: at least one, each of them where `start` says, or none where `impossible`. Evaluation: as the
    /// file has them; a `start` may be wrong where the text is not in the context.
    pub answers: Vec<Answer>,
    /// SQuAD 2.0: the context does not answer the question.
    pub impossible: bool,
}

impl Question {
    /// A question that was asked, without known answers.
    ///
    /// Errors: a line without question or context, or with an empty one.
    pub fn asked(line: &Line) -> Result<Question> {
        let text = |key| {
            let text = line.text(key)?;
            ensure!(!text.trim().is_empty(), "line {}: \"{key}\" is empty", line.number);
            Ok(text)
        };
        Ok(Question {
            id: line.id(),
            title: String::new(),
            question: text("question")?,
            context: text("context")?.into(),
            answers: Vec::new(),
            impossible: false,
        })
    }
}

/// The questions of a file that can be used, and what was wrong with others.
#[derive(Clone, Debug)]
pub struct Dataset {
    pub questions: Vec<Question>,
    pub problems: Problems,
}

/// What a prediction is scored against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gold {
    pub id: String,
    /// `[""]` where the question is impossible, or has no answer.
    pub texts: Vec<String>,
}

/// The gold answers of questions that were read for evaluation.
pub fn golds(questions: &[Question]) -> Vec<Gold> {
    let gold = |question: &Question| {
        let mut texts: Vec<String> = question.answers.iter().map(|answer| answer.text.clone()).collect();
        if question.impossible || texts.is_empty() {
            texts = vec![String::new()];
        }
        Gold { id: question.id.clone(), texts }
    };
    questions.iter().map(gold).collect()
}

#[derive(Deserialize)]
struct RawFile {
    data: Vec<RawArticle>,
}

#[derive(Deserialize)]
struct RawArticle {
    #[serde(default)]
    title: Option<String>,
    paragraphs: Vec<RawParagraph>,
}

#[derive(Deserialize)]
struct RawParagraph {
    context: String,
    qas: Vec<RawQuestion>,
}

#[derive(Deserialize)]
struct RawQuestion {
    #[serde(default)]
    id: Option<Value>,
    question: String,
    #[serde(default)]
    answers: Option<Vec<RawAnswer>>,
    #[serde(default)]
    is_impossible: Option<bool>,
}

#[derive(Deserialize)]
struct RawAnswer {
    text: String,
    #[serde(default)]
    answer_start: Option<i64>,
}

const LAYOUT: &str = r#"{"data":[{"paragraphs":[{"context":…,"qas":[{"id","question","answers"}]}]}]}"#;

/// Reads a file for training (unusable questions are skipped, missing ids made up; all reported) or for
/// evaluation (nothing is skipped).
///
/// Errors: not SQuAD's JSON (with line and column), no question in it, and, in evaluation, a question without
/// an id or with another's.
pub fn read(path: &Path, purpose: Purpose) -> Result<Dataset> {
    let text = read_text(path)?;
    let name = path.display();
    ensure!(!text.trim().is_empty(), "{name} is empty; SQuAD JSON is {LAYOUT}");
    let file: RawFile = serde_json::from_str(&text)
        .map_err(|error| anyhow!("{name}: not SQuAD JSON ({error}); it is {LAYOUT}"))?;
    drop(text);
    let mut reader =
        Reader { purpose, ids: HashSet::new(), questions: Vec::new(), problems: Problems::default() };
    for (article, raw) in file.data.into_iter().enumerate() {
        let title = raw.title.unwrap_or_default();
        for (paragraph, raw) in raw.paragraphs.into_iter().enumerate() {
            let context = Context::new(&raw.context);
            for (question, raw) in raw.qas.into_iter().enumerate() {
                let place =
                    format!("article {} paragraph {} question {}", article + 1, paragraph + 1, question + 1);
                reader
                    .question(&title, &context, raw, place)
                    .map_err(|error| anyhow!("{name}: {error:#}"))?;
            }
        }
    }
    let Reader { questions, problems, .. } = reader;
    if questions.is_empty() {
        let reasons = problems.report(path);
        ensure!(!reasons.is_empty(), "{name} holds no questions");
        bail!("{name} holds no question that can be used ({})", reasons.join("; "));
    }
    Ok(Dataset { questions, problems })
}

/// A context and the byte at which each of its code points begins.
struct Context {
    text: Arc<str>,
    offsets: Vec<usize>,
}

impl Context {
    fn new(text: &str) -> Context {
        Context { text: text.into(), offsets: text.char_indices().map(|(byte, _)| byte).collect() }
    }

    fn holds(&self, text: &str, start: usize) -> bool {
        self.offsets.get(start).is_some_and(|&byte| self.text[byte..].starts_with(text))
    }

    /// The occurrence of a text that begins nearest to a place, the first of two.
    fn nearest(&self, text: &str, place: i64) -> Option<usize> {
        let starts = (0..self.offsets.len()).filter(|&start| self.holds(text, start));
        starts.min_by_key(|&start| (start as i64).abs_diff(place))
    }
}

struct Reader {
    purpose: Purpose,
    ids: HashSet<String>,
    questions: Vec<Question>,
    problems: Problems,
}

impl Reader {
    fn question(&mut self, title: &str, context: &Context, raw: RawQuestion, place: String) -> Result<()> {
        let id = self.id(raw.id, &place)?;
        let training = self.purpose == Purpose::Train;
        let impossible = raw.is_impossible.unwrap_or(false);
        let raw_answers = raw.answers.unwrap_or_default();
        for (text, what) in [(&*context.text, "empty context"), (&*raw.question, "empty question")] {
            if text.trim().is_empty() {
                let outcome = if training { "skipped" } else { "kept" };
                self.problems.add(&id, format!("{what} ({outcome})"));
                if training {
                    return Ok(());
                }
            }
        }
        let mut answers = Vec::new();
        if impossible && !raw_answers.is_empty() {
            self.problems.add(&id, "impossible, yet with answers (taken as impossible)");
        } else if !impossible {
            let had_some = !raw_answers.is_empty();
            answers.extend(raw_answers.into_iter().filter_map(|raw| self.answer(&id, context, raw)));
            if answers.is_empty() {
                let what = match (training, had_some) {
                    (true, true) => "no usable answer (question skipped)",
                    (true, false) => "no answers, and not impossible (skipped)",
                    (false, _) => "no answers (only an empty prediction is right)",
                };
                self.problems.add(&id, what);
                if training {
                    return Ok(());
                }
            }
        }
        let (title, context) = (title.to_string(), context.text.clone());
        self.questions.push(Question { id, title, question: raw.question, context, answers, impossible });
        Ok(())
    }

    /// The id as text; its place where it is missing.
    fn id(&mut self, id: Option<Value>, place: &str) -> Result<String> {
        let given = match id {
            Some(Value::String(id)) if !id.is_empty() => Some(id),
            Some(Value::Number(id)) => Some(id.to_string()),
            _ => None,
        };
        let id = match (given, self.purpose) {
            (Some(id), _) => id,
            (None, Purpose::Evaluate) => bail!("{place} has no id; give each question one to be scored by"),
            (None, Purpose::Train) => {
                self.problems.add(place, "question without an id (named by its place)");
                place.to_string()
            }
        };
        if !self.ids.insert(id.clone()) {
            ensure!(
                self.purpose == Purpose::Train,
                "{place} has the id {id:?} of an earlier question; ids must differ to be scored by"
            );
            self.problems.add(&id, "id used by several questions (all kept)");
        }
        Ok(id)
    }

    /// An answer at its place in the context; training leaves out those that have none.
    fn answer(&mut self, id: &str, context: &Context, raw: RawAnswer) -> Option<Answer> {
        let training = self.purpose == Purpose::Train;
        if raw.text.is_empty() {
            self.problems.add(id, "empty answer (left out)");
            return None;
        }
        let place = raw.answer_start.unwrap_or(0);
        let right = usize::try_from(place).ok().filter(|&start| context.holds(&raw.text, start));
        let start = match right.or_else(|| context.nearest(&raw.text, place)) {
            Some(start) => start,
            None if training => {
                self.problems.add(id, "answer is not in the context (left out)");
                return None;
            }
            None => {
                self.problems.add(id, "answer is not in the context (kept as a gold text)");
                usize::try_from(place).unwrap_or(0)
            }
        };
        if right.is_none() && context.holds(&raw.text, start) {
            self.problems.add(id, "answer_start is wrong (moved to the nearest occurrence)");
        }
        Some(Answer { text: raw.text, start })
    }
}

#[cfg(test)]
#[path = "questions_tests.rs"]
mod tests;
