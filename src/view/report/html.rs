//! Pieces of the page.

use std::fmt::Write;

use quick_xml::escape::escape;

/// A cell of a table: its class, and its text as HTML.
pub struct Cell(pub &'static str, pub String);

pub fn number(text: impl ToString) -> Cell {
    Cell("number", escape(text.to_string()).into_owned())
}

pub fn name(text: &str) -> Cell {
    Cell("name", escape(text).into_owned())
}

pub fn words(text: &str) -> Cell {
    Cell("", escape(text).into_owned())
}

/// A share of something as a bar.
pub fn bar(share: f64) -> Cell {
    Cell(
        "",
        format!("<span class=\"bar\" style=\"width: {:.1}em\">\u{200b}</span>", 12.0 * share.clamp(0.0, 1.0)),
    )
}

fn class(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" class=\"{name}\"") }
}

/// A table; rows with a class each.
pub fn table(head: &[&str], rows: &[(&str, Vec<Cell>)]) -> String {
    let mut html = "<div class=\"wide\"><table>\n<thead><tr>".to_owned();
    let first = rows.first().map(|(_, cells)| cells.as_slice()).unwrap_or_default();
    for (column, text) in head.iter().enumerate() {
        let of = first.get(column).map_or("", |cell| if cell.0 == "number" { "number" } else { "" });
        let _ = write!(html, "<th{} scope=\"col\">{}</th>", class(of), escape(*text));
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for (row, cells) in rows {
        let _ = write!(html, "<tr{}>", class(row));
        for Cell(of, text) in cells {
            let _ = write!(html, "<td{}>{text}</td>", class(of));
        }
        html.push_str("</tr>\n");
    }
    html + "</tbody>\n</table></div>\n"
}

/// Terms and what is said of each.
pub fn list(facts: &[(String, String)]) -> String {
    let mut html = "<dl>\n".to_owned();
    for (term, text) in facts {
        let _ = writeln!(html, "<dt>{}</dt><dd>{}</dd>", escape(term), escape(text));
    }
    html + "</dl>\n"
}

/// A section of the page.
pub fn section(title: &str, inside: &str) -> String {
    format!("<section>\n<h2>{}</h2>\n{inside}</section>\n", escape(title))
}

/// A remark.
pub fn note(text: &str) -> String {
    format!("<p class=\"note\">{}</p>\n", escape(text))
}
