//! Speeds as users write them: `25G` is a network's, in bits a second; `8GB/s` is in bytes.

use std::fmt::{self, Display};
use std::str::FromStr;

/// Bytes a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed(pub f64);

const EXPECTED: &str =
    "expected a speed: bits a second as 25G, 10Gbit/s or 100M, or bytes as 8GB/s or 500MB/s";

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let number: f64 = number.parse().map_err(|_| EXPECTED.to_owned())?;
        let mut letters = unit.trim_start().chars();
        let thousands = match letters.clone().next() {
            Some('k' | 'K') => 1,
            Some('M') => 2,
            Some('G') => 3,
            Some('T') => 4,
            _ => 0,
        };
        if thousands > 0 {
            letters.next();
        }
        let bits = match letters.as_str() {
            // A bare number says neither bits nor bytes.
            "" if thousands == 0 => return Err(EXPECTED.into()),
            "" | "b/s" | "bit/s" | "bps" => 8.0,
            "B/s" => 1.0,
            _ => return Err(EXPECTED.into()),
        };
        let speed = number * 1000f64.powi(thousands) / bits;
        // Beyond this a printed figure would mean nothing.
        if speed > 0.0 && speed <= 1e18 { Ok(Speed(speed)) } else { Err(EXPECTED.into()) }
    }
}

impl Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = 8.0 * self.0;
        let (scale, unit) = if bits >= 1e9 { (1e9, "G") } else { (1e6, "M") };
        write!(f, "{} {unit}bit/s", (1e3 * bits / scale).round() / 1e3)
    }
}

/// What lies between ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Network {
    /// All are on one node.
    OneNode,
    /// A link of each node to the others.
    Link(Speed),
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pcie" => Ok(Network::OneNode),
            _ => {
                text.parse().map(Network::Link).map_err(|error| format!("{error}; or pcie: all on one node"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_bits_or_bytes() {
        let bytes = |text: &str| text.parse::<Speed>().map(|speed| speed.0);
        for text in
            ["8G", "8Gb/s", "8Gbit/s", "8Gbps", "1GB/s", "1000MB/s", "1000000000B/s", "1 GB/s", "8000M"]
        {
            assert_eq!(bytes(text), Ok(1e9), "{text}");
        }
        assert_eq!(bytes("2.5G"), Ok(2.5e9 / 8.0));
        for text in
            ["", "8", "G", "-1G", "0G", "1e3G", "8GiB/s", "8GB", "1.2.3G", "nanG", "9999999999999T", "１G"]
        {
            assert_eq!(bytes(text), Err(EXPECTED.to_owned()), "{text}");
        }
        assert_eq!(Speed(25e9 / 8.0).to_string(), "25 Gbit/s");
        assert_eq!(Speed(1e7).to_string(), "80 Mbit/s");
        assert_eq!("pcie".parse::<Network>(), Ok(Network::OneNode));
        assert_eq!("25G".parse::<Network>(), Ok(Network::Link(Speed(3.125e9))));
        assert!("PCI".parse::<Network>().is_err());
    }
}
