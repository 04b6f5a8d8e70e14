//! Templates that make text of their arguments: readings, numbers with units, dates.

use super::arguments::Arguments;
use super::{Shown, names};

/// `{{読み仮名|漢字|かな}}`: the word, and its reading in brackets.
pub(super) fn reading(args: &Arguments) -> Shown {
    let (word, kana) = (args.str(1), args.str(2));
    match (word.is_empty(), kana.is_empty()) {
        (true, _) => args.part(2),
        (false, true) => args.part(1),
        (false, false) => Shown::Text(format!("{word}（{kana}）")),
    }
}

/// `{{ill|日本語|en|English}}` here, `{{ill|en|English|日本語}}` in its older form.
pub(super) fn foreign_link(args: &Arguments) -> Shown {
    if let Some(label) = args.named("label") {
        return Shown::Part(label);
    }
    let code = args.str(1);
    if names::is_language(code) && !args.str(3).is_empty() { args.part(3) } else { args.part(1) }
}

pub(super) fn nihongo(args: &Arguments) -> Shown {
    let inside: Vec<&str> = [args.str(2), args.str(3)].into_iter().filter(|s| !s.is_empty()).collect();
    match (args.str(1), inside.is_empty()) {
        ("", _) => Shown::Text(inside.join(" ")),
        (_, true) => args.part(1),
        (word, false) => Shown::Text(format!("{word} ({})", inside.join(", "))),
    }
}

/// `{{convert|5|to|10|km|mi}}`: number and unit as given, without the conversion.
pub(super) fn convert(args: &Arguments) -> Shown {
    let mut text = grouped(args.str(1));
    let mut next = 2;
    while let Some(sign) = range_sign(args.str(next)) {
        text.push_str(sign);
        text.push_str(&grouped(args.str(next + 1)));
        next += 2;
    }
    let unit = args.str(next);
    if !text.is_empty() && !unit.is_empty() {
        text.push(' ');
        text.push_str(&unit.replace("km2", "km²").replace("sqmi", "平方マイル"));
    }
    Shown::Text(text)
}

fn range_sign(word: &str) -> Option<&'static str> {
    match word {
        "-" | "–" | "to" | "to(-)" | "～" | "〜" => Some("–"),
        "and" | "と" => Some("と"),
        "or" | "または" => Some("または"),
        "x" | "by" | "×" => Some("×"),
        "+/-" | "±" => Some("±"),
        _ => None,
    }
}

/// A plain number with a comma every three digits, and a unit if one is named.
pub(super) fn number(args: &Arguments) -> Shown {
    let unit = args.named("u").or_else(|| args.named("ul")).map_or("", |range| &args.text[range]);
    let value = grouped(args.str(1));
    Shown::Text(if unit.is_empty() { value } else { format!("{value} {unit}") })
}

pub(super) fn grouped(value: &str) -> String {
    let value = value.trim();
    let digits = value.len() - value.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let rest = &value[digits..];
    let plain =
        rest.is_empty() || rest.strip_prefix('.').is_some_and(|r| r.bytes().all(|b| b.is_ascii_digit()));
    if !plain || digits < 4 {
        return value.to_owned();
    }
    let mut text = String::with_capacity(value.len() + digits / 3);
    for (index, digit) in value[..digits].chars().enumerate() {
        if index > 0 && (digits - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + rest
}

pub(super) fn fraction(args: &Arguments) -> Shown {
    Shown::Text(match (args.str(1), args.str(2), args.str(3)) {
        (one, "", _) => format!("1/{one}"),
        (top, bottom, "") => format!("{top}/{bottom}"),
        (whole, top, bottom) => format!("{whole} {top}/{bottom}"),
    })
}

/// Year, month and day from the arguments `first` and on.
pub(super) fn date(args: &Arguments, first: usize) -> Shown {
    let mut text = String::new();
    for (offset, unit) in ["年", "月", "日"].iter().enumerate() {
        let value = args.str(first + offset);
        if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
            break;
        }
        text.push_str(value.trim_start_matches('0'));
        text.push_str(unit);
    }
    if text.is_empty() { args.part(first) } else { Shown::Text(text) }
}

fn era_of(year: u32) -> Option<String> {
    let (name, first) = match year {
        2019..=2100 => ("令和", 2019),
        1989..=2018 => ("平成", 1989),
        1926..=1988 => ("昭和", 1926),
        1912..=1925 => ("大正", 1912),
        1868..=1911 => ("明治", 1868),
        _ => return None,
    };
    Some(match year - first {
        0 => format!("{name}元年"),
        more => format!("{name}{}年", more + 1),
    })
}

/// `{{和暦|1980}}`: the year of the Japanese era, or the western one before 1868.
pub(super) fn era(year: &str) -> Shown {
    Shown::Text(year.parse().ok().and_then(era_of).unwrap_or_else(|| with_unit(year)))
}

pub(super) fn western_and_era(year: &str) -> Shown {
    let western = with_unit(year);
    Shown::Text(match year.parse().ok().and_then(era_of) {
        Some(era) => format!("{western}（{era}）"),
        None => western,
    })
}

fn with_unit(year: &str) -> String {
    if year.is_empty() { String::new() } else { format!("{year}年") }
}

pub(super) fn list(args: &Arguments) -> Shown {
    let items: Vec<&str> = args.positional().filter(|item| !item.is_empty()).collect();
    if items.is_empty() { Shown::Nothing } else { Shown::Text(items.join("、")) }
}
