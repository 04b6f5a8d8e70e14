//! What a person is told while something runs.

/// Writes a line to stderr. A reader that is gone or a disk that is full takes nothing away from what runs: that a line
/// could not be written is no error.
macro_rules! note {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}
