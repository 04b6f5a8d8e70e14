//! A morphological analyser: lindera, in programs that are built with it. Its dictionary (IPADIC, UniDic, …, as `lindera
//! build` or its releases make them) is the user's to bring; nothing here downloads or embeds one.

use std::path::Path;

use anyhow::{Result, bail};

#[cfg(feature = "lindera")]
use {
    anyhow::{Context, anyhow},
    lindera::{dictionary::load_fs_dictionary, mode::Mode, segmenter::Segmenter},
    std::borrow::Cow,
};

/// An analyser with its dictionary, for any number of threads.
#[cfg(feature = "lindera")]
pub struct Analyser(Segmenter);

#[cfg(feature = "lindera")]
impl Analyser {
    /// Errors: no dictionary named, or none there.
    pub fn open(dictionary: Option<&Path>) -> Result<Self> {
        let Some(path) = dictionary else {
            bail!("--words lindera wants --dictionary DIR, the directory of a dictionary of lindera");
        };
        let dictionary = load_fs_dictionary(path).map_err(one_line);
        let dictionary = dictionary.with_context(|| {
            format!("--dictionary: {} is not a dictionary of this version of lindera", path.display())
        })?;
        Ok(Analyser(Segmenter::new(Mode::Normal, dictionary, None)))
    }

    /// Where words begin in a line, in bytes; each at the end of the one before it, so that spaces belong to what follows.
    pub fn words(&self, line: &str) -> Result<Vec<usize>> {
        let tokens = self.0.segment(Cow::Borrowed(line)).map_err(one_line).context("lindera")?;
        let mut end = 0;
        Ok(tokens.iter().map(|token| std::mem::replace(&mut end, token.byte_end)).collect())
    }
}

#[cfg(feature = "lindera")]
fn one_line(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{}", error.to_string().replace('\n', " "))
}

/// No analyser: the program was built without.
#[cfg(not(feature = "lindera"))]
pub enum Analyser {}

#[cfg(not(feature = "lindera"))]
impl Analyser {
    pub fn open(_dictionary: Option<&Path>) -> Result<Self> {
        bail!(
            "this program was built without lindera (`cargo install … --features lindera`); --words script needs no dictionary"
        )
    }

    pub fn words(&self, _line: &str) -> Result<Vec<usize>> {
        match *self {}
    }
}

#[cfg(all(test, feature = "lindera"))]
mod tests {
    use lindera::dictionary::{DictionaryBuilder, Metadata};

    use super::*;

    /// A dictionary of four words, in the form of IPADIC's sources.
    fn dictionary(folder: &Path) {
        let (source, built) = (folder.join("source"), folder.join("built"));
        std::fs::create_dir(&source).unwrap();
        let word = |surface: &str, cost: i32| format!("{surface},0,0,{cost},名詞,*,*,*,*,*,{surface},*,*\n");
        let words = [("日本", 10), ("銀行", 10), ("の", 10), ("山", 10)];
        let put = |name: &str, text: &str| std::fs::write(source.join(name), text).unwrap();
        put("words.csv", &words.map(|(surface, cost)| word(surface, cost)).concat());
        put("matrix.def", "1 1\n0 0 0\n");
        put("char.def", "DEFAULT 0 1 0\nSPACE 0 1 0\nKANJI 0 0 2\n0x0020 SPACE\n0x4E00..0x9FFF KANJI\n");
        put("unk.def", &["DEFAULT", "SPACE", "KANJI"].map(|kind| word(kind, 9000)).concat());
        let builder = DictionaryBuilder::new(Metadata::default());
        builder.build_dictionary(&source, &built).unwrap();
    }

    #[test]
    fn words_are_those_of_the_dictionary() {
        let folder = tempfile::tempdir().unwrap();
        dictionary(folder.path());
        let analyser = Analyser::open(Some(&folder.path().join("built"))).unwrap();
        let starts = |line: &str| analyser.words(line).unwrap();
        // 日本 銀行 の 山, three bytes a character.
        assert_eq!(starts("日本銀行の山"), [0, 6, 12, 15]);
        // The space goes with what follows it.
        assert_eq!(starts("日本 銀行"), [0, 6]);
        assert_eq!(starts(""), [0; 0]);
        let error = format!("{:#}", Analyser::open(Some(folder.path())).err().unwrap());
        assert!(error.contains("is not a dictionary") && !error.contains('\n'), "{error}");
    }
}
