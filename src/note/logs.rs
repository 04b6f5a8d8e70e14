//! Which lines are wanted, and what they look like: `--quiet`, `--verbose`, `RUST_LOG`.

use std::fmt::{Debug, Write as _};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::terminal::say;

/// How much the user wants to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// Warnings and errors.
    Quiet,
    /// What `RUST_LOG` says, else notes too.
    #[default]
    Normal,
    /// Details too, with time and level.
    Verbose,
    /// Errors: of several processes one speaks.
    Errors,
}

impl Verbosity {
    /// Lines of other libraries are not wanted unless `RUST_LOG` names them.
    fn directives(self) -> &'static str {
        match self {
            Verbosity::Quiet => "inazuma=warn",
            Verbosity::Normal => "inazuma=info",
            Verbosity::Verbose => "inazuma=debug",
            Verbosity::Errors => "inazuma=error",
        }
    }
}

/// From now on lines are written. A second call changes nothing.
pub fn start(verbosity: Verbosity) {
    let asked = std::env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    let asked = asked.filter(|_| verbosity == Verbosity::Normal);
    let parsed = asked.as_deref().map(|text| EnvFilter::builder().parse(text));
    let (filter, wrong) = match parsed {
        Some(Ok(filter)) => (Some(filter), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    let filter = filter.unwrap_or_else(|| EnvFilter::new(verbosity.directives()));
    let lines = Lines { dated: verbosity == Verbosity::Verbose };
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(filter).with(lines));
    if let (Some(error), Some(text)) = (wrong, asked) {
        warning!("inazuma: warning: RUST_LOG={text}: {error}; it is as if it were not set");
    }
}

/// Writes events as plain lines. The one of `tracing_subscriber` panics where its own complaint about a lost stderr cannot
/// be written.
struct Lines {
    dated: bool,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        let mut line = String::new();
        if self.dated {
            let now = humantime::format_rfc3339_seconds(SystemTime::now());
            let _ = write!(line, "{now} {level:5} ");
        }
        event.record(&mut Text(&mut line));
        say(level, &line);
    }
}

/// Gathers the message, and values beside it as `name=value`.
struct Text<'a>(&'a mut String);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
