//! Model cards: the `README.md` of a directory, with the header that Hugging Face's site reads.

use std::fmt;

use serde_json::{Value, json};

/// What only whoever publishes a model can say of it.
#[derive(Clone, Debug, Default)]
pub struct Naming {
    /// Heading of the card; by default the directory's name.
    pub name: String,
    /// As Hugging Face calls it: `apache-2.0`, `cc-by-sa-4.0`.
    pub license: Option<String>,
    /// Data sets, as Hugging Face calls them.
    pub datasets: Vec<String>,
    /// The model that this one was made from, as Hugging Face calls it.
    pub base_model: Option<String>,
}

/// A model card.
#[derive(Clone, Debug, Default)]
pub struct Card {
    pub naming: Naming,
    pub pipeline_tag: Option<&'static str>,
    /// What it is, in a sentence or two.
    pub about: String,
    /// Headings with their text, in Markdown.
    pub sections: Vec<(&'static str, String)>,
    pub results: Option<Results>,
}

/// Scores on a data set.
#[derive(Clone, Debug, Default)]
pub struct Results {
    pub task: String,
    pub dataset: String,
    pub scores: Vec<(String, f64)>,
}

/// Sections of a table with two columns.
pub fn table(head: [&str; 2], rows: impl IntoIterator<Item = (String, String)>) -> String {
    let mut text = format!("| {} | {} |\n|---|---|\n", head[0], head[1]);
    for (key, value) in rows {
        text.push_str(&format!("| {key} | {value} |\n"));
    }
    text
}

/// A Markdown block of code.
pub fn code(language: &str, text: &str) -> String {
    format!("```{language}\n{}\n```\n", text.trim_end())
}

impl Card {
    /// The header's keys, in the order in which they are written.
    fn header(&self) -> Vec<(&'static str, Value)> {
        let Naming { name, license, datasets, base_model } = &self.naming;
        let mut header = vec![
            ("language", json!("ja")),
            ("license", json!(license.as_deref().unwrap_or("unknown"))),
            ("library_name", json!("transformers")),
            ("tags", json!(["electra", "japanese", "inazuma"])),
        ];
        if let Some(tag) = self.pipeline_tag {
            header.push(("pipeline_tag", json!(tag)));
        }
        if !datasets.is_empty() {
            header.push(("datasets", json!(datasets)));
        }
        if let Some(base) = base_model {
            header.push(("base_model", json!(base)));
        }
        if let Some(Results { task, dataset, scores }) = &self.results {
            let metrics: Vec<Value> =
                scores.iter().map(|(name, score)| json!({"type": name, "value": score})).collect();
            let result = json!({
                "task": {"type": task},
                "dataset": {"type": dataset, "name": dataset},
                "metrics": metrics,
            });
            header.push(("model-index", json!([{"name": name, "results": [result]}])));
        }
        header
    }
}

impl fmt::Display for Card {
    /// The header is YAML, of which JSON is a part: each value stands on its key's line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "---")?;
        for (key, value) in self.header() {
            writeln!(f, "{key}: {value}")?;
        }
        writeln!(f, "---\n\n# {}\n\n{}", self.naming.name, self.about.trim_end())?;
        for (heading, text) in &self.sections {
            writeln!(f, "\n## {heading}\n\n{}", text.trim_end())?;
        }
        Ok(())
    }
}
