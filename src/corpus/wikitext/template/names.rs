//! The templates we know, by name in lower case. Whoever misses one adds it here.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::nations;

/// What a known template shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Its first argument.
    First,
    /// Its second argument.
    Second,
    /// Its last argument.
    Last,
    /// The argument `label`, or the first.
    Label,
    ForeignLink,
    /// A word and its reading in brackets.
    Reading,
    Nihongo,
    Convert,
    Number,
    Fraction,
    /// Year, month, day.
    Date,
    /// A birth and a death, of which the death is shown.
    SecondDate,
    Era,
    WesternAndEra,
    /// All arguments.
    List,
    PageName,
    /// A sign that is hard to type.
    Sign(&'static str),
    /// The name of a language (`英語: `) in front of the first argument.
    Language(&'static str),
    /// The name of a country.
    Country(&'static str),
    /// Nothing, but the page is a disambiguation page.
    Disambiguation,
}

/// Names separated by `|`.
const TABLE: &[(Rule, &str)] = &[
    (
        Rule::Second,
        "lang|rtl-lang|color|colour|font color|fontcolor|fontsize|font size|font|resize|\
         size|font-size|拡張漢字|weight|audio|audio-ipa|abbrlink|lang2|background color|\
         背景色|文字サイズ|script|llang|interlang",
    ),
    (Rule::Last, "transl|transliteration|翻字"),
    (
        Rule::Reading,
        "ruby|ルビ|ふりがな|読み仮名|読み仮名 ruby不使用|読みがな|よみがな|yomigana|\
         rubyja|ruby-ja|振り仮名|r|ruby-zh-b|ruby-zh-p",
    ),
    (
        Rule::First,
        "math|right|nowrap|nobr|nobreak|nwr|small|smaller|big|larger|big2|s|b|i|u|del|ins|strike|\
         bold|strong|em|italic|underline|center|noitalic|nobold|smallcaps|sc|\
         補助漢字フォント|jis2004フォント|jis90フォント|cjkv|lang-en2|記号文字|unicode|\
         unicode2|nastaliq|hebrew|arabic|ar-u|sup|sub|要出典範囲|ipa|ipa2|flag|\
         flagcountry|flagu|簡体字|繁体字|繁體字|ピン音|拼音|中文|quote|quotation|cquote|\
         bquote|blockquote|centered quote|snamei|sname|vern|皇紀|visible anchor|vanc|\
         vanchor|abbr|abbreviation|略語|ツールチップ|tooltip|hover title|code|var|kbd|\
         samp|mono|tt|nihongo2|linktext|plain link|plainlink|mvar|math2|serif|sans-serif|\
         en-link|bg|ウェイト|縦書き|外字|機種依存文字|環境依存文字|transh|jp|lang-small|\
         keypress|key press|key|linkcolor|highlight|mark|下線|取り消し線|box|枠|圏点|傍点|\
         emphasis dots|small2|pron-en",
    ),
    (Rule::Nihongo, "nihongo|nihongo3"),
    (Rule::Convert, "convert|cvt|換算|単位変換"),
    (Rule::Fraction, "sfrac|frac|fraction|分数"),
    (Rule::List, "hlist|flatlist|unbulleted list|ubl|plainlist|plain list|ublist"),
    (
        Rule::Date,
        "年月日|date|birth date|start date|end date|death date|birth-date|dts|\
         birth date and age|生年月日と年齢|bda|film date|生年月日|没年月日|\
         start date and age",
    ),
    (Rule::SecondDate, "死亡年月日と没年齢|death date and age|没年月日と没年齢"),
    (Rule::Era, "和暦|japanese era|年号"),
    (Rule::WesternAndEra, "西暦和暦|西暦・和暦"),
    (Rule::Number, "val|num|nts|number|formatnum"),
    (Rule::Label, "仮リンク|ill2|illm|link-interwiki|日本語版にない記事リンク"),
    (Rule::ForeignLink, "ill"),
    (Rule::PageName, "pagename|fullpagename|basepagename"),
    (Rule::Sign(" "), "nbsp|space|0|spaces|全角"),
    (Rule::Sign(" – "), "snd|spaced ndash|spaced en dash"),
    (Rule::Sign("–"), "ndash|en dash"),
    (Rule::Sign("—"), "mdash|em dash"),
    (Rule::Sign("・"), "・|·|•|dot|middot|bullet"),
    (
        Rule::Disambiguation,
        "aimai|曖昧さ回避|disambig|disambiguation|disambiguation page|dab|disamb|hndis|\
         geodis|人名の曖昧さ回避|地名の曖昧さ回避|駅名の曖昧さ回避|山の曖昧さ回避|\
         学校名の曖昧さ回避|神社の曖昧さ回避|寺の曖昧さ回避|船名の曖昧さ回避|同名の作品|\
         mathdab|letter-disambig|surname|begriffsklärung|homonymie|disambigua|\
         desambiguación|desambiguação|dp",
    ),
];

/// Codes of languages that are names of templates as well: `{{en|text}}`.
const LANGUAGES: &str = "en|fr|de|es|it|pt|ru|zh|ko|ar|la|el|nl|sv|fi|da|no|nb|nn|is|pl|cs|sk|hu|ro|bg|sr|\
    hr|sl|mk|sq|uk|be|lt|lv|et|ka|hy|az|kk|ky|uz|tk|tg|mn|fa|he|hi|ur|bn|ta|te|ml|si|\
    ne|my|th|lo|km|vi|id|ms|tl|sw|am|ti|so|af|eo|eu|ca|gl|ga|cy|gd|mt|lb|tr|sa|bo|\
    grc|ain|ja";

static RULES: LazyLock<HashMap<&str, Rule>> = LazyLock::new(|| {
    let named = TABLE.iter().flat_map(|(rule, names)| names.split('|').map(move |name| (name, *rule)));
    let languages = LANGUAGES.split('|').map(|code| (code, Rule::First));
    let countries = nations::COUNTRIES
        .iter()
        .flat_map(|(codes, name)| codes.split('|').map(move |code| (code, Rule::Country(name))));
    countries.chain(languages).chain(named).collect()
});

/// What the template `name` shows; nothing for one that is not known.
pub(super) fn rule(name: &str) -> Option<Rule> {
    if let Some(rule) = RULES.get(name) {
        return Some(*rule);
    }
    if let Some(language) = nations::language(name) {
        return Some(Rule::Language(language));
    }
    if name.ends_with("範囲") || name.starts_with("lang-") || name.starts_with("ipa-") {
        return Some(Rule::First);
    }
    let disambiguation = name.ends_with("の曖昧さ回避") || name.starts_with("disambiguation ");
    disambiguation.then_some(Rule::Disambiguation)
}

/// Whether `code` is a language we know.
pub(super) fn is_language(code: &str) -> bool {
    LANGUAGES.split('|').any(|known| known == code)
}
