//! What all ranks must have been given alike.

use std::fmt::Display;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::Ranks;

/// Names of things, as the user knows them, and what they are; who was not given one lacks its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given(Vec<(String, String)>);

impl Given {
    /// This program: another build may compute something else.
    pub fn program() -> Self {
        let program = std::env::current_exe().and_then(std::fs::read);
        let checksum = program.map_or(0, |bytes| crc32c::crc32c(&bytes));
        Given::default().with("the build of inazuma", format!("{} {checksum:08x}", env!("CARGO_PKG_VERSION")))
    }

    pub fn with(mut self, name: impl Into<String>, value: impl Display) -> Self {
        self.0.push((name.into(), value.to_string()));
        self
    }

    pub fn with_some(self, name: impl Into<String>, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    pub fn with_switch(self, name: impl Into<String>, is_on: bool) -> Self {
        self.with_some(name, is_on.then_some("given"))
    }

    fn value(&self, name: &str) -> &str {
        self.0.iter().find(|(of, _)| of == name).map_or("not given", |(_, value)| value)
    }

    /// The first thing that is another than of rank 0.
    fn difference(&self, first: &Given) -> String {
        let names = self.0.iter().chain(&first.0).map(|(name, _)| name);
        let name = names.map(String::as_str).find(|name| self.value(name) != first.value(name));
        let name = name.unwrap_or("the order of options");
        let (value, of_first) = (self.value(name), first.value(name));
        format!("{name} is {value}, and {of_first} for rank 0; give all ranks the same")
    }
}

impl Ranks {
    /// Refuses by name the first process that was given something else than rank 0.
    pub fn given_alike(&self, given: &Given) -> Result<()> {
        self.all_alike(given, Given::difference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranks::threads;

    #[test]
    fn what_differs_is_named() {
        let plain = || Given::program().with("--out", "run").with_switch("--resume", true);
        for (odd, says) in [
            (
                Given::program().with("--out", "other").with_switch("--resume", true),
                "--out is other, and run",
            ),
            (Given::program().with("--out", "run"), "--resume is not given, and given"),
            (plain().with_some("--step", Some(7)), "--step is 7, and not given"),
        ] {
            let each =
                |ranks: Ranks| ranks.given_alike(&if ranks.rank() == 1 { odd.clone() } else { plain() });
            for ended in threads::run(3, each) {
                let line = ended.unwrap_err().to_string();
                assert_eq!(line, format!("rank 1: {says} for rank 0; give all ranks the same"));
            }
        }
        for ended in threads::run(2, |ranks| ranks.given_alike(&plain())) {
            ended.unwrap();
        }
    }
}
