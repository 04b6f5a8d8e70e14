//! Tasks on the command line: their names, and the options that only some of them have, as the registry says.

use anyhow::Result;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{ArgMatches, Command};

use crate::finetune::package;
use crate::tasks::registry::{TASKS, find};
use crate::tasks::task::{Defaults, Description, Settings, Task};

/// Reads the name of a task.
pub fn task_parser() -> impl TypedValueParser<Value = &'static dyn Task> {
    let values = TASKS.iter().map(|task| PossibleValue::new(task.name()).help(task.about()));
    PossibleValuesParser::new(values).try_map(|name| find(&name).ok_or("no such task"))
}

/// A default of `finetune` that tasks may differ in, for the help: `squad 2, others 3`.
pub fn defaults_by_task<T: ToString>(value: impl Fn(Defaults) -> T) -> String {
    by_task(TASKS.iter().map(|task| (task.name(), value(task.defaults()).to_string())).collect())
}

/// Values by task; the commonest is that of the others.
fn by_task(values: Vec<(&str, String)>) -> String {
    let count = |one: &str| values.iter().filter(|(_, value)| value == one).count();
    let commonest = values.iter().map(|(_, value)| value).max_by_key(|value| count(value));
    let others = commonest.cloned().unwrap_or_default();
    let differing = values.iter().filter(|(_, value)| *value != others);
    let mut listed: Vec<String> = differing.map(|(task, value)| format!("{task} {value}")).collect();
    listed.push(if listed.is_empty() { others } else { format!("others {others}") });
    listed.join(", ")
}

/// What `predict` reads, for the help: tasks that read the same stand together.
pub fn inputs_by_task() -> String {
    let mut inputs: Vec<(&str, Vec<&str>)> = Vec::new();
    for task in TASKS {
        match inputs.iter_mut().find(|(input, _)| *input == task.input()) {
            Some((_, tasks)) => tasks.push(task.name()),
            None => inputs.push((task.input(), vec![task.name()])),
        }
    }
    let line = |(input, tasks): (&str, Vec<&str>)| format!("{} {input}", tasks.join(" and "));
    inputs.into_iter().map(line).collect::<Vec<_>>().join(", ")
}

/// The options of `finetune` that only some tasks have.
#[derive(Clone, Debug)]
pub struct TaskOptions(ArgMatches);

impl TaskOptions {
    /// See [`package::describe`].
    pub fn describe(&self, task: &'static dyn Task) -> Result<Description> {
        package::describe(task, &self.0)
    }
}

/// The options of everything that predicts that only some tasks have.
#[derive(Clone, Debug)]
pub struct PredictionOptions(ArgMatches);

impl PredictionOptions {
    pub fn settings(&self, task: &'static dyn Task) -> Result<Settings> {
        task.prediction_settings(&self.0)
    }
}

/// Arguments that the registry adds to a command; their values are read once the task is known.
macro_rules! from_registry {
    ($arguments:ident, $add:ident) => {
        impl clap::Args for $arguments {
            fn augment_args(command: Command) -> Command {
                TASKS.iter().fold(command, |command, task| task.$add(command))
            }

            fn augment_args_for_update(command: Command) -> Command {
                Self::augment_args(command)
            }
        }

        impl clap::FromArgMatches for $arguments {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Ok($arguments(matches.clone()))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                self.0 = matches.clone();
                Ok(())
            }
        }
    };
}

from_registry!(TaskOptions, options);
from_registry!(PredictionOptions, prediction_options);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_name_the_tasks_that_differ() {
        let values =
            |list: [(&'static str, u32); 3]| list.map(|(task, value)| (task, value.to_string())).into();
        assert_eq!(by_task(values([("a", 3), ("b", 2), ("c", 3)])), "b 2, others 3");
        assert_eq!(by_task(values([("a", 7), ("b", 7), ("c", 7)])), "7");
        assert!(defaults_by_task(|defaults| defaults.epochs).ends_with("others 3"));
    }

    #[test]
    fn tasks_that_read_the_same_stand_together() {
        let expected = r#"classify and regress {"text"} or {"text1", "text2"}, multiple-choice"#;
        assert!(inputs_by_task().contains(expected), "{}", inputs_by_task());
    }
}
