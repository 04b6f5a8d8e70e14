//! The threads of an extraction: one reads, several decode and clean, the caller's writes in dump order.
//!
//! Each piece of work gets a small channel of its own, and the receiving ends stand in a bounded queue in dump order.
//! Whoever is ahead of the writer waits on its own channel, so memory is bounded and the order needs no sorting. The
//! queue of work is first in, first out: the piece the writer waits for has always been picked up.

use std::io::Read;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::files::size;

use super::output::{Batch, Writer};
use super::page::{self, Rules};
use super::segment::{self, Decoded};
use super::source::{self, Work};
use super::{Extraction, Place, Problem, Settings, Stop};

/// A page longer than this (bytes of XML) is given up. MediaWiki allows 2 MB of text, so this is a broken dump or a
/// whole history; several times as much is held while a page is cleaned, and that has to stay far under 1 GB.
const PAGE_MAX: usize = 64 << 20;
/// How often progress is reported.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// How many parts of one piece may wait for the writer.
const PARTS_AHEAD: usize = 2;

/// What reaches the writer, in dump order.
enum Part {
    /// A dump starts.
    Begin(usize),
    /// A piece of XML: the pages that lie wholly in it are done, the ends are still XML.
    Piece { place: Place, head: Vec<u8>, batch: Option<Box<Batch>>, tail_place: Place, tail: Vec<u8> },
    /// A gap in the dump.
    Gap(Problem),
    /// The dump ends, or reading it failed.
    End(Result<()>),
}

/// Runs the extraction `settings` describe. `progress` gets a line now and then; `stop` ends the run early.
///
/// # Errors
/// A dump that cannot be opened or read, an output directory that cannot be written or is taken. Unreadable parts of
/// a dump are no error: they are listed in [`Extraction::problems`], and everything else is written.
pub fn extract(settings: &Settings, stop: &Stop, progress: &mut dyn FnMut(&str)) -> Result<Extraction> {
    let inputs = settings.dumps.iter().map(|path| source::open(path)).collect::<Result<Vec<_>>>()?;
    let mut writer = Writer::create(settings)?;
    let rules = Rules { format: settings.format, min_chars: settings.min_chars, style: settings.style };
    let threads = settings.threads.max(1);
    let (order_in, order) = sync_channel::<Receiver<Part>>(threads + 2);
    let (work_in, work) = sync_channel::<(Work, SyncSender<Part>)>(threads + 2);
    let work = Mutex::new(work);
    let mut joiner = Joiner {
        settings,
        rules,
        writer: &mut writer,
        carry: Vec::new(),
        carry_place: Place::plain(0),
        started: false,
        foreign: false,
        overlong: false,
        gap: false,
        source: String::new(),
        problems: Vec::new(),
    };
    let interrupted = std::thread::scope(|scope| {
        scope.spawn(move || feed(inputs, &order_in, &work_in));
        for _ in 0..threads {
            let work = &work;
            scope.spawn(move || serve(work, rules));
        }
        // Owned here, so that leaving early closes the queue and the threads end.
        let order = order;
        joiner.drain(&order, stop, progress)
    })?;
    let problems = joiner.problems;
    if interrupted {
        let manifest = writer.manifest.clone();
        return Ok(Extraction { manifest, problems, interrupted });
    }
    Ok(Extraction { manifest: writer.finish(&problems)?, problems, interrupted })
}

/// The reading thread: every piece of every dump into the queues.
fn feed(
    inputs: Vec<Box<dyn Read + Send>>,
    order: &SyncSender<Receiver<Part>>,
    work: &SyncSender<(Work, SyncSender<Part>)>,
) {
    let tell = |part: Part| {
        let (sender, receiver) = sync_channel(1);
        sender.send(part).is_ok() && order.send(receiver).is_ok()
    };
    for (index, mut input) in inputs.into_iter().enumerate() {
        if !tell(Part::Begin(index)) {
            return;
        }
        let result = source::split(input.as_mut(), &mut |piece| match piece {
            Work::Problem(problem) => tell(Part::Gap(problem)),
            piece => {
                let (sender, receiver) = sync_channel(PARTS_AHEAD);
                order.send(receiver).is_ok() && work.send((piece, sender)).is_ok()
            }
        });
        if !tell(Part::End(result)) {
            return;
        }
    }
}

/// A working thread: takes pieces until there are no more.
fn serve(work: &Mutex<Receiver<(Work, SyncSender<Part>)>>, rules: Rules) {
    let mut buffer = Vec::new();
    loop {
        // A poisoned lock means that another worker panicked, which the scope reports.
        let Ok(next) = work.lock().map(|work| work.recv()) else {
            return;
        };
        let Ok((piece, sender)) = next else {
            return;
        };
        match piece {
            Work::Xml { place, bytes } => {
                let _ = sender.send(read_piece(place, &bytes, rules));
            }
            Work::Problem(problem) => {
                let _ = sender.send(Part::Gap(problem));
            }
            Work::Segment { offset, bytes } => {
                segment::decode(offset, &bytes, &mut buffer, &mut |decoded| {
                    let part = match decoded {
                        Decoded::Xml { place, bytes } => read_piece(place, bytes, rules),
                        Decoded::Problem(problem) => Part::Gap(problem),
                    };
                    sender.send(part).is_ok()
                });
            }
        }
    }
}

/// Reads the pages that lie wholly in a piece.
fn read_piece(place: Place, xml: &[u8], rules: Rules) -> Part {
    let Some(whole) = page::whole_pages(xml) else {
        return Part::Piece { place, head: xml.to_vec(), batch: None, tail_place: place, tail: Vec::new() };
    };
    let mut batch = Batch::default();
    page::read_pages(&xml[whole.clone()], place.plus(whole.start), rules, &mut batch);
    Part::Piece {
        place,
        head: xml[..whole.start].to_vec(),
        batch: Some(Box::new(batch)),
        tail_place: place.plus(whole.end),
        tail: xml[whole.end..].to_vec(),
    }
}

/// The writing end: joins what the pieces cut apart, and keeps the books.
struct Joiner<'a> {
    settings: &'a Settings,
    rules: Rules,
    writer: &'a mut Writer,
    /// XML since the last whole page.
    carry: Vec<u8>,
    carry_place: Place,
    /// The first bytes of this dump have been looked at.
    started: bool,
    /// This dump is not MediaWiki XML; the rest of it is passed over.
    foreign: bool,
    /// What is carried belongs to a page that was given up.
    overlong: bool,
    /// A problem of this dump has been named; its end need not be complained about as well.
    gap: bool,
    source: String,
    problems: Vec<String>,
}

impl Joiner<'_> {
    /// Writes everything; true when the user interrupted.
    fn drain(
        &mut self,
        order: &Receiver<Receiver<Part>>,
        stop: &Stop,
        progress: &mut dyn FnMut(&str),
    ) -> Result<bool> {
        let mut reported = Instant::now();
        for parts in order {
            for part in parts {
                if stop.load(Ordering::Relaxed) {
                    return Ok(true);
                }
                let place = match &part {
                    Part::Piece { place, .. } => Some(place.at),
                    _ => None,
                };
                self.take(part)?;
                if let Some(at) = place
                    && reported.elapsed() >= REPORT_EVERY
                {
                    reported = Instant::now();
                    let articles = self.writer.manifest.articles;
                    let (source, read) = (&self.source, size(at));
                    progress(&format!("{source}: {read} read, {articles} articles"));
                }
            }
        }
        Ok(false)
    }

    fn take(&mut self, part: Part) -> Result<()> {
        match part {
            Part::Begin(index) => self.begin(&self.settings.dumps[index]),
            Part::Gap(problem) => {
                // The page that the gap cuts through is part of the problem, not another one.
                self.flush(None)?;
                self.carry.clear();
                if !self.foreign {
                    self.gap = true;
                    self.name(&problem);
                }
            }
            Part::Piece { place, head, batch, tail_place, tail } => {
                if self.carry.is_empty() {
                    self.carry_place = place;
                }
                self.carry.extend_from_slice(&head);
                self.look_at_start();
                if self.foreign {
                    self.carry.clear();
                    return Ok(());
                }
                if let Some(batch) = batch {
                    self.flush((!self.overlong).then_some("a page is not closed"))?;
                    self.overlong = false;
                    self.write(&batch)?;
                    self.carry = tail;
                    self.carry_place = tail_place;
                } else if self.carry.len() > PAGE_MAX {
                    self.give_up_page();
                }
            }
            Part::End(result) => {
                self.end()?;
                result.with_context(|| self.source.clone())?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, dump: &Path) {
        self.source = match dump.to_str() {
            Some("-") => "standard input".to_owned(),
            _ => dump.display().to_string(),
        };
        self.carry.clear();
        (self.started, self.foreign, self.gap, self.overlong) = (false, false, false, false);
    }

    /// Refuses what is not UTF-8 MediaWiki XML by its first bytes, so that no page is looked for in it.
    fn look_at_start(&mut self) {
        if self.started || self.gap || self.carry.len() < 4 {
            return;
        }
        self.started = true;
        let head = &self.carry[..self.carry.len().min(4096)];
        let utf16 = [&b"\xff\xfe"[..], b"\xfe\xff", b"<\0", b"\0<"];
        let what = if utf16.iter().any(|start| head.starts_with(start)) {
            "the dump is UTF-16; convert it with `iconv -f UTF-16 -t UTF-8` first"
        } else if memchr::memmem::find(head, b"<mediawiki").is_none() {
            "this is not a MediaWiki XML dump: it does not start with <mediawiki>"
        } else {
            return;
        };
        self.foreign = true;
        self.name(&Problem::at(self.carry_place, what));
    }

    /// Drops a page that is too long to hold, and names it once, however long it goes on.
    fn give_up_page(&mut self) {
        /// A tag cut apart by the end of what is carried.
        const REST: usize = 16;
        let start = page::page_start(&self.carry);
        if let Some(start) = start.or((!self.overlong).then_some(0)) {
            let what = format!("a page longer than {} was left out", size(PAGE_MAX as u64));
            let problem = Problem::at(self.carry_place.plus(start), &what);
            self.name(&problem);
        }
        (self.overlong, self.gap) = (true, true);
        let kept = self.carry.len().saturating_sub(REST);
        self.carry_place = self.carry_place.plus(kept);
        self.carry = self.carry.split_off(kept);
    }

    /// Reads the pages in the carried XML, which now reaches a page boundary.
    /// `unclosed` is what to say about one that is not closed.
    fn flush(&mut self, unclosed: Option<&str>) -> Result<()> {
        if self.carry.is_empty() || self.foreign {
            return Ok(());
        }
        let carry = std::mem::take(&mut self.carry);
        let mut batch = Batch::default();
        let open = page::read_pages(&carry, self.carry_place, self.rules, &mut batch);
        if let (Some(open), Some(what)) = (open, unclosed) {
            batch.malformed(Problem::at(self.carry_place.plus(open), what));
        }
        self.write(&batch)
    }

    fn end(&mut self) -> Result<()> {
        if self.foreign {
            return Ok(());
        }
        let end = self.carry_place.plus(self.carry.len());
        let closed = memchr::memmem::find(&self.carry, b"</mediawiki>").is_some();
        let before = self.problems.len();
        let cut = "the dump is truncated: it ends inside the page that starts here";
        self.flush((!self.gap).then_some(cut))?;
        if !closed && !self.gap && self.problems.len() == before {
            let what = if self.started {
                "the dump is truncated: it ends without </mediawiki>"
            } else {
                "the dump is empty"
            };
            self.name(&Problem::at(end, what));
        }
        Ok(())
    }

    fn write(&mut self, batch: &Batch) -> Result<()> {
        for problem in &batch.problems {
            self.name(problem);
        }
        self.writer.write(batch)
    }

    fn name(&mut self, problem: &Problem) {
        // A dump that is rotten throughout must not fill the memory with complaints.
        const MAX: usize = 10_000;
        if self.problems.len() < MAX {
            self.problems.push(format!("{}: {}", self.source, problem.message));
        }
    }
}
