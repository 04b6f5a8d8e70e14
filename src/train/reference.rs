//! The reference implementation's command lines and hyper-parameters, as they are given to `--hparams`: JSON, the path of
//! a `.json` file of it, or a whole command line of `run_pretraining.py` or `run_finetuning.py`.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value as Json};

/// One of the reference's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Pretraining,
    Finetuning,
}

impl Program {
    const fn script(self) -> &'static str {
        match self {
            Program::Pretraining => "run_pretraining.py",
            Program::Finetuning => "run_finetuning.py",
        }
    }

    const fn ours(self) -> &'static str {
        match self {
            Program::Pretraining => "inazuma pretrain",
            Program::Finetuning => "inazuma finetune",
        }
    }

    const fn other(self) -> Program {
        match self {
            Program::Pretraining => Program::Finetuning,
            Program::Finetuning => Program::Pretraining,
        }
    }
}

/// What was given.
#[derive(Debug, PartialEq)]
pub struct Given {
    pub hparams: Map<String, Json>,
    /// It was a whole command line: what it does not say has the reference's defaults.
    pub command_line: bool,
    /// On options without effect here.
    pub notes: Vec<String>,
}

/// Reads what was given to `--hparams` of the command that stands for `program`.
pub fn read(text: &str, program: Program) -> Result<Given> {
    let text = text.trim();
    if [Program::Pretraining, Program::Finetuning].iter().any(|program| text.contains(program.script())) {
        return command_line(text, program);
    }
    Ok(Given { hparams: json(text)?, command_line: false, notes: Vec::new() })
}

/// An object of hyper-parameters, or the path of a file that has one.
fn json(text: &str) -> Result<Map<String, Json>> {
    let read;
    let text = if text.ends_with(".json") {
        read = std::fs::read_to_string(text).with_context(|| format!("cannot read {text}"))?;
        &read
    } else {
        text
    };
    match serde_json::from_str(text).context("not JSON")? {
        Json::Object(hparams) => Ok(hparams),
        _ => bail!("not a JSON object such as {{\"model_size\": \"small\"}}"),
    }
}

/// `[NAME=VALUE …] [python3] run_pretraining.py --data-dir D --model-name M --hparams JSON`
fn command_line(text: &str, program: Program) -> Result<Given> {
    let words = split(text)?;
    let script = words.iter().position(|word| word.ends_with(program.script()));
    let Some(script) = script else {
        bail!(
            "this is a command line of {}; give it to `{}`",
            program.other().script(),
            program.other().ours()
        )
    };
    let mut given = Given { hparams: Map::new(), command_line: true, notes: Vec::new() };
    let mut rest = words[script + 1..].iter();
    while let Some(word) = rest.next() {
        let (option, value) = match word.split_once('=') {
            Some((option, value)) if word.starts_with("--") => (option, value.to_owned()),
            _ => {
                let value = rest.next().with_context(|| format!("{word} has no value"))?;
                (word.as_str(), value.clone())
            }
        };
        match option {
            "--hparams" => given.hparams = json(value.trim())?,
            "--data-dir" | "--model-name" => {
                given.notes.push(format!("{option} has no meaning here and is left alone"))
            }
            _ => bail!(
                "{} has no option {option}; it has --data-dir, --model-name and --hparams",
                program.script()
            ),
        }
    }
    Ok(given)
}

/// The words of a command line, as a shell splits them; variables stay as they are written.
fn split(text: &str) -> Result<Vec<String>> {
    // A line that goes on: shlex would make a word of it.
    shlex::split(&text.replace("\\\n", ""))
        .context("a quotation mark of the command line is not closed, or it ends in a backslash")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_split_as_a_shell_does() {
        let words = split("A=1 python3  run.py \\\n --x='a b' \"c \\\"d\\\" \\n\" '' e\\ f").unwrap();
        assert_eq!(words, ["A=1", "python3", "run.py", "--x=a b", "c \"d\" \\n", "", "e f"]);
        assert!(split("a 'b").is_err());
        assert!(split("a \\").is_err());
    }

    #[test]
    fn command_lines_give_their_hyper_parameters() {
        let text = "CUDA_VISIBLE_DEVICES=0 python3 run_pretraining.py --data-dir $DATA_DIR --model-name=electra_small \
                    --hparams '{\"debug\": true}'";
        let given = read(text, Program::Pretraining).unwrap();
        assert_eq!(given.hparams["debug"], true);
        assert!(given.command_line);
        assert_eq!(given.notes.len(), 2);
        let none =
            read("python3 run_finetuning.py --data-dir D --model-name M", Program::Finetuning).unwrap();
        assert!(none.hparams.is_empty());
        let failure = |text: &str| format!("{:#}", read(text, Program::Finetuning).unwrap_err());
        assert!(
            failure(text).contains("run_pretraining.py; give it to `inazuma pretrain`"),
            "{}",
            failure(text)
        );
        assert!(failure("run_finetuning.py --hparam {}").contains("has no option --hparam;"));
        assert!(failure("run_finetuning.py --hparams").contains("--hparams has no value"));
        assert!(failure("[1]").contains("not a JSON object"));
    }
}
