//! Question answering in SQuAD format: answers are substrings of a context.

use anyhow::{Result, bail, ensure};
use clap::{ArgMatches, Args, Command, FromArgMatches};

use crate::tasks::data::{Problems, Purpose};
use crate::tasks::lesson::{AnyHead, Lesson, sample};
use crate::tasks::questions::{self, Question};
use crate::tasks::source::{Line, Source};
use crate::tasks::task::{
    Data, Defaults, Description, Example, Examples, HuggingFace, Preparation, Settings, Task, to_settings,
};

pub mod answers;
mod data;
pub mod head;
pub mod joint_head;
mod predictions;
pub mod score;
pub mod settings;
pub mod thresholds;
mod window_scores;

pub use predictions::{Answer, Answers};

use data::SquadData;
use head::{Span, Target};
use joint_head::JointSpan;
use settings::{PredictionSettings, SpanHead, SquadSettings};

pub struct Squad;

impl Squad {
    pub const NAME: &str = "squad";
}

impl Task for Squad {
    fn name(&self) -> &'static str {
        Squad::NAME
    }

    fn about(&self) -> &'static str {
        "Question answering in SQuAD format: answers are substrings of a context"
    }

    fn defaults(&self) -> Defaults {
        Defaults { epochs: 2, learning_rate: 3e-5, max_length: 512 }
    }

    fn options(&self, command: Command) -> Command {
        SquadSettings::augment_args(command)
    }

    fn settings(&self, options: &ArgMatches) -> Result<Settings> {
        let settings = SquadSettings::from_arg_matches(options)?;
        for (name, value) in [
            ("--doc-stride", settings.doc_stride),
            ("--max-answer-length", settings.max_answer_length),
            ("--n-best", settings.n_best),
        ] {
            if value == 0 {
                bail!("{name} is 0; it must be 1 or more")
            }
        }
        to_settings(&settings)
    }

    fn prediction_options(&self, command: Command) -> Command {
        PredictionSettings::augment_args(command)
    }

    fn prediction_settings(&self, options: &ArgMatches) -> Result<Settings> {
        to_settings(&PredictionSettings::from_arg_matches(options)?)
    }

    fn check(&self, description: &Description) -> Result<()> {
        let settings: SquadSettings = description.settings()?;
        ensure!(settings.doc_stride > 0 && settings.n_best > 0, "a length is 0");
        Ok(())
    }

    fn read(&self, source: &Source, purpose: Purpose) -> Result<(Box<dyn Examples>, Problems)> {
        let dataset = questions::read(&source.path, purpose)?;
        Ok((Box::new(dataset.questions), dataset.problems))
    }

    fn input(&self) -> &'static str {
        r#"{"question", "context"}"#
    }

    fn parse(&self, lines: &[Line]) -> Result<Box<dyn Examples>> {
        Ok(Box::new(lines.iter().map(Question::asked).collect::<Result<Vec<_>>>()?))
    }

    fn head(&self, description: &Description) -> Result<Box<dyn AnyHead>> {
        let settings: SquadSettings = description.settings()?;
        Ok(match settings.span_head {
            SpanHead::Plain => Box::new(Span),
            SpanHead::Joint => Box::new(settings.joint()),
        })
    }

    fn huggingface(&self, description: &Description) -> Result<HuggingFace> {
        let settings: SquadSettings = description.settings()?;
        let class = match settings.span_head {
            SpanHead::Plain => Some("ElectraForQuestionAnswering"),
            SpanHead::Joint => None,
        };
        let pipeline_tag = "question-answering";
        Ok(HuggingFace { class, pipeline_tag, labels: Vec::new(), problem_type: None })
    }

    fn samples(&self) -> Vec<Box<dyn Lesson>> {
        let target = |length: u32| Target {
            first: length / 2,
            last: length - 2,
            context: length / 2..length - 1,
            impossible: length.is_multiple_of(2),
        };
        vec![sample(Span, target), sample(JointSpan { answerability: true }, target)]
    }

    fn goldens(&self) -> &'static [&'static str] {
        &["span", "joint", "joint-answerability"]
    }
}

impl Example for Question {
    fn group(&self) -> &str {
        &self.context
    }

    fn describe(questions: &[Question], settings: &mut Settings) -> Result<()> {
        let impossible = questions.iter().any(|question| question.impossible);
        settings.insert("answerability".into(), impossible.into());
        Ok(())
    }

    fn prepare(questions: Vec<Question>, preparation: Preparation<'_>) -> Result<Box<dyn Data>> {
        Ok(Box::new(SquadData::new(questions, preparation)?))
    }
}
