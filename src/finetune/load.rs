//! From files to the data sets of a task.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::tokenizer::Tokenizer;

use super::data::records::{
    ChoiceExample, Columns, Goal, Selection, Table, TaggedText, TextExample, choice_examples, hold_out,
    tagged_texts, text_examples,
};
use super::data::squad::{self, Question};
use super::data::{Problems, Purpose, labels::Labels};
use super::package::{Description, TaskKind};
use super::tags::TagLabels;
use super::tasks::Data;
use super::tasks::choice::{self, ChoiceData};
use super::tasks::squad::SquadData;
use super::tasks::tag::TagData;
use super::tasks::text::{self, TextData};

/// A file and which part of it is meant.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub path: PathBuf,
    pub columns: Columns,
    pub selection: Option<Selection>,
    /// At most so many examples, evenly spread over the file.
    pub limit: Option<usize>,
}

/// Examples as they stand in a file.
pub enum Examples {
    Squad(Vec<Question>),
    Text(Vec<TextExample>),
    Choice(Vec<ChoiceExample>),
    Tag(Vec<TaggedText>),
}

/// JSICK holds its splits in one file, under this column.
const JSICK_SPLIT: &str = "data";

fn table(source: &Source, purpose: Purpose) -> Result<Table> {
    let table = Table::read(&source.path)?;
    if let Some(selection) = &source.selection {
        return table.select(selection);
    }
    if table.has("sentence_A_Ja") && table.has(JSICK_SPLIT) {
        let value = if purpose == Purpose::Train { "train" } else { "trial" };
        eprintln!("{}: JSICK; taking the rows with {JSICK_SPLIT}={value}", source.path.display());
        return table.select(&Selection { column: JSICK_SPLIT.into(), value: value.into() });
    }
    Ok(table)
}

/// At most `limit` of the items, evenly spread.
fn spread<T>(items: Vec<T>, limit: Option<usize>) -> Vec<T> {
    let Some(limit) = limit.filter(|&limit| limit < items.len()) else { return items };
    let (count, mut taken) = (items.len(), 0);
    let keep = |index: &usize| {
        let due = (index + 1) * limit / count;
        std::mem::replace(&mut taken, due) < due
    };
    let chosen: Vec<usize> = (0..count).filter(keep).collect();
    let mut chosen = chosen.into_iter().peekable();
    let kept = items.into_iter().enumerate().filter(|(index, _)| chosen.next_if_eq(index).is_some());
    kept.map(|(_, item)| item).collect()
}

/// Reads the examples of a task.
pub fn read(task: TaskKind, source: &Source, purpose: Purpose) -> Result<(Examples, Problems)> {
    Ok(match task {
        TaskKind::Squad => {
            let dataset = squad::read(&source.path, purpose)?;
            (Examples::Squad(spread(dataset.questions, source.limit)), dataset.problems)
        }
        TaskKind::Classify | TaskKind::Regress => {
            let goal = if task == TaskKind::Classify { Goal::Class } else { Goal::Score };
            let table = table(source, purpose)?;
            let (examples, problems) = text_examples(&table, &source.columns, goal, purpose)?;
            (Examples::Text(spread(examples, source.limit)), problems)
        }
        TaskKind::MultipleChoice => {
            let (examples, problems) = choice_examples(&table(source, purpose)?, &source.columns, purpose)?;
            (Examples::Choice(spread(examples, source.limit)), problems)
        }
        TaskKind::Tag => {
            let (texts, problems) = tagged_texts(&table(source, purpose)?, &source.columns, purpose)?;
            (Examples::Tag(spread(texts, source.limit)), problems)
        }
    })
}

impl Examples {
    /// Sets a share aside, whole documents (or contexts) together.
    pub fn hold_out(self, share: f64) -> (Examples, Examples) {
        match self {
            Examples::Squad(items) => {
                let (train, dev) = hold_out(items, share, |question| &question.context);
                (Examples::Squad(train), Examples::Squad(dev))
            }
            Examples::Text(items) => {
                let (train, dev) = hold_out(items, share, |example| &example.id);
                (Examples::Text(train), Examples::Text(dev))
            }
            Examples::Choice(items) => {
                let (train, dev) = hold_out(items, share, |example| &example.id);
                (Examples::Choice(train), Examples::Choice(dev))
            }
            Examples::Tag(items) => {
                let (train, dev) = hold_out(items, share, |text| &text.group);
                (Examples::Tag(train), Examples::Tag(dev))
            }
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Examples::Squad(items) => items.len(),
            Examples::Text(items) => items.len(),
            Examples::Choice(items) => items.len(),
            Examples::Tag(items) => items.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Completes the description with what the training examples say: labels, choices, range, answerability.
    pub fn describe(&self, description: &mut Description) -> Result<()> {
        match self {
            Examples::Squad(questions) => {
                description.answerability = questions.iter().any(|question| question.impossible);
            }
            Examples::Text(examples) if description.task == TaskKind::Regress => {
                description.range = text::range(examples)?;
            }
            Examples::Text(examples) => {
                description.labels = Labels::from_training(examples)?.names().to_vec();
            }
            Examples::Choice(examples) => description.choices = choice::choices(examples)?,
            Examples::Tag(texts) => description.labels = TagLabels::from_training(texts)?.names().to_vec(),
        }
        Ok(())
    }

    /// Encodes the examples for a model.
    pub fn prepare(
        self,
        problems: Problems,
        description: &Description,
        tokenizer: &Tokenizer,
        training: bool,
        no_answer_threshold: f32,
    ) -> Result<Box<dyn Data>> {
        Ok(match self {
            Examples::Squad(questions) => Box::new(SquadData::new(
                questions,
                problems,
                description,
                tokenizer,
                training,
                no_answer_threshold,
            )?),
            Examples::Text(examples) => Box::new(TextData::new(examples, problems, description, tokenizer)?),
            Examples::Choice(examples) => {
                Box::new(ChoiceData::new(examples, problems, description, tokenizer)?)
            }
            Examples::Tag(texts) => Box::new(TagData::new(texts, problems, description, tokenizer)?),
        })
    }
}

/// Says what was wrong with the examples of a file, on stderr.
pub fn report(data: &dyn Data, path: &Path) {
    for line in data.problems().report(path) {
        eprintln!("{line}");
    }
}

/// Refuses data in which nothing is left.
pub fn ensure_any(examples: &Examples, path: &Path) -> Result<()> {
    ensure!(!examples.is_empty(), "{}: no example is left to use", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn a_limit_takes_evenly() {
        assert_eq!(spread((0..10).collect(), Some(5)), [1, 3, 5, 7, 9]);
        assert_eq!(spread((0..10).collect(), Some(3)), [3, 6, 9]);
        assert_eq!(spread((0..3).collect(), Some(3)), [0, 1, 2]);
        assert_eq!(spread((0..3).collect(), None), [0, 1, 2]);
        assert_eq!(spread((0..1000).collect::<Vec<_>>(), Some(999)).len(), 999);
    }
}
