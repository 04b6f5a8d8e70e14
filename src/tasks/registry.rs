//! All tasks. What treats tasks alike goes through this list.

use super::classify::Classify;
use super::multiple_choice::MultipleChoice;
use super::regress::Regress;
use super::squad::Squad;
use super::tag::Tagging;
use super::task::Task;

/// One line a task, in the order of the help.
pub static TASKS: [&dyn Task; 5] = [&Squad, &Classify, &Regress, &MultipleChoice, &Tagging];

/// The task of this name.
pub fn find(name: &str) -> Option<&'static dyn Task> {
    TASKS.into_iter().find(|task| task.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_tasks() {
        for task in TASKS {
            let name = task.name();
            assert_eq!(find(name).map(Task::name), Some(name));
            assert_eq!(TASKS.iter().filter(|other| other.name() == name).count(), 1, "{name} stands twice");
            let plain = |c: char| c.is_ascii_lowercase() || c == '-';
            assert!(name.chars().all(plain), "{name} is not in kebab-case");
        }
        assert!(find("no-such-task").is_none());
    }

    /// All tasks' options stand in one command; of an option declared twice clap would take one and say nothing.
    #[test]
    fn options_are_declared_once() {
        let command = clap::Command::new("finetune");
        let command =
            TASKS.iter().fold(command, |command, task| task.prediction_options(task.options(command)));
        let mut names: Vec<String> =
            command.get_arguments().map(|option| option.get_id().to_string()).collect();
        names.extend(
            command.get_arguments().filter_map(|option| option.get_long()).map(|long| format!("--{long}")),
        );
        assert!(names.iter().any(|name| name == "--doc-stride"), "{names:?}");
        for name in &names {
            assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name} is declared twice");
        }
    }

    #[test]
    fn every_task_has_samples_to_test_it_with() {
        for task in TASKS {
            let samples = task.samples();
            assert!(!samples.is_empty(), "{}", task.name());
            assert!(samples.iter().all(|lesson| !lesson.sizes().is_empty()), "{}", task.name());
        }
    }
}
