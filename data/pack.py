#!/usr/bin/env python3
"""Check the articles and questions in this folder and pack them.

Reads   articles/NNN-slug.wiki   one page each: header lines ("title: ...",
                                 optionally "ns: ..." and "redirect: ..."),
                                 an empty line, then MediaWiki markup
        questions/NNN-slug.json  [{"context", "qas": [{"question", "answer"}]}]
Writes  inazuma-articles-multistream.xml.bz2
        inazuma-articles-multistream-index.txt.bz2
        inazuma-squad-train.json
        inazuma-squad-dev.json

The output depends on the input alone (fixed time stamp, ids by file order).
A failed check prints one line naming the file and the place, exit status 1.

Usage: pack.py [--partial]      --partial skips the check of the totals
"""

import argparse
import bz2
import hashlib
import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

TIMESTAMP = "2026-01-01T00:00:00Z"
SQUAD_VERSION = "inazuma-1"
PAGES_PER_STREAM = 20
REVISION_ID_BASE = 1000  # revision id = this + page id
FIRST_SPECIAL = 900  # pages numbered from here on are not ordinary articles
DEV_EVERY = 5  # articles whose number this divides go to dev

MIN_ARTICLE_CHARS = 600
MIN_SENTENCE_CHARS = 10  # shorter sentences may repeat
MIN_ARTICLES = 60
MIN_QUESTIONS = 120

NAMESPACES = {
    -2: "メディア", -1: "特別", 0: "", 1: "ノート",
    2: "利用者", 3: "利用者‐会話", 4: "Inazuma", 5: "Inazuma‐ノート",
    6: "ファイル", 7: "ファイル‐ノート", 8: "MediaWiki", 9: "MediaWiki‐ノート",
    10: "Template", 11: "Template‐ノート", 12: "Help", 13: "Help‐ノート",
    14: "Category", 15: "Category‐ノート",
}
FILE_NAME = re.compile(r"(\d{3})-[a-z0-9-]+")


class CheckError(Exception):
    """A check failed; the text names the file and the place."""


def fail(path, place, what):
    try:
        path = path.relative_to(HERE.parent)
    except ValueError:
        pass
    raise CheckError(f"{path}: {place}: {what}")


# ---------------------------------------------------------------- reading

class Article:
    """One page: a file's number, its header and its markup."""

    def __init__(self, path):
        self.path = path
        self.number = file_number(path)
        header, separator, body = read_text(path).partition("\n\n")
        if not separator:
            fail(path, "line 1", "no empty line after the header")
        fields = {}
        for line_number, line in enumerate(header.split("\n"), 1):
            key, colon, value = line.partition(":")
            if not colon or key not in ("title", "ns", "redirect") or key in fields:
                fail(path, f"line {line_number}", f"bad header line {line!r}")
            fields[key] = value.strip()
        self.title = fields.get("title", "")
        self.redirect = fields.get("redirect")
        self.text = body.strip("\n")
        if not self.title:
            fail(path, "line 1", "no title")
        try:
            self.ns = int(fields.get("ns", "0"))
        except ValueError:
            fail(path, "header", f"ns is not a number: {fields['ns']!r}")
        if self.ns not in NAMESPACES:
            fail(path, "header", f"unknown namespace {self.ns}")
        prefix = NAMESPACES[self.ns]
        if prefix and not self.title.startswith(prefix + ":"):
            fail(path, "header", f"title lacks its namespace {prefix!r}")
        bad = re.search(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", self.text)
        if bad:
            fail(path, f"body character {bad.start()}", "not allowed in XML")

    @property
    def ordinary(self):
        return self.ns == 0 and self.redirect is None and self.number < FIRST_SPECIAL


def file_number(path):
    match = FILE_NAME.fullmatch(path.stem)
    if not match:
        fail(path, "file name", "not of the form NNN-slug")
    return int(match.group(1))


def read_text(path):
    try:
        return path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        fail(path, f"byte {error.start}", "not UTF-8")


def read_articles(folder):
    articles, numbers, titles = [], {}, {}
    for path in sorted(folder.glob("*.wiki"), key=lambda path: path.name):
        article = Article(path)
        for seen, key, what in ((numbers, article.number, "number"), (titles, article.title, "title")):
            if key in seen:
                fail(path, what, f"{key!r} is already that of {seen[key]}")
            seen[key] = path.name
        articles.append(article)
    return articles


def read_questions(folder, articles):
    """Return {article number: [{"context", "qas"}]}, checked."""
    by_stem = {article.path.stem: article for article in articles if article.ordinary}
    found, seen = {}, {}
    for path in sorted(folder.glob("*.json"), key=lambda path: path.name):
        if path.stem not in by_stem:
            fail(path, "file name", "no ordinary article of that name")
        try:
            blocks = json.loads(read_text(path))
        except json.JSONDecodeError as error:
            fail(path, f"line {error.lineno}", error.msg)
        if not isinstance(blocks, list) or not blocks:
            fail(path, "top", "not a list with something in it")
        for i, block in enumerate(blocks):
            check_keys(path, f"[{i}]", block, {"context": str, "qas": list})
            if not block["qas"]:
                fail(path, f"[{i}].qas", "no question")
            for j, qa in enumerate(block["qas"]):
                place = f"[{i}].qas[{j}]"
                check_keys(path, place, qa, {"question": str, "answer": str})
                if not qa["answer"] or qa["answer"] not in block["context"]:
                    fail(path, place, f"answer {qa['answer']!r} is not in the context")
                if qa["question"] in seen:
                    fail(path, place, f"question is already in {seen[qa['question']]}")
                seen[qa["question"]] = f"{path.name} {place}"
        found[by_stem[path.stem].number] = blocks
    return found


def check_keys(path, place, value, kinds):
    if not isinstance(value, dict) or set(value) != set(kinds):
        fail(path, place, f"not an object with the keys {', '.join(kinds)}")
    for key, kind in kinds.items():
        if not isinstance(value[key], kind):
            fail(path, f"{place}.{key}", f"not a {kind.__name__}")


# ---------------------------------------------------------------- checking

def crude_plain(text):
    """Markup roughly removed: good enough to count characters and to compare
    sentences, not a parser. Headings, tables, templates and notes go."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"<ref\b[^>]*?/>", "", text)
    text = re.sub(r"<ref\b[^>]*>.*?</ref>", "", text, flags=re.S)
    text = re.sub(r"\{\{(?:lang|仮リンク|ruby|読み仮名)\|(?:[a-z-]{2,8}\|)?([^{}|]*)[^{}]*\}\}", r"\1", text)
    text = remove_nested(r"\{\{((?!\{\{|\}\}).)*\}\}", text)
    text = remove_nested(r"^\{\|((?!^\{\|).)*?^\|\}", text)
    text = remove_nested(r"\[\[(?:ファイル|画像|File|Image|Category|カテゴリ):(?:(?!\[\[|\]\]).|\[\[[^\[\]]*\]\])*\]\]", text)
    text = re.sub(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]", r"\1", text)
    text = re.sub(r"\[https?://\S+ ?([^\]]*)\]", r"\1", text)
    text = re.sub(r"<r[pt]>.*?</r[pt]>", "", text)
    text = re.sub(r"<[^<>]*>", "", text)
    text = re.sub(r"^=+.*=+\s*$", "", text, flags=re.M)
    text = re.sub(r"^[*#:;]+\s*", "", text, flags=re.M)
    text = re.sub(r"&nbsp;|&#160;", " ", text)
    return text.replace("'''", "").replace("''", "")


def remove_nested(pattern, text):
    """Remove innermost matches until none is left."""
    count = 1
    while count:
        text, count = re.subn(pattern, "", text, flags=re.S | re.M)
    return text


def check_articles(articles):
    """Check the length of each ordinary article, and that none shares a sentence."""
    seen = {}
    for article in articles:
        if not article.ordinary:
            continue
        plain = crude_plain(article.text)
        length = len(re.sub(r"\s", "", plain))
        if length < MIN_ARTICLE_CHARS:
            fail(article.path, "body", f"{length} characters, fewer than {MIN_ARTICLE_CHARS}")
        for sentence in re.split(r"[。\n]", plain):
            sentence = sentence.strip()
            if len(sentence) < MIN_SENTENCE_CHARS:
                continue
            other = seen.setdefault(sentence, article.path.name)
            if other != article.path.name:
                fail(article.path, f"sentence {sentence!r}", f"is also in {other}")


def check_totals(articles, questions):
    article_count = sum(article.ordinary for article in articles)
    if article_count < MIN_ARTICLES:
        fail(HERE / "articles", "total", f"{article_count} articles, fewer than {MIN_ARTICLES}")
    question_count = count_questions(questions)
    if question_count < MIN_QUESTIONS:
        fail(HERE / "questions", "total", f"{question_count} questions, fewer than {MIN_QUESTIONS}")


def count_questions(questions):
    return sum(len(block["qas"]) for blocks in questions.values() for block in blocks)


# ---------------------------------------------------------------- the dump

def escape(text):
    """Escape as MediaWiki's exporter does, for text and attributes alike."""
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(char, entity)
    return text


def site_header():
    names = "".join(
        f'      <namespace key="{key}" case="first-letter" />\n' if not name else
        f'      <namespace key="{key}" case="first-letter">{escape(name)}</namespace>\n'
        for key, name in NAMESPACES.items())
    return (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/"'
        ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
        ' xsi:schemaLocation="http://www.mediawiki.org/xml/export-0.11/'
        ' http://www.mediawiki.org/xml/export-0.11.xsd" version="0.11" xml:lang="ja">\n'
        '  <siteinfo>\n'
        '    <sitename>Inazuma</sitename>\n'
        '    <dbname>inazuma</dbname>\n'
        '    <base>https://example.org/wiki/</base>\n'
        '    <generator>pack.py</generator>\n'
        '    <case>first-letter</case>\n'
        f'    <namespaces>\n{names}    </namespaces>\n'
        '  </siteinfo>\n')


def page_xml(article, page_id):
    redirect = ""
    if article.redirect is not None:
        redirect = f'    <redirect title="{escape(article.redirect)}" />\n'
    data = article.text.encode("utf-8")
    revision_id = REVISION_ID_BASE + page_id
    return (
        '  <page>\n'
        f'    <title>{escape(article.title)}</title>\n'
        f'    <ns>{article.ns}</ns>\n'
        f'    <id>{page_id}</id>\n'
        f'{redirect}'
        '    <revision>\n'
        f'      <id>{revision_id}</id>\n'
        f'      <timestamp>{TIMESTAMP}</timestamp>\n'
        '      <contributor>\n'
        '        <username>Inazuma</username>\n'
        '        <id>1</id>\n'
        '      </contributor>\n'
        f'      <origin>{revision_id}</origin>\n'
        '      <model>wikitext</model>\n'
        '      <format>text/x-wiki</format>\n'
        f'      <text bytes="{len(data)}" xml:space="preserve">{escape(article.text)}</text>\n'
        f'      <sha1>{sha1_base36(data)}</sha1>\n'
        '    </revision>\n'
        '  </page>\n')


def sha1_base36(data):
    """SHA-1 as the dumps write it: 31 digits in base 36."""
    value, digits = int(hashlib.sha1(data).hexdigest(), 16), ""
    while value:
        value, digit = divmod(value, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits.rjust(31, "0")


def build_dump(articles):
    """Return (the multistream XML, its index), both bz2 compressed."""
    dump = bytearray(bz2.compress(site_header().encode("utf-8")))
    index = []
    for first in range(0, len(articles), PAGES_PER_STREAM):
        pages = []
        for page_id, article in enumerate(articles[first:first + PAGES_PER_STREAM], first + 1):
            pages.append(page_xml(article, page_id))
            index.append(f"{len(dump)}:{page_id}:{escape(article.title)}\n")
        dump += bz2.compress("".join(pages).encode("utf-8"))
    dump += bz2.compress(b"</mediawiki>\n")
    return bytes(dump), bz2.compress("".join(index).encode("utf-8"))


# ---------------------------------------------------------------- SQuAD

def build_squad(articles, questions, dev):
    """Return one split in SQuAD 1.1 format, as bytes."""
    data = []
    for article in articles:
        if article.number not in questions or (article.number % DEV_EVERY == 0) != dev:
            continue
        paragraphs, count = [], 0
        for block in questions[article.number]:
            qas = []
            for qa in block["qas"]:
                count += 1
                # str.find counts code points, as answer_start must
                answer = {"text": qa["answer"], "answer_start": block["context"].find(qa["answer"])}
                qas.append({
                    "id": f"inz-{article.number:03}-{count:02}",
                    "question": qa["question"],
                    "answers": [answer],
                })
            paragraphs.append({"context": block["context"], "qas": qas})
        data.append({"title": article.title, "paragraphs": paragraphs})
    squad = {"version": SQUAD_VERSION, "data": data}
    return (json.dumps(squad, ensure_ascii=False, indent=1) + "\n").encode("utf-8")


# ---------------------------------------------------------------- main

def main():
    parser = argparse.ArgumentParser(description="Check and pack the articles and questions.")
    parser.add_argument("--partial", action="store_true", help="skip the check of the totals")
    options = parser.parse_args()
    try:
        articles = read_articles(HERE / "articles")
        check_articles(articles)
        questions = read_questions(HERE / "questions", articles)
        if not options.partial:
            check_totals(articles, questions)
    except CheckError as error:
        print(error, file=sys.stderr)
        return 1

    dump, index = build_dump(articles)
    outputs = {
        "inazuma-articles-multistream.xml.bz2": dump,
        "inazuma-articles-multistream-index.txt.bz2": index,
        "inazuma-squad-train.json": build_squad(articles, questions, dev=False),
        "inazuma-squad-dev.json": build_squad(articles, questions, dev=True),
    }
    for name, content in outputs.items():
        (HERE / name).write_bytes(content)
    ordinary = sum(article.ordinary for article in articles)
    print(f"{len(articles)} pages ({ordinary} articles), {count_questions(questions)} questions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
