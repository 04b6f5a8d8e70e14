//! The language of a picture's labels, and the fonts that they are asked of.

/// English or Japanese.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    /// Japanese
    Ja,
    /// English
    En,
}

impl Language {
    /// That of the locale's messages, as `get` has its variables.
    pub fn of_locale(get: impl Fn(&str) -> Option<String>) -> Self {
        let set =
            ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().filter_map(get).find(|value| !value.is_empty());
        match set {
            Some(locale) if locale.starts_with("ja") => Language::Ja,
            _ => Language::En,
        }
    }

    /// The one of two texts that is in this language.
    pub fn of<'a>(self, english: &'a str, japanese: &'a str) -> &'a str {
        match self {
            Language::En => english,
            Language::Ja => japanese,
        }
    }

    /// Fonts for `font-family`, the best first: whichever a machine has.
    pub fn fonts(self) -> &'static str {
        match self {
            Language::En => {
                "'Helvetica Neue','Liberation Sans','DejaVu Sans','Noto Sans','Noto Sans CJK JP',\
                 'Noto Sans JP','Hiragino Sans','Yu Gothic',Meiryo,sans-serif"
            }
            Language::Ja => {
                "'Noto Sans CJK JP','Noto Sans JP','Hiragino Sans','Hiragino Kaku Gothic ProN','Yu Gothic',\
                 Meiryo,'BIZ UDPGothic','IPAexGothic','IPAGothic','TakaoPGothic','VL PGothic',sans-serif"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_variable_that_is_set_decides() {
        let of = |values: &[(&str, &str)]| {
            let found =
                |name: &str| values.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
            Language::of_locale(found)
        };
        assert_eq!(of(&[]), Language::En);
        assert_eq!(of(&[("LANG", "ja_JP.UTF-8")]), Language::Ja);
        assert_eq!(of(&[("LC_ALL", "C"), ("LANG", "ja_JP.UTF-8")]), Language::En);
        assert_eq!(of(&[("LC_ALL", ""), ("LC_MESSAGES", "ja"), ("LANG", "de")]), Language::Ja);
    }
}
