//! Numbers as they are shown: three significant digits with binary units, exact ones for tooltips, a minus sign that is one,
//! never NaN.

/// Unknown.
pub const UNKNOWN: &str = "—";

fn three(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// `437 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", three(value), UNITS[unit])
}

/// `458,227,712 B`.
pub fn exact(bytes: u64) -> String {
    format!("{} B", count(bytes))
}

/// `3,640`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `−84 MiB`, `+3.1 KiB`, `±0`.
pub fn change(by: i64) -> String {
    match by {
        0 => "±0".into(),
        by if by < 0 => format!("−{}", bytes(by.unsigned_abs())),
        by => format!("+{}", bytes(by.unsigned_abs())),
    }
}

/// A figure with three significant digits; a dash when it is not a number.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return UNKNOWN.into();
    }
    let text = match value.abs() {
        v if v >= 9999.5 => count(v.round() as u64),
        0.0 => "0".into(),
        v if v < 0.01 => format!("{v:.1e}"),
        v => three(v),
    };
    if value < 0.0 { format!("−{text}") } else { text }
}

/// `92 tok/s`.
pub fn speed(tokens_per_second: f64) -> String {
    format!("{} tok/s", number(tokens_per_second))
}

/// `3 s`, `2 min 5 s`, `1 h 4 min`; `< 1 s` below one.
pub fn seconds(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return UNKNOWN.into();
    }
    match seconds.ceil() as u64 {
        0 | 1 if seconds < 1.0 => "< 1 s".into(),
        s if s < 60 => format!("{s} s"),
        s if s < 3600 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

/// `98.7 %` of a share 0 … 1.
pub fn percent(share: f64) -> String {
    if share.is_finite() { format!("{} %", three(100.0 * share)) } else { UNKNOWN.into() }
}

/// Reads a size as people write it: `512 MiB`, `4g`, `1.5 GB`, `300000`. A letter alone means binary units. `None` when it is no size.
pub fn read_bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase().replace([',', ' ', '_'], "");
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: f64 = match unit {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1_048_576.0,
        "g" | "gib" => 1_073_741_824.0,
        "t" | "tib" => 1_099_511_627_776.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return None,
    };
    let value = number.parse::<f64>().ok()? * factor;
    (value.is_finite() && value < u64::MAX as f64).then_some(value.round() as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn sizes_have_three_digits_and_a_binary_unit() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (1024, "1 KiB"),
            (458_227_712, "437 MiB"),
            (1_047_527_424, "999 MiB"),
            (1 << 30, "1 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(
            (exact(458_227_712), change(-88_080_384), change(0)),
            ("458,227,712 B".into(), "−84 MiB".into(), "±0".into())
        );
    }

    #[test]
    fn no_figure_is_ever_not_a_number() {
        for v in [f64::NAN, f64::INFINITY, -f64::INFINITY] {
            assert_eq!((number(v), percent(v), seconds(v)), (UNKNOWN.into(), UNKNOWN.into(), UNKNOWN.into()));
        }
        assert_eq!(
            (number(92.34), number(-1.5), number(12345.6), number(0.0000012)),
            ("92.3".into(), "−1.5".into(), "12,346".into(), "1.2e-6".into())
        );
        assert_eq!(
            (seconds(0.2), seconds(3.0), seconds(124.5), seconds(3840.0)),
            ("< 1 s".into(), "3 s".into(), "2 min 5 s".into(), "1 h 4 min".into())
        );
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, n) in [
            ("512 MiB", 512 << 20),
            ("4g", 4 << 30),
            ("1.5 GB", 1_500_000_000),
            ("300,000", 300_000),
            ("64m", 64 << 20),
        ] {
            assert_eq!(read_bytes(text), Some(n), "{text}");
        }
        for wrong in ["", "many", "12 parsecs", "1e400", "-5"] {
            assert_eq!(read_bytes(wrong), None, "{wrong}");
        }
        for n in [1u64 << 20, 512 << 20, 3 << 30] {
            assert_eq!(read_bytes(&bytes(n)).unwrap(), n);
        }
    }
}
