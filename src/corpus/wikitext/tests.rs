use super::*;

fn text(wikitext: &str) -> String {
    clean("題名", wikitext, Style::PROSE).text
}

#[track_caller]
fn check(pairs: &[(&str, &str)]) {
    for (wikitext, expected) in pairs {
        assert_eq!(text(wikitext), *expected, "from {wikitext:?}");
    }
}

#[test]
fn links_show_their_label() {
    check(&[
        ("[[湖]]と[[山|高い山]]。", "湖と高い山。"),
        ("[[:Category:湖]]と[[:en:Lake|lake]]", "Category:湖とlake"),
        ("[[駅 (鉄道)|]]で[[Help:目次|]]を見る", "駅で目次を見る"),
        ("[[#節]]を参照", "節を参照"),
        ("[https://example.org/a 案内]と[https://example.org]", "案内と"),
        ("本文[[Category:湖|こ]][[カテゴリ:山]][[en:Lake]]", "本文"),
        ("前[[ファイル:a.jpg|thumb|[[湖]]の{{lang|en|photo}}、[[山|高い[[山]]]]]]後", "前後"),
        ("[[File:a.jpg|20px]]図[[画像:b.png]]", "図"),
        ("[[A{{!}}B]]です", "Bです"),
        ("[1]と[k]と配列[i]", "[1]と[k]と配列[i]"),
    ]);
}

#[test]
fn templates_that_dress_text_show_it() {
    check(&[
        ("{{lang|fr|Pays}}と{{lang-en|land}}と{{lang-xx|Land}}", "PaysとlandとLand"),
        (
            "国の名は（{{lang-en|land}}、{{Lang-de-short|Land}}、{{lang-en|}}、{{IPA-en|b}}）{{IRL}}をいう",
            "国の名は（英語: land、独: Land、b）アイルランドをいう",
        ),
        ("{{仮リンク|北の町|en|North}}と{{仮リンク|町|en|T|label=小さな町}}", "北の町と小さな町"),
        (
            "{{ruby|漢字|かんじ}}と{{読み仮名|山|やま}}と{{ふりがな|川|かわ}}",
            "漢字（かんじ）と山（やま）と川（かわ）",
        ),
        ("<ruby><rb>海</rb><rp>(</rp><rt>うみ</rt><rp>)</rp></ruby>", "海（うみ）"),
        ("{{convert|513.6|m|ft|abbr=on}}と{{convert|5|to|10|km|mi}}", "513.6 mと5–10 km"),
        ("{{年月日|2005|04|1}}、{{和暦|1980}}、{{subst:和暦|2019}}", "2005年4月1日、昭和55年、令和元年"),
        ("{{nowrap|約5}}{{small|（小）}}{{color|red|赤}}{{要出典範囲|本当|date=2020年}}", "約5（小）赤本当"),
        ("{{補助漢字フォント|字}}{{Sup|2}}{{fontsize|80%|縮小}}{{Anchors|a|b}}", "字2縮小"),
        ("{{formatnum:1234567.5}}人、{{PAGENAME}}", "1,234,567.5人、題名"),
        ("{{lang|ar|{{nastaliq|{{small|中}}}}}}", "中"),
        ("{{要出典}}本文{{cite web|url=x|title=[[a]]}}{{未知|何か}}", "本文"),
        ("{{ruby|1=漢|2=かん}}", "漢（かん）"),
    ]);
}

#[test]
fn what_is_not_text_goes() {
    check(&[
        ("前<ref>注{{a|b}}</ref>中<ref name=\"x\" />後<!-- 見えない -->。", "前中後。"),
        ("前<math>x^2 [[</math>後<gallery>\nファイル:a.jpg|図\n</gallery>", "前後"),
        ("前\n{| class=\"a\"\n|-\n| 一 || {| \n| 二\n|}\n|}\n後", "前\n後"),
        ("{{Infobox 湖\n| 名 = [[湖]]\n| 面積 = {{nowrap|5}}\n}}\n本文", "本文"),
        ("{{Infobox\n| 表 = \n{|\n| a\n|}\n}}本文", "本文"),
        ("__NOTOC__本文__目次強制__と__init__", "本文と__init__"),
        ("-{zh-hans:甲; zh-hant:乙}-", "甲"),
        ("<table><tr><td>表</td></tr></table>本文", "本文"),
        ("'''太'''字と''斜体''と'''''両方'''''、l'a", "太字と斜体と両方、l'a"),
        ("<nowiki>[[生]]&amp;{{</nowiki>", "[[生]]&{{"),
        ("&lt;b&gt;と&amp;nbsp;と&#12354;と&eacute;と&unknown;", "<b>と&nbsp;とあとéと&unknown;"),
        ("一<br />二<br>三", "一\n二\n三"),
        ("（一<br />二）三", "（一 二）三"),
    ]);
}

#[test]
fn what_removed_markup_leaves_behind_goes_too() {
    check(&[
        ("琵琶湖（{{x|a}}）は", "琵琶湖は"),
        ("琵琶湖（{{x|a}}、{{x|b}}）は", "琵琶湖は"),
        ("琵琶湖（、びわこ）は（）と()", "琵琶湖（、びわこ）はと"),
        ("琵琶湖（{{x|a}}、びわこ、{{x}}）は", "琵琶湖（びわこ）は"),
        ("国（英語: {{x|Land}}、くに）は", "国（くに）は"),
        ("国（くに、英語: {{x|Land}}）は", "国（くに）は"),
        ("一、{{x}}、二{{x}}。", "一、二。"),
        ("一、{{x}}。", "一。"),
        ("文。<ref>a</ref>。次", "文。次"),
        ("f()を呼ぶ", "f()を呼ぶ"),
        ("制\u{92}御\u{7f}文\u{85}字", "制御文 字"),
        ("  広い   空白　　と\u{200b}幅\u{feff}なし&nbsp;&nbsp;x  ", "広い 空白　と幅なし x"),
    ]);
}

#[test]
fn lists_are_lines_and_link_lists_go() {
    check(&[
        ("次のとおり。\n* 一\n** 二\n# 三\n: 四", "次のとおり。\n一\n二\n三\n四"),
        ("; 用語 : 説明\n; 別 {{lang|en|a:b}}", "用語\n説明\n別 a:b"),
        ("本文。\n== 関連項目 ==\n* [[山]]\n* [[川]]\n\n== 歴史 ==\n* 昔", "本文。\n昔"),
        (
            "== 脚注 ==\n{{Reflist}}\nこの節には文がひとつだけあり、それは残しておくべきものである。",
            "この節には文がひとつだけあり、それは残しておくべきものである。",
        ),
    ]);
}

#[test]
fn italics_are_quoted_on_request() {
    let style = Style { italics: Italics::Quoted, ..Style::PROSE };
    for (wikitext, expected) in [
        ("''Nature''誌と'''太'''字", "\"Nature\"誌と太字"),
        ("'''''両方'''''、l'a", "\"両方\"、l'a"),
        // Italics end with their line, and with what a `<br>` begins.
        ("''甲と\n乙''と''丙''", "甲と\n乙\"と\"丙"),
        ("''甲<br>乙''", "甲\n乙"),
        // Around nothing that is left there is nothing to quote, and no bracket.
        ("国（''{{未知|何か}}''）と''{{lang|fr|Pays}}''", "国と\"Pays\""),
        ("山'' ''と''川", "山と川"),
    ] {
        assert_eq!(clean("t", wikitext, style).text, expected, "from {wikitext:?}");
    }
}

#[test]
fn headings_are_kept_where_there_is_text() {
    let source = "序。\n== 一 ==\n=== 二<!-- x --> === <!-- y -->\n文。\n== 三 ==\n{{x}}\n== 四 ==\n* 項";
    assert_eq!(
        clean("t", source, Style { headings: Headings::Keep, ..Style::PROSE }).text,
        "序。\n一\n二\n文。\n四\n項"
    );
    assert_eq!(text(source), "序。\n文。\n項");
    check(&[("a = b\n=\n===\n==x", "a = b\nx")]);
}

#[test]
fn unbalanced_markup_loses_nothing_after_it() {
    check(&[
        ("{{Infobox\n| a = b\n| c = [[d]]\n\n本文は残る。", "本文は残る。"),
        ("{|\n|-\n| 表\n\n本文は残る。\n== 節 ==\n続き", "本文は残る。\n続き"),
        ("{|\n| 表\n== 節 ==\n続き", "続き"),
        ("これは{{lang|en|land という。\n続き", "これはland という。\n続き"),
        ("[[山 という。\n続き [[川|大きな\n\n川]]", "山 という。\n続き 大きな\n川"),
        ("前<ref>注の終わりがない。\n\n次<ref>a</ref>の段落", "前注の終わりがない。\n次の段落"),
        ("前<!-- 終わりがない。\n次", "前 終わりがない。\n次"),
        ("前}} ]] |} </small> 後", "前 |} 後"),
        ("| 壊れた表の行\n本文", "本文"),
        ("<table><tr><td>a\n本文は残る", "本文は残る"),
        ("{{a|[[b}}本文", "本文"),
        ("前<ref name=x 後<small", "前 name=x 後"),
    ]);
}

#[test]
fn disambiguation_pages_and_redirects_are_known() {
    assert!(clean("t", "* [[a]]\n{{aimai}}", Style::PROSE).disambiguation);
    assert!(clean("t", "{{人名の曖昧さ回避}}", Style::PROSE).disambiguation);
    assert!(!clean("t", "文{{要曖昧さ回避}}", Style::PROSE).disambiguation);
    assert!(is_disambiguation_title("稲妻 (曖昧さ回避)"));
    assert!(is_redirect(" #REDIRECT [[a]]") && is_redirect("＃転送 [[a]]") && is_redirect("#redirect:[[a]]"));
    assert!(!is_redirect("# 一番"));
}

/// A million of anything that opens and never closes takes time and memory like any other text.
#[test]
fn endless_openings_are_linear() {
    let started = std::time::Instant::now();
    for opening in [
        "{{",
        "{{{",
        "[[",
        "{{a|",
        "[[a|",
        "<ref>",
        "<!--",
        "<math>",
        "{|\n",
        "-{",
        "[http://a ",
        "'''",
        "&amp",
        "<table>",
        "== a\n",
        "}}",
        "]]",
        "|}\n",
        "<ref name=",
        "<a",
        "</",
        "__",
        "（",
        "（{{x}}、",
        "\u{1}",
        "*",
        "{{ruby|a|",
        "[[File:a|",
        "<nowiki>&",
        "（\u{3000}",
        "<a \"",
        "（（（」",
        "（a:{{x}}」",
    ] {
        let source = opening.repeat(1_000_000 / opening.len()) + "\n\n最後の文は残る。";
        let text = text(&source);
        assert!(
            text.ends_with("最後の文は残る。"),
            "after {opening:?}: {:?}",
            &text[text.len().saturating_sub(90)..]
        );
    }
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}

/// Random rows of markup: nothing panics, nothing of our own marks comes out, and neither tags nor bold do.
#[test]
fn random_markup_does_no_harm() {
    const TOKENS: [&str; 64] = [
        "{{",
        "}}",
        "{{{",
        "}}}",
        "[[",
        "]]",
        "[",
        "]",
        "|",
        "\n",
        "\n\n",
        "{|",
        "|}",
        "|-",
        "!",
        "=",
        "==",
        "== 節 ==",
        "*",
        "#",
        ":",
        ";",
        "'''",
        "''",
        "<ref>",
        "</ref>",
        "<ref name=a />",
        "<!--",
        "-->",
        "<nowiki>",
        "</nowiki>",
        "<math>",
        "</math>",
        "<table>",
        "</table>",
        "<br>",
        "<td>",
        "<",
        ">",
        "</",
        "&amp;",
        "&",
        "&#0;",
        "&#x3042;",
        "__NOTOC__",
        "__",
        "-{",
        "}-",
        "ruby",
        "lang",
        "仮リンク",
        "ファイル:",
        "http://a ",
        "（",
        "）",
        "、",
        "。",
        "「",
        "」",
        "字",
        "é",
        "\u{3}",
        " ",
        "\u{3000}",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..60_000 {
        let mut source = String::new();
        for _ in 0..24 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            source.push_str(TOKENS[(state >> 32) as usize % TOKENS.len()]);
        }
        for style in [Style::PROSE, Style { headings: Headings::Keep, italics: Italics::Quoted }] {
            let text = clean("題", &source, style).text;
            let control = text.chars().find(|c| c.is_control() && *c != '\n');
            assert!(control.is_none(), "{control:?} from {source:?}");
            let literal = source.contains("nowiki") || source.contains("&#");
            let markup = ["'''", "<ref", "</ref"].iter().find(|m| text.contains(**m));
            assert!(literal || markup.is_none(), "{markup:?} in {text:?} from {source:?}");
        }
    }
}
