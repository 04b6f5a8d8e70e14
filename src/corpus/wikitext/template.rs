//! Templates: which of them a reader sees as text, and as what.
//!
//! Nothing is expanded. A template that dresses its argument gives the argument, a few give a sentence part of their
//! own, and all others (boxes, notes, references) give nothing.

use std::ops::Range;

use super::frame::Frame;
use super::scan::Scanner;

/// What becomes of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shown {
    Nothing,
    /// A part of the buffer, as it stands.
    Part(Range<usize>),
    Text(String),
    /// `{{!}}`
    Pipe,
}

/// Names are shorter than this; anything longer is not one we know.
const NAME_MAX: usize = 96;

impl Scanner<'_> {
    pub(super) fn close_template(&mut self) {
        let Some(frame) = self.pop() else { return };
        let arguments = Arguments {
            text: &self.out,
            pipes: &self.pipes[frame.first_pipe..],
            start: frame.start,
        };
        let name = arguments.name();
        if is_disambiguation(&name) {
            self.disambiguation = true;
        }
        match shown(&name, &arguments, self.title) {
            Shown::Nothing => self.cut(&frame),
            Shown::Part(range) => self.keep(&frame, range),
            Shown::Text(text) => self.replace(&frame, &text),
            Shown::Pipe => self.template_pipe(&frame),
        }
    }

    /// `{{!}}` separates the parts of a link like `|`, and does not separate those of a template.
    fn template_pipe(&mut self, frame: &Frame) {
        self.replace(frame, "");
        if self.top() == Some(super::frame::Kind::Link) {
            self.pipes.push(self.out.len());
        } else {
            self.out.push('|');
        }
    }
}

/// The arguments of a template, cleaned already.
struct Arguments<'a> {
    text: &'a str,
    pipes: &'a [usize],
    start: usize,
}

impl Arguments<'_> {
    /// The name in lower case, without namespace, `subst:` and marks.
    fn name(&self) -> String {
        let end = self.pipes.first().copied().unwrap_or(self.text.len());
        let raw =
            self.text[self.start..end].trim_matches(|c: char| c.is_whitespace() || c.is_control());
        if raw.len() > NAME_MAX {
            // Enough to tell a parser function by its beginning.
            let cut = (0..=NAME_MAX)
                .rev()
                .find(|&i| raw.is_char_boundary(i))
                .unwrap_or(0);
            return raw[..cut].to_lowercase();
        }
        let mut name = raw.to_lowercase().replace('_', " ");
        for prefix in ["subst:", "safesubst:", "template:", "テンプレート:", "msg:"] {
            if let Some(rest) = name.strip_prefix(prefix) {
                name = rest.trim_start().to_owned();
            }
        }
        name
    }

    fn all(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.pipes.iter().enumerate().map(|(index, &from)| {
            let to = self
                .pipes
                .get(index + 1)
                .copied()
                .unwrap_or(self.text.len());
            from..to
        })
    }

    /// Splits `key=value`, where what stands before the sign can be a key.
    fn split_key(&self, range: Range<usize>) -> (Option<&str>, Range<usize>) {
        let text = &self.text[range.clone()];
        if let Some(sign) = text.find('=') {
            let key = text[..sign].trim();
            let plain = !key.is_empty()
                && key.len() <= 40
                && key
                    .chars()
                    .all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' '));
            if plain {
                return (Some(key), range.start + sign + 1..range.end);
            }
        }
        (None, range)
    }

    /// The argument `number`, counted from 1, without the space around it; also `number=…`.
    fn at(&self, number: usize) -> Option<Range<usize>> {
        let mut count = 0;
        for range in self.all() {
            match self.split_key(range) {
                (None, value) => {
                    count += 1;
                    if count == number {
                        return Some(self.trim(value));
                    }
                }
                (Some(key), value) => {
                    if key.parse() == Ok(number) {
                        return Some(self.trim(value));
                    }
                }
            }
        }
        None
    }

    fn trim(&self, range: Range<usize>) -> Range<usize> {
        let text = &self.text[range.clone()];
        let from = range.end - text.trim_start().len();
        let to = range.start + text.trim_end().len();
        from..to.max(from)
    }

    fn named(&self, name: &str) -> Option<Range<usize>> {
        self.all().find_map(|range| match self.split_key(range) {
            (Some(key), value) if key.eq_ignore_ascii_case(name) => Some(self.trim(value)),
            _ => None,
        })
    }

    fn str(&self, number: usize) -> &str {
        self.at(number).map_or("", |range| &self.text[range])
    }

    /// The arguments without a name, in order.
    fn positional(&self) -> impl Iterator<Item = &str> + '_ {
        self.all().filter_map(|range| match self.split_key(range) {
            (None, value) => Some(self.text[value].trim()),
            _ => None,
        })
    }

    fn part(&self, number: usize) -> Shown {
        match self.at(number) {
            Some(range) if !range.is_empty() => Shown::Part(range),
            _ => Shown::Nothing,
        }
    }

    fn last(&self) -> Shown {
        match self.positional().count() {
            0 => self.part(1),
            count => self.part(count),
        }
    }
}

fn shown(name: &str, arguments: &Arguments, title: &str) -> Shown {
    if let Some(colon) = name.find(':') {
        return function(name, colon, arguments);
    }
    let args = arguments;
    match name {
        "!" => Shown::Pipe,
        "=" => Shown::Text("=".into()),
        "pagename" | "fullpagename" | "basepagename" => Shown::Text(title.into()),
        "仮リンク" | "ill2" | "illm" | "link-interwiki" | "日本語版にない記事リンク" => {
            args.named("label")
                .filter(|r| !r.is_empty())
                .map_or_else(|| args.part(1), Shown::Part)
        }
        "ill" => foreign_link(args),
        "lang" | "rtl-lang" | "color" | "colour" | "font color" | "fontcolor" | "fontsize"
        | "font size" | "font" | "resize" | "size" | "font-size" | "拡張漢字" | "weight"
        | "audio" | "audio-ipa" | "abbrlink" | "lang2" | "background color" | "背景色"
        | "文字サイズ" | "script" => args.part(2),
        "llang" => args.part(2),
        "transl" | "transliteration" | "翻字" => args.last(),
        "ruby"
        | "ルビ"
        | "ふりがな"
        | "読み仮名"
        | "読み仮名 ruby不使用"
        | "読みがな"
        | "よみがな"
        | "yomigana"
        | "rubyja"
        | "ruby-ja"
        | "振り仮名"
        | "r"
        | "ruby-zh-b"
        | "ruby-zh-p" => reading(args),
        "nowrap"
        | "nobr"
        | "nobreak"
        | "nwr"
        | "small"
        | "smaller"
        | "big"
        | "larger"
        | "big2"
        | "s"
        | "b"
        | "i"
        | "u"
        | "del"
        | "ins"
        | "strike"
        | "bold"
        | "strong"
        | "em"
        | "italic"
        | "underline"
        | "center"
        | "noitalic"
        | "nobold"
        | "smallcaps"
        | "sc"
        | "補助漢字フォント"
        | "jis2004フォント"
        | "jis90フォント"
        | "cjkv"
        | "lang-en2"
        | "記号文字"
        | "unicode"
        | "unicode2"
        | "nastaliq"
        | "hebrew"
        | "arabic"
        | "ar-u"
        | "sup"
        | "sub"
        | "要出典範囲"
        | "ipa"
        | "ipa2"
        | "flag"
        | "flagcountry"
        | "flagu"
        | "簡体字"
        | "繁体字"
        | "繁體字"
        | "ピン音"
        | "拼音"
        | "中文"
        | "quote"
        | "quotation"
        | "cquote"
        | "bquote"
        | "blockquote"
        | "centered quote"
        | "snamei"
        | "sname"
        | "vern"
        | "皇紀"
        | "visible anchor"
        | "vanc"
        | "vanchor"
        | "abbr"
        | "abbreviation"
        | "略語"
        | "ツールチップ"
        | "tooltip"
        | "hover title"
        | "code"
        | "var"
        | "kbd"
        | "samp"
        | "mono"
        | "tt"
        | "nihongo2"
        | "linktext"
        | "plain link"
        | "plainlink"
        | "mvar"
        | "math2"
        | "serif"
        | "sans-serif"
        | "en-link"
        | "bg"
        | "ウェイト"
        | "縦書き"
        | "外字"
        | "機種依存文字"
        | "環境依存文字"
        | "transh"
        | "jp"
        | "lang-small"
        | "keypress"
        | "key press"
        | "key"
        | "linkcolor"
        | "highlight"
        | "mark"
        | "下線"
        | "取り消し線"
        | "box"
        | "枠"
        | "圏点"
        | "傍点"
        | "emphasis dots" => args.part(1),
        "nihongo" | "nihongo3" => nihongo(args),
        "convert" | "cvt" | "換算" | "単位変換" => convert(args),
        "val" | "num" | "nts" | "number" => number(args),
        "formatnum" => number(args),
        "sfrac" | "frac" | "fraction" | "分数" => fraction(args),
        "年月日"
        | "date"
        | "birth date"
        | "start date"
        | "end date"
        | "death date"
        | "birth-date"
        | "dts"
        | "birth date and age"
        | "生年月日と年齢"
        | "bda"
        | "film date"
        | "生年月日"
        | "没年月日"
        | "start date and age" => date(args, 1),
        "死亡年月日と没年齢" | "death date and age" | "没年月日と没年齢" => {
            date(args, 4)
        }
        "和暦" | "japanese era" | "年号" => era(args.str(1)),
        "西暦和暦" | "西暦・和暦" => western_and_era(args.str(1)),
        "snd" | "spaced ndash" | "spaced en dash" => Shown::Text(" – ".into()),
        "ndash" | "en dash" => Shown::Text("–".into()),
        "mdash" | "em dash" => Shown::Text("—".into()),
        "nbsp" | "space" | "0" | "spaces" | "全角" => Shown::Text(" ".into()),
        "・" | "·" | "•" | "dot" | "middot" | "bullet" => Shown::Text("・".into()),
        "hlist" | "flatlist" | "unbulleted list" | "ubl" | "plainlist" | "plain list"
        | "ublist" => list(args),
        _ if name.ends_with("範囲") => args.part(1),
        _ if name.starts_with("lang-") => args.part(1),
        _ if is_language_code(name) => args.part(1),
        _ => country(name),
    }
}

/// `{{読み仮名|漢字|かな}}`: the word, and its reading in brackets.
fn reading(args: &Arguments) -> Shown {
    let (word, kana) = (args.str(1), args.str(2));
    match (word.is_empty(), kana.is_empty()) {
        (true, _) => args.part(2),
        (false, true) => args.part(1),
        (false, false) => Shown::Text(format!("{word}（{kana}）")),
    }
}

/// `{{ill|日本語|en|English}}` here, `{{ill|en|English|日本語}}` in its older form.
fn foreign_link(args: &Arguments) -> Shown {
    if let Some(label) = args.named("label") {
        return Shown::Part(label);
    }
    let code = args.str(1);
    if is_language_code(code) && !args.str(3).is_empty() {
        args.part(3)
    } else {
        args.part(1)
    }
}

fn nihongo(args: &Arguments) -> Shown {
    let inside: Vec<&str> = [args.str(2), args.str(3)]
        .into_iter()
        .filter(|s| !s.is_empty())
        .collect();
    match (args.str(1), inside.is_empty()) {
        ("", _) => Shown::Text(inside.join(" ")),
        (_, true) => args.part(1),
        (word, false) => Shown::Text(format!("{word} ({})", inside.join(", "))),
    }
}

/// `{{convert|5|to|10|km|mi}}`: number and unit as given, without the conversion.
fn convert(args: &Arguments) -> Shown {
    let mut text = args.str(1).to_owned();
    let mut next = 2;
    while let Some(sign) = range_sign(args.str(next)) {
        text.push_str(sign);
        text.push_str(args.str(next + 1));
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
fn number(args: &Arguments) -> Shown {
    let unit = args
        .named("u")
        .or_else(|| args.named("ul"))
        .map_or("", |range| &args.text[range]);
    let value = grouped(args.str(1));
    Shown::Text(if unit.is_empty() {
        value
    } else {
        format!("{value} {unit}")
    })
}

fn grouped(value: &str) -> String {
    let value = value.trim();
    let digits = value.len() - value.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let rest = &value[digits..];
    let plain = rest.is_empty()
        || rest
            .strip_prefix('.')
            .is_some_and(|r| r.bytes().all(|b| b.is_ascii_digit()));
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

fn fraction(args: &Arguments) -> Shown {
    Shown::Text(match (args.str(1), args.str(2), args.str(3)) {
        (one, "", _) => format!("1/{one}"),
        (top, bottom, "") => format!("{top}/{bottom}"),
        (whole, top, bottom) => format!("{whole} {top}/{bottom}"),
    })
}

/// Year, month and day from the arguments `first` and on.
fn date(args: &Arguments, first: usize) -> Shown {
    let mut text = String::new();
    for (offset, unit) in ["年", "月", "日"].iter().enumerate() {
        let value = args.str(first + offset);
        if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
            break;
        }
        text.push_str(value.trim_start_matches('0'));
        text.push_str(unit);
    }
    if text.is_empty() {
        args.part(first)
    } else {
        Shown::Text(text)
    }
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
fn era(year: &str) -> Shown {
    Shown::Text(
        year.parse()
            .ok()
            .and_then(era_of)
            .unwrap_or_else(|| with_unit(year)),
    )
}

fn western_and_era(year: &str) -> Shown {
    let western = with_unit(year);
    Shown::Text(match year.parse().ok().and_then(era_of) {
        Some(era) => format!("{western}（{era}）"),
        None => western,
    })
}

fn with_unit(year: &str) -> String {
    if year.is_empty() {
        String::new()
    } else {
        format!("{year}年")
    }
}

fn list(args: &Arguments) -> Shown {
    let items: Vec<&str> = args.positional().filter(|item| !item.is_empty()).collect();
    if items.is_empty() {
        Shown::Nothing
    } else {
        Shown::Text(items.join("、"))
    }
}

/// `{{name:…}}`: parser functions.
fn function(name: &str, colon: usize, args: &Arguments) -> Shown {
    // The first argument stands behind the colon, in the spelling of the source.
    let end = args.pipes.first().copied().unwrap_or(args.text.len());
    let head = &args.text[args.start..end];
    let value = head.split_once(':').map_or("", |(_, value)| value.trim());
    match name[..colon].trim() {
        "formatnum" => Shown::Text(grouped(value)),
        "lc" => Shown::Text(value.to_lowercase()),
        "uc" => Shown::Text(value.to_uppercase()),
        "ucfirst" | "lcfirst" | "padleft" | "padright" | "nowrap" => Shown::Text(value.to_owned()),
        "#if" => args.part(if value.is_empty() { 2 } else { 1 }),
        _ => Shown::Nothing,
    }
}

fn is_language_code(name: &str) -> bool {
    matches!(
        name,
        "en" | "fr"
            | "de"
            | "es"
            | "it"
            | "pt"
            | "ru"
            | "zh"
            | "ko"
            | "ar"
            | "la"
            | "el"
            | "nl"
            | "sv"
            | "fi"
            | "da"
            | "no"
            | "nb"
            | "nn"
            | "is"
            | "pl"
            | "cs"
            | "sk"
            | "hu"
            | "ro"
            | "bg"
            | "sr"
            | "hr"
            | "sl"
            | "mk"
            | "sq"
            | "uk"
            | "be"
            | "lt"
            | "lv"
            | "et"
            | "ka"
            | "hy"
            | "az"
            | "kk"
            | "ky"
            | "uz"
            | "tk"
            | "tg"
            | "mn"
            | "fa"
            | "he"
            | "hi"
            | "ur"
            | "bn"
            | "ta"
            | "te"
            | "ml"
            | "si"
            | "ne"
            | "my"
            | "th"
            | "lo"
            | "km"
            | "vi"
            | "id"
            | "ms"
            | "tl"
            | "sw"
            | "am"
            | "ti"
            | "so"
            | "af"
            | "eo"
            | "eu"
            | "ca"
            | "gl"
            | "ga"
            | "cy"
            | "gd"
            | "mt"
            | "lb"
            | "tr"
            | "sa"
            | "bo"
            | "grc"
            | "ain"
            | "ja"
    )
}

fn is_disambiguation(name: &str) -> bool {
    matches!(
        name,
        "aimai"
            | "曖昧さ回避"
            | "disambig"
            | "disambiguation"
            | "disambiguation page"
            | "dab"
            | "disamb"
            | "hndis"
            | "geodis"
            | "人名の曖昧さ回避"
            | "地名の曖昧さ回避"
            | "駅名の曖昧さ回避"
            | "山の曖昧さ回避"
            | "学校名の曖昧さ回避"
            | "神社の曖昧さ回避"
            | "寺の曖昧さ回避"
            | "船名の曖昧さ回避"
            | "同名の作品"
            | "mathdab"
            | "letter-disambig"
            | "surname"
            | "begriffsklärung"
            | "homonymie"
            | "disambigua"
            | "desambiguación"
            | "desambiguação"
            | "dp"
    ) || name.ends_with("の曖昧さ回避") && !name.starts_with('要')
        || name.starts_with("disambiguation ")
}

/// Flags by country code show the name of the country.
fn country(code: &str) -> Shown {
    let name = match code {
        "jpn" => "日本",
        "usa" => "アメリカ合衆国",
        "gbr" => "イギリス",
        "fra" => "フランス",
        "deu" | "ger" => "ドイツ",
        "ita" => "イタリア",
        "esp" => "スペイン",
        "prt" | "por" => "ポルトガル",
        "nld" | "ned" => "オランダ",
        "bel" => "ベルギー",
        "che" | "sui" => "スイス",
        "aut" => "オーストリア",
        "rus" => "ロシア",
        "chn" => "中国",
        "twn" | "roc" => "台湾",
        "kor" => "韓国",
        "prk" => "北朝鮮",
        "ind" => "インド",
        "aus" => "オーストラリア",
        "nzl" => "ニュージーランド",
        "can" => "カナダ",
        "bra" => "ブラジル",
        "arg" => "アルゼンチン",
        "mex" => "メキシコ",
        "swe" => "スウェーデン",
        "nor" => "ノルウェー",
        "fin" => "フィンランド",
        "dnk" | "den" => "デンマーク",
        "pol" => "ポーランド",
        "tur" => "トルコ",
        "tha" => "タイ",
        "vnm" | "vie" => "ベトナム",
        "idn" | "ina" => "インドネシア",
        "phl" | "phi" => "フィリピン",
        "eur" => "欧州連合",
        _ => return Shown::Nothing,
    };
    Shown::Text(name.to_owned())
}
