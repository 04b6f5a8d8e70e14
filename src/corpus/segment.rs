//! Decoding a segment: whole bzip2 streams that lie in memory.

use super::bzip::{Fed, StreamDecoder, find_stream_start};
use super::source::XML_PIECE;
use super::{Place, Problem};

/// What comes out of a segment, in order.
pub(super) enum Decoded<'a> {
    Xml { place: Place, bytes: &'a [u8] },
    Problem(Problem),
}

/// Gives the next piece on; false when nobody wants any more.
type Sink<'a> = dyn FnMut(Decoded) -> bool + 'a;

/// Decodes the streams in `bytes`, which start at byte `offset` of the file, by way of `buffer`, whose content does
/// not matter. Damaged streams become problems; what follows them is decoded all the same.
pub(super) fn decode(offset: u64, bytes: &[u8], buffer: &mut Vec<u8>, sink: &mut Sink) {
    buffer.clear();
    let mut segment = Segment { offset, bytes, place: Place::stream(offset, 0), out: buffer, sink };
    let mut at = Some(0);
    while let Some(start) = at.filter(|&at| at < bytes.len()) {
        at = if bytes[start..].starts_with(b"BZh") { segment.stream(start) } else { segment.garbage(start) };
    }
    let whole = segment.out.len();
    segment.emit(whole);
}

struct Segment<'a, 'b> {
    offset: u64,
    bytes: &'a [u8],
    /// Where the first byte of `out` belongs.
    place: Place,
    /// Decoded, but not handed on.
    out: &'a mut Vec<u8>,
    sink: &'a mut Sink<'b>,
}

impl Segment<'_, '_> {
    /// Hands on the first `count` decoded bytes.
    fn emit(&mut self, count: usize) -> bool {
        if count == 0 {
            return true;
        }
        let (place, bytes) = (self.place, &self.out[..count]);
        let going = (self.sink)(Decoded::Xml { place, bytes });
        self.out.drain(..count);
        self.place = self.place.plus(count);
        going
    }

    /// Hands on everything decoded, then the problem.
    fn problem(&mut self, problem: Problem) -> bool {
        let whole = self.out.len();
        self.emit(whole) && (self.sink)(Decoded::Problem(problem))
    }

    /// Passes over what is no stream; returns where the next one starts, or nothing when nobody listens any more.
    fn garbage(&mut self, start: usize) -> Option<usize> {
        let rest = &self.bytes[start..];
        let next = find_stream_start(rest).unwrap_or(rest.len());
        // Tapes and block devices pad files with zeros; anything else is a stream whose header is damaged.
        let padding = rest[..next].iter().all(|&b| b == 0);
        let at = self.offset + start as u64;
        (padding || self.problem(Problem::garbage(at))).then_some(start + next)
    }

    /// Decodes the stream at `start`; returns where it ends, or nothing when nobody listens any more.
    fn stream(&mut self, start: usize) -> Option<usize> {
        if self.out.is_empty() {
            self.place = Place::stream(self.offset + start as u64, 0);
        }
        let mut decoder = StreamDecoder::new();
        let mut at = start;
        loop {
            let limit = self.out.len() + XML_PIECE;
            let fed = decoder.feed(&self.bytes[at..], self.out, limit);
            let from = self.offset + start as u64;
            let reached = from + decoder.consumed();
            let Ok((state, used)) = fed else {
                let next = find_stream_start(&self.bytes[start + 1..])
                    .map_or(self.bytes.len(), |found| start + 1 + found);
                return self.problem(Problem::damaged(from, reached)).then_some(next);
            };
            at += used;
            match state {
                Fed::End => return Some(at),
                Fed::NeedsInput => {
                    let problem = Problem::cut_short(from, reached);
                    return self.problem(problem).then_some(self.bytes.len());
                }
                Fed::Full => {}
            }
            // Only what the block checksums cover is handed on.
            let sound = self.out.len() - decoder.unverified().min(self.out.len());
            if sound >= XML_PIECE && !self.emit(sound) {
                return None;
            }
        }
    }
}
