//! Byte counts as people write them: `512 MiB`, `1.5 GB`, `4096`. GB and GiB are told apart.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes. Prints exactly when a binary unit divides it, otherwise with two decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

const UNITS: [(&str, u64); 11] = [
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("", 1),
];

impl Bytes {
    /// No limit at all; prints and parses as `unlimited`.
    pub const UNLIMITED: Self = Self(u64::MAX);

    /// As a screen shows it: three significant digits and a binary unit.
    pub fn three_digits(self) -> String {
        const NAMES: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1000 {
            return format!("{} B", self.0);
        }
        let (mut value, mut unit) = (self.0 as f64 / 1024.0, 0);
        while value >= 999.5 && unit + 1 < NAMES.len() {
            value /= 1024.0;
            unit += 1;
        }
        let digits = if value >= 99.95 { 0 } else { 1 + usize::from(value < 9.995) };
        let text = format!("{value:.digits$}");
        let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        format!("{text} {}", NAMES[unit])
    }

    /// `n` mebibytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::UNLIMITED {
            return f.pad("unlimited");
        }
        let text = match self.0 {
            n if n < 1 << 10 => format!("{n} B"),
            n => {
                let (unit, size) = match n {
                    n if n < 1 << 20 => ("KiB", 1u64 << 10),
                    n if n < 1 << 30 => ("MiB", 1 << 20),
                    n if n < 1 << 40 => ("GiB", 1 << 30),
                    _ => ("TiB", 1 << 40),
                };
                if n % size == 0 {
                    format!("{} {unit}", n / size)
                } else {
                    format!("{:.2} {unit}", n as f64 / size as f64)
                }
            }
        };
        f.pad(&text)
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "unlimited" {
            return Ok(Self::UNLIMITED);
        }
        let wrong = || {
            format!("`{text}` is not a size: write a number and a unit, such as \"512 MiB\", \"2 GB\" or \"unlimited\"")
        };
        let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let number = number.replace('_', "");
        let unit = unit.trim();
        let size = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, size)| *size).ok_or_else(wrong)?;
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(size).map(Self).ok_or_else(|| format!("`{text}` is more than 16 EiB"));
        }
        let value = number.parse::<f64>().map_err(|_| wrong())? * size as f64;
        if !value.is_finite() || value >= u64::MAX as f64 {
            return Err(format!("`{text}` is more than 16 EiB"));
        }
        Ok(Self(value.round() as u64))
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        // Exact, so that a file written and read again means the same: a unit only when it divides.
        let exact = [("GiB", 30), ("MiB", 20), ("KiB", 10)]
            .iter()
            .find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift));
        match (*self, exact) {
            (Self::UNLIMITED, _) => s.serialize_str("unlimited"),
            (_, Some((unit, shift))) => s.serialize_str(&format!("{} {unit}", self.0 >> shift)),
            _ => s.serialize_str(&format!("{} B", self.0)),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"512 MiB\", a number of bytes, or \"unlimited\"")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Bytes, E> {
                v.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Bytes, E> {
                Ok(Bytes(v))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Bytes, E> {
                u64::try_from(v).map(Bytes).map_err(|_| E::custom("a size cannot be negative"))
            }
        }
        d.deserialize_any(Reader)
    }
}

/// Lower-case hexadecimal digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_and_binary_units_differ() {
        assert_eq!("1 GB".parse(), Ok(Bytes(1_000_000_000)));
        assert_eq!("1 GiB".parse(), Ok(Bytes(1_073_741_824)));
        assert_eq!("1.5MiB".parse(), Ok(Bytes(1_572_864)));
        assert_eq!("4_096".parse(), Ok(Bytes(4096)));
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for bad in ["", "MiB", "12 parsecs", "-1 MiB", "1e999 GiB", "99999999999 TiB", "1.2.3 MiB", "NaN MiB"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_written_reads_back_exactly() {
        for n in [0, 1, 1023, 1024, 1 << 20, (1 << 30) + 1, 123_456_789, u64::MAX] {
            let text = serde_json::to_string(&Bytes(n)).unwrap();
            assert_eq!(serde_json::from_str::<Bytes>(&text).unwrap(), Bytes(n), "{text}");
        }
    }
}
