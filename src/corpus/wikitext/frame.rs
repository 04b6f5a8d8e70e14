//! What can be open while scanning, and how it ends when its end is missing.

use super::mark;
use super::state::{Frame, Kind, Scanner};

/// Deeper nesting is not followed; no article needs it, and it bounds the work of closing frames.
pub(super) const DEPTH_MAX: usize = 96;

impl Scanner<'_> {
    pub(super) fn top(&self) -> Option<Kind> {
        self.frames.last().map(|frame| frame.kind)
    }

    /// Opens a frame; beyond [`DEPTH_MAX`] the opening is passed over.
    pub(super) fn open(&mut self, kind: Kind) {
        if self.frames.len() >= DEPTH_MAX {
            return;
        }
        if matches!(kind, Kind::Template | Kind::Parameter) {
            self.open_templates += 1;
        }
        self.frames.push(Frame {
            kind,
            start: self.out.len(),
            first_pipe: self.pipes.len(),
            rescue: None,
            broken: false,
        });
    }

    /// Takes the top frame off the stack; its pipes stay until [`Self::end_pipes`].
    pub(super) fn pop(&mut self) -> Option<Frame> {
        let frame = self.frames.pop()?;
        if matches!(frame.kind, Kind::Template | Kind::Parameter) {
            self.open_templates -= 1;
        }
        Some(frame)
    }

    /// Forgets the pipes of a frame that is done.
    pub(super) fn end_pipes(&mut self, frame: &Frame) {
        self.pipes.truncate(frame.first_pipe);
    }

    /// Cuts the content of `frame` off and marks the place.
    pub(super) fn cut(&mut self, frame: &Frame) {
        self.out.truncate(frame.start);
        self.out.push(mark::CUT);
        self.end_pipes(frame);
    }

    /// Keeps `range` of the buffer as all that is left of `frame`.
    pub(super) fn keep(&mut self, frame: &Frame, range: std::ops::Range<usize>) {
        self.out.truncate(range.end);
        self.out.drain(frame.start..range.start);
        self.end_pipes(frame);
    }

    /// Replaces the content of `frame`.
    pub(super) fn replace(&mut self, frame: &Frame, text: &str) {
        self.out.truncate(frame.start);
        self.out.push_str(text);
        self.end_pipes(frame);
    }

    /// Gives up on the top frame, which turned out not to be markup: its text stays.
    pub(super) fn abandon(&mut self) {
        if let Some(frame) = self.pop() {
            if frame.kind == Kind::Link
                && let Some(&pipe) = self.pipes.get(frame.first_pipe)
            {
                let end = self.out.len();
                self.keep(&frame, pipe..end);
            }
            self.end_pipes(&frame);
        }
    }

    /// Abandons frames until one of `kinds` is on top; false (and nothing done) where there is none.
    pub(super) fn unwind_to(&mut self, kinds: &[Kind]) -> bool {
        let Some(at) = self.frames.iter().rposition(|f| kinds.contains(&f.kind)) else {
            return false;
        };
        while self.frames.len() > at + 1 {
            self.abandon();
        }
        true
    }

    /// The source goes on to a new line: links do not reach over it, and block frames note where they may have ended.
    pub(super) fn note_line_break(&mut self, next: Option<u8>) {
        while let Some(kind) = self.top() {
            let open_ended = match kind {
                Kind::ExternalLink => true,
                Kind::Link => {
                    let no_label = self.frames.last().is_some_and(|f| f.first_pipe == self.pipes.len());
                    no_label || next == Some(b'\n') || next == Some(b'=')
                }
                _ => false,
            };
            if !open_ended {
                break;
            }
            self.abandon();
        }
        let length = self.out.len();
        let last_pipe = self.pipes.last().copied();
        let Some(frame) = self.frames.last_mut() else {
            return;
        };
        let own_pipe = last_pipe.filter(|_| self.pipes.len() > frame.first_pipe);
        if matches!(next, Some(b'|' | b'!' | b'}')) || own_pipe == Some(length) {
            frame.rescue = None;
        } else if frame.rescue.is_none() {
            let inline = !frame.broken && !matches!(frame.kind, Kind::Table | Kind::HtmlTable);
            frame.rescue = Some(if inline { own_pipe.unwrap_or(frame.start) } else { length });
        }
        frame.broken = true;
    }

    /// The end of the text: what is still open was never markup, and its text comes back.
    pub(super) fn unwind_at_end(&mut self) {
        let Some(first) = self.frames.first() else {
            return;
        };
        let old = std::mem::take(&mut self.out);
        let mut kept = String::with_capacity(old.len());
        kept.push_str(&old[..first.start]);
        for (index, frame) in self.frames.iter().enumerate() {
            let end = self.frames.get(index + 1).map_or(old.len(), |f| f.start);
            let pipe = self.pipes.get(frame.first_pipe).copied();
            let from = match frame.kind {
                Kind::Table | Kind::HtmlTable => frame.rescue.unwrap_or(end),
                Kind::Template => match frame.rescue {
                    Some(rescue) => rescue,
                    // On the last line: what stands behind the last `|` is the text of most inline templates.
                    None if !frame.broken => {
                        let pipes = self.frames.get(index + 1).map_or(self.pipes.len(), |f| f.first_pipe);
                        self.pipes[frame.first_pipe..pipes].last().copied().unwrap_or(frame.start)
                    }
                    None => end,
                },
                _ => pipe.unwrap_or(frame.start),
            };
            if frame.start < end {
                kept.push(mark::CUT);
            }
            kept.push_str(&old[from.clamp(frame.start, end)..end]);
        }
        self.out = kept;
        self.frames.clear();
        self.pipes.clear();
        self.open_templates = 0;
    }
}
