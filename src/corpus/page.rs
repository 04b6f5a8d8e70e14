//! Cutting XML into pages, reading one page, and deciding whether it is an article.

use memchr::memmem;
use quick_xml::Reader;
use quick_xml::events::Event;

use super::output::{Batch, Format, Skip};
use super::wikitext::{self, Style};
use super::{Place, Problem};

const OPEN: &[u8] = b"<page>";
const CLOSE: &[u8] = b"</page>";

/// What decides about a page, the same for all threads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub format: Format,
    pub min_chars: usize,
    pub style: Style,
}

/// Where the whole pages of a piece of XML lie: from the first `<page>` to the end of the last `</page>`.
/// The bytes before and after belong to pages that reach into the neighbouring pieces. `None` without a whole page.
///
/// Inside the elements of a page `<` is always escaped, so the tags cannot occur in a text.
pub(super) fn whole_pages(xml: &[u8]) -> Option<std::ops::Range<usize>> {
    let start = memmem::find(xml, OPEN)?;
    let end = memmem::rfind(xml, CLOSE)? + CLOSE.len();
    (end > start).then_some(start..end)
}

/// Where the last page of `xml` starts.
pub(super) fn page_start(xml: &[u8]) -> Option<usize> {
    memmem::rfind(xml, OPEN)
}

/// Reads the pages of XML that lies in memory: the articles as JSON lines, and what could not be read.
pub fn read_xml(xml: &[u8], style: Style) -> (Vec<u8>, Vec<String>) {
    let mut batch = Batch::default();
    let rules = Rules { format: Format::Jsonl, min_chars: 0, style };
    let open = read_pages(xml, Place::plain(0), rules, &mut batch);
    let open = open.map(|at| Problem::at(Place::plain(at as u64), "a page is not closed"));
    let problems = batch.problems.iter().chain(&open).map(|problem| problem.message.clone()).collect();
    (batch.into_bytes(), problems)
}

/// Reads every page of `xml` into `batch`. Returns where the first page starts that is not closed, if one is not.
pub(super) fn read_pages(xml: &[u8], place: Place, rules: Rules, batch: &mut Batch) -> Option<usize> {
    let mut at = 0;
    while let Some(found) = memmem::find(&xml[at..], OPEN) {
        let start = at + found;
        let Some(length) = memmem::find(&xml[start..], CLOSE) else {
            return Some(start);
        };
        let end = start + length + CLOSE.len();
        // A page that was never closed must not swallow the next one.
        let last = start + memmem::rfind(&xml[start..end], OPEN).unwrap_or(0);
        if last > start {
            batch.malformed(Problem::at(place.plus(start), "a page is not closed"));
        }
        read_page(&xml[last..end], place.plus(last), rules, batch);
        at = end;
    }
    None
}

/// The parts of a page that matter here.
#[derive(Debug, Default)]
struct Page {
    title: String,
    namespace: String,
    id: String,
    redirect: bool,
    model: String,
    text: String,
}

fn read_page(xml: &[u8], place: Place, rules: Rules, batch: &mut Batch) {
    let page = match parse(xml) {
        Ok(page) => page,
        Err((offset, what)) => {
            batch.malformed(Problem::at(place.plus(offset), &what));
            return;
        }
    };
    if page.namespace.trim() != "0" && !page.namespace.is_empty() {
        return batch.skip(Skip::Namespace);
    }
    if page.redirect || wikitext::is_redirect(&page.text) {
        return batch.skip(Skip::Redirect);
    }
    if !page.model.is_empty() && page.model != "wikitext" {
        return batch.skip(Skip::Model);
    }
    if wikitext::is_disambiguation_title(&page.title) {
        return batch.skip(Skip::Disambiguation);
    }
    let cleaned = wikitext::clean(&page.title, &page.text, rules.style);
    if cleaned.disambiguation {
        return batch.skip(Skip::Disambiguation);
    }
    let characters = cleaned.text.chars().count();
    if characters == 0 {
        return batch.skip(Skip::Empty);
    }
    if characters < rules.min_chars {
        return batch.skip(Skip::Short);
    }
    batch.article(rules.format, &page.id, &page.title, &cleaned.text, characters);
}

/// Reads one `<page>…</page>`. The error holds the offset in `xml` and what is wrong.
fn parse(xml: &[u8]) -> Result<Page, (usize, String)> {
    let xml = std::str::from_utf8(xml)
        .map_err(|error| (error.valid_up_to(), "a page is not valid UTF-8".to_owned()))?;
    if let Some(nul) = memchr::memchr(0, xml.as_bytes()) {
        return Err((nul, "a page holds a NUL character".to_owned()));
    }
    let mut reader = Reader::from_str(xml);
    let mut page = Page::default();
    // Where text goes now; the id of the page is the one outside <revision> and <contributor>.
    let mut path: Vec<Element> = Vec::with_capacity(8);
    loop {
        let before = reader.buffer_position() as usize;
        let event = reader
            .read_event()
            .map_err(|error| (before, format!("a page is not well-formed XML: {error}")))?;
        match event {
            Event::Start(tag) => {
                let element = Element::of(tag.name().as_ref());
                match element {
                    // With a full history the last revision, which is the newest, wins.
                    Element::Text => page.text.clear(),
                    Element::Model => page.model.clear(),
                    _ => {}
                }
                path.push(element);
            }
            Event::End(_) => {
                path.pop();
            }
            Event::Empty(tag) => match Element::of(tag.name().as_ref()) {
                Element::Redirect => page.redirect = true,
                Element::Text => page.text.clear(),
                _ => {}
            },
            Event::Text(text) => {
                if let Some(target) = target(&mut page, &path) {
                    target.push_str(&text.into_inner());
                }
            }
            Event::CData(text) => {
                if let Some(target) = target(&mut page, &path) {
                    target.push_str(&text.into_inner());
                }
            }
            Event::GeneralRef(reference) => {
                if let Some(target) = target(&mut page, &path) {
                    push_reference(target, &reference.into_inner()).map_err(|what| (before, what))?;
                }
            }
            Event::Eof => return Ok(page),
            _ => {}
        }
    }
}

/// Appends what `&name;` stands for.
fn push_reference(target: &mut String, name: &str) -> Result<(), String> {
    match name {
        "lt" => target.push('<'),
        "gt" => target.push('>'),
        "amp" => target.push('&'),
        "quot" => target.push('"'),
        "apos" => target.push('\''),
        _ => match wikitext::entity(name) {
            Some(text) if text != "\0" => target.push_str(&text),
            _ => return Err(format!("a page holds the impossible reference &{name};")),
        },
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    Page,
    Title,
    Namespace,
    Id,
    Redirect,
    Revision,
    Model,
    Text,
    Other,
}

impl Element {
    fn of(name: &str) -> Self {
        match name {
            "page" => Self::Page,
            "title" => Self::Title,
            "ns" => Self::Namespace,
            "id" => Self::Id,
            "redirect" => Self::Redirect,
            "revision" => Self::Revision,
            "model" => Self::Model,
            "text" => Self::Text,
            _ => Self::Other,
        }
    }
}

fn target<'p>(page: &'p mut Page, path: &[Element]) -> Option<&'p mut String> {
    match path {
        [Element::Page, Element::Title] => Some(&mut page.title),
        [Element::Page, Element::Namespace] => Some(&mut page.namespace),
        [Element::Page, Element::Id] => Some(&mut page.id),
        [Element::Page, Element::Revision, Element::Model] => Some(&mut page.model),
        [Element::Page, Element::Revision, Element::Text] => Some(&mut page.text),
        _ => None,
    }
}
