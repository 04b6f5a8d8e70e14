//! Markup that counts only at the start of a line: headings, lists, tables.

use super::mark;
use super::state::{Kind, Scanner};

impl Scanner<'_> {
    /// Looks at the start of a line and passes over its markup, if it has any.
    pub(super) fn begin_line(&mut self) {
        let indent = self.bytes[self.at..].iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        let rest = &self.bytes[self.at + indent..];
        match rest.first() {
            Some(b'=') if indent == 0 => self.heading(),
            Some(b'*' | b'#') => {
                self.at += indent;
                self.list_item();
            }
            Some(b':' | b';') if indent == 0 => self.list_item(),
            Some(b'{') if rest.get(1) == Some(&b'|') && rest.get(2) != Some(&b'}') => {
                self.at += indent + 2;
                self.open(Kind::Table);
            }
            Some(b'|') => self.table_line(indent),
            Some(b'!') if self.top() == Some(Kind::Table) => self.reset_rescue(),
            Some(b'-') if indent == 0 && rest.starts_with(b"----") => {
                self.at += rest.iter().take_while(|&&b| b == b'-').count();
                self.out.push('\n');
            }
            _ => {}
        }
    }

    fn reset_rescue(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.rescue = None;
        }
    }

    fn table_line(&mut self, indent: usize) {
        let rest = &self.bytes[self.at + indent + 1..];
        let braces = rest.iter().take(4).take_while(|&&b| b == b'}').count();
        // In `|}}` inside a template the braces end the template.
        let ends = braces == 1 || braces == 3 || (braces > 0 && self.open_templates == 0);
        match self.top() {
            Some(Kind::Table) if ends => {
                self.at += indent + 2;
                if let Some(frame) = self.pop() {
                    self.cut(&frame);
                }
            }
            Some(_) => {
                self.reset_rescue();
                self.at += indent;
            }
            None => {
                self.out.push(mark::JUNK);
                self.at += indent + if ends { 2 } else { 1 };
            }
        }
    }

    fn list_item(&mut self) {
        let rest = &self.bytes[self.at..];
        let bullets = rest.iter().take_while(|b| matches!(b, b'*' | b'#' | b':' | b';')).count();
        let term = rest[bullets - 1] == b';';
        self.at += bullets;
        let spaces = self.bytes[self.at..].iter().take_while(|&&b| b == b' ').count();
        if self.bytes[self.at + spaces..].starts_with(b"{|") {
            self.at += spaces + 2;
            self.open(Kind::Table);
            return;
        }
        if self.frames.is_empty() {
            self.out.push(mark::ITEM);
        }
        self.term_depth = term.then_some(self.frames.len());
    }

    /// `== Heading ==`, perhaps with comments behind it.
    fn heading(&mut self) {
        let line_end =
            memchr::memchr(b'\n', &self.bytes[self.at..]).map_or(self.bytes.len(), |length| self.at + length);
        let mut line = self.source[self.at..line_end].trim_end();
        while let Some(start) = line.strip_suffix("-->").and_then(|head| head.rfind("<!--")) {
            line = line[..start].trim_end();
        }
        let opening = line.bytes().take_while(|&b| b == b'=').count();
        let closing = line.bytes().rev().take_while(|&b| b == b'=').count();
        let level = opening.min(closing).min(6);
        if level == 0 || line.len() <= opening.max(closing) {
            // `a = b` at the start of a line, or a row of signs.
            self.at += opening;
            if opening == 1 && line.len() > 1 {
                self.out.push('=');
            }
            return;
        }
        let from = self.at + line.len() - level;
        self.at += level;
        if let Some(frame) = self.frames.last_mut()
            && frame.rescue.is_none()
        {
            frame.rescue = Some(self.out.len());
        }
        self.out.push(mark::HEADING);
        self.out.push(char::from(b'0' + level as u8));
        self.heading_end = Some((from, line_end));
    }
}
