//! What a configuration key is: its kind and bounds, its default, and how a value of it is read and refused.

use std::fmt::{self, Display, Formatter};
use std::ops::Bound::{self, Excluded, Included, Unbounded};

use anyhow::{Result, bail};

use crate::batch::masking::Masking;
use crate::interop::positions::Extension;
use crate::tensor::Precision;

use super::collapse::OnCollapse;
use super::curriculum::TemperatureSchedule;
use super::divergence::OnDivergence;
use super::optimizer::Optimizer;
use super::schedule::Shape;

/// The largest whole number of TOML, whose integers have 63 bits.
pub const MOST: u64 = i64::MAX as u64;

/// The value of keys of [`Kind::Auto`] that nobody set.
pub const AUTO: &str = "auto";

/// What a key takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A whole number from the first to the second; [`MOST`] stands for no bound.
    Whole(u64, u64),
    /// A finite number between these.
    Number(Bound<f64>, Bound<f64>),
    Word(&'static [&'static str]),
    /// As [`Kind::Whole`], or `auto`: found when the run begins.
    Auto(u64, u64),
}

impl Kind {
    pub const POSITIVE: Kind = Kind::Number(Excluded(0.0), Unbounded);
    pub const NOT_NEGATIVE: Kind = Kind::Number(Included(0.0), Unbounded);
    /// The probability of dropping something: not all of it.
    pub const BELOW_ONE: Kind = Kind::Number(Included(0.0), Excluded(1.0));

    /// Whether this value is of the kind and within its bounds.
    pub fn holds(&self, value: &Value) -> bool {
        match (self, value) {
            (Kind::Whole(low, high), Value::Whole(n)) => (low..=high).contains(&n),
            (Kind::Number(low, high), Value::Number(x)) => {
                let above = match low {
                    Included(low) => x >= low,
                    Excluded(low) => x > low,
                    Unbounded => true,
                };
                let below = match high {
                    Included(high) => x <= high,
                    Excluded(high) => x < high,
                    Unbounded => true,
                };
                x.is_finite() && above && below
            }
            (Kind::Word(words), Value::Word(word)) => words.contains(&word.as_str()),
            (Kind::Auto(low, high), Value::Whole(n)) => (low..=high).contains(&n),
            (Kind::Auto(..), Value::Word(word)) => word == AUTO,
            _ => false,
        }
    }
}

/// Completes "must be …".
impl Display for Kind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            Kind::Whole(0, MOST) => f.write_str("a whole number below 2^63"),
            Kind::Whole(low, MOST) => write!(f, "a whole number, {low} or more"),
            Kind::Whole(low, high) => write!(f, "a whole number, {low} to {high}"),
            Kind::Number(low, high) => {
                f.write_str("a number")?;
                match (low, high) {
                    (Included(low), Unbounded) => return write!(f, ", {low} or more"),
                    (Included(low), _) => write!(f, " from {low}")?,
                    (Excluded(low), _) => write!(f, " above {low}")?,
                    (Unbounded, _) => {}
                }
                match (low, high) {
                    (_, Unbounded) => Ok(()),
                    (Included(_), Included(high)) => write!(f, " to {high}"),
                    (_, Included(high)) => write!(f, ", at most {high}"),
                    (Included(_), Excluded(high)) => write!(f, " to below {high}"),
                    (_, Excluded(high)) => write!(f, ", below {high}"),
                }
            }
            Kind::Word(words) => f.write_str(&words.join(" or ")),
            Kind::Auto(low, high) => write!(f, "{AUTO}, or {}", Kind::Whole(low, high)),
        }
    }
}

/// The value of a key that nothing sets.
#[derive(Clone, Copy, Debug)]
pub enum Default {
    /// That of the preset `small`, written as for `--set`.
    Value(&'static str),
    /// Follows from this key; whoever sets that one later decides this one anew.
    Follows(&'static str),
    /// Is found when the run begins, from this.
    Found(&'static str),
}

/// What the phases of a run share out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareOf {
    Steps,
    /// Sequences times the phase's `max_length`: known before any text is.
    Tokens,
    /// With a budget: steps follow from how fast they are.
    Time,
}

impl ShareOf {
    pub const NAMES: [&'static str; 3] = ["steps", "tokens", "time"];
}

/// Where `--hparams`, JSON of the reference implementation (google-research/electra), has the key.
#[derive(Clone, Copy, Debug)]
pub enum Reference {
    Nowhere,
    /// `configure_pretraining.py` has it under this name.
    Top(&'static str),
    /// As [`Reference::Top`], in `model_hparam_overrides`.
    Override(&'static str),
    /// In both places.
    Both(&'static str),
}

/// Whether a resumed run may have another value: where that changes nothing of what is computed, and where it does only if
/// the user says so (`--allow-change`) and the parameters stay what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    Fixed,
    Asked,
    Free,
}

/// A key of the configuration: everything there is to know of it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub default: Default,
    pub reference: Reference,
    pub resume: Resume,
    /// One line for people.
    pub help: &'static str,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Whole(u64),
    Number(f64),
    Word(String),
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Value::Whole(n) => write!(f, "{n}"),
            // As short as reads back exactly, and always a float to TOML.
            Value::Number(x) => write!(f, "{x:?}"),
            Value::Word(word) => write!(f, "\"{word}\""),
        }
    }
}

impl From<&Value> for serde_json::Value {
    fn from(value: &Value) -> Self {
        match value {
            Value::Whole(n) => (*n).into(),
            Value::Number(x) => (*x).into(),
            Value::Word(word) => word.as_str().into(),
        }
    }
}

impl Key {
    /// The value that this text means to the key.
    pub fn parse(&self, text: &str) -> Result<Value> {
        let digits = text.replace('_', "");
        match self.kind {
            Kind::Word(_) => self.check(Value::Word(text.trim_matches('"').to_owned()), text),
            Kind::Auto(..) if text.trim_matches('"') == AUTO => Ok(Value::Word(AUTO.to_owned())),
            Kind::Whole(..) | Kind::Auto(..) if digits.parse::<u64>().is_ok() => {
                self.check(Value::Whole(digits.parse()?), text)
            }
            _ => match digits.parse::<f64>() {
                Ok(number) => self.check(Value::Number(number), text),
                Err(_) => self.refuse(text),
            },
        }
    }

    /// Brings a value into the kind of the key; `shown` is what the user wrote.
    pub fn check(&self, value: Value, shown: &str) -> Result<Value> {
        let value = match (self.kind, value) {
            // 1e6 is as good as 1000000.
            (Kind::Whole(..) | Kind::Auto(..), Value::Number(x))
                if x.fract() == 0.0 && (0.0..9e15).contains(&x) =>
            {
                Value::Whole(x as u64)
            }
            (Kind::Number(..), Value::Whole(n)) => Value::Number(n as f64),
            (_, value) => value,
        };
        if self.kind.holds(&value) { Ok(value) } else { self.refuse(shown) }
    }

    pub fn refuse<T>(&self, shown: &str) -> Result<T> {
        let bound = if matches!(self.kind, Kind::Whole(1.., MOST)) { ", below 2^63" } else { "" };
        bail!("{} is {shown}; it must be {}{bound}", self.name, self.kind)
    }

    /// The default value, if it is one.
    pub fn default(&self) -> Result<Option<Value>> {
        match self.default {
            Default::Value(text) => self.parse(text).map(Some),
            Default::Follows(_) | Default::Found(_) => Ok(None),
        }
    }
}

/// What a field of the configuration is made of.
pub trait FromValue: Sized {
    /// Nothing where the value is of another kind.
    fn from_value(value: &Value) -> Option<Self>;
}

/// A key's value, which a complete configuration has.
pub fn required<T: FromValue>(name: &str, value: Option<&Value>) -> Result<T> {
    match value.and_then(T::from_value) {
        Some(value) => Ok(value),
        None => bail!("the configuration lacks {name}"),
    }
}

impl FromValue for u64 {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Whole(n) => Some(*n),
            _ => None,
        }
    }
}

impl FromValue for usize {
    fn from_value(value: &Value) -> Option<Self> {
        u64::from_value(value).map(|n| n as usize)
    }
}

impl FromValue for f64 {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Number(x) => Some(*x),
            _ => None,
        }
    }
}

impl FromValue for f32 {
    fn from_value(value: &Value) -> Option<Self> {
        f64::from_value(value).map(|x| x as f32)
    }
}

/// The word of a value of [`Kind::Word`].
fn word(value: &Value) -> Option<&str> {
    match value {
        Value::Word(word) => Some(word),
        _ => None,
    }
}

impl FromValue for ShareOf {
    fn from_value(value: &Value) -> Option<Self> {
        match word(value)? {
            "steps" => Some(ShareOf::Steps),
            "tokens" => Some(ShareOf::Tokens),
            "time" => Some(ShareOf::Time),
            _ => None,
        }
    }
}

impl FromValue for Extension {
    fn from_value(value: &Value) -> Option<Self> {
        Extension::named(word(value)?)
    }
}

/// Types that are read from their words.
macro_rules! words {
    ($($type:ty),* $(,)?) => {
        $(impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                word(value)?.parse().ok()
            }
        })*
    };
}

words!(Masking, OnCollapse, OnDivergence, Optimizer, Precision, Shape, TemperatureSchedule);
