//! What a person is told while something runs: the lines of the log, and a line of progress that rewrites itself.

/// A line of the log, on stderr unless the user wants it quiet. A reader that is gone or a disk that is full takes
/// nothing away from what runs: that a line could not be written is no error.
macro_rules! note {
    ($($argument:tt)*) => { ::tracing::info!("{}", ::std::format_args!($($argument)*)) };
}

/// A line that is wanted when all is to be quiet, too.
macro_rules! warning {
    ($($argument:tt)*) => { ::tracing::warn!("{}", ::std::format_args!($($argument)*)) };
}

/// A line for who wants to know more: `--verbose`.
macro_rules! detail {
    ($($argument:tt)*) => { ::tracing::debug!("{}", ::std::format_args!($($argument)*)) };
}

use std::fmt::{self, Display, Formatter};

mod layout;
mod logs;
mod terminal;
mod time;

pub use layout::{Parts, columns, count, grouped, narrow};
pub use logs::{Verbosity, start};
pub use terminal::{Bar, end_now, say, takes_colour};
pub use time::{duration, short_duration};

/// Says that an error is one of the command line: what the user typed there, under which option.
#[derive(Clone, Copy, Debug)]
pub struct WrongUsage(pub &'static str);

impl Display for WrongUsage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
