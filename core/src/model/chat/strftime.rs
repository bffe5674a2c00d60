//! Python's `strftime` in the C locale.

use jiff::civil::{DateTime, Weekday};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const fn day_name(day: Weekday) -> &'static str {
    match day {
        Weekday::Monday => "Monday",
        Weekday::Tuesday => "Tuesday",
        Weekday::Wednesday => "Wednesday",
        Weekday::Thursday => "Thursday",
        Weekday::Friday => "Friday",
        Weekday::Saturday => "Saturday",
        Weekday::Sunday => "Sunday",
    }
}

/// How a number is filled up to its width.
#[derive(Clone, Copy)]
enum Fill {
    Own,
    None,
    Space,
    Zero,
}

/// `at` as `format` says; codes it does not know stay as they are. `seconds` are those since 1970, for `%s`.
pub(super) fn strftime(format: &str, at: DateTime, seconds: i64) -> String {
    let mut out = String::with_capacity(format.len() + 16);
    let mut rest = format;
    while let Some(next) = rest.find('%') {
        out += &rest[..next];
        let code = &rest[next + 1..];
        // Flags as glibc has them: `%-d` is without a leading zero.
        let mut letters = code.chars();
        let (mut fill, mut upper) = (Fill::Own, false);
        let letter = loop {
            match letters.next() {
                Some('-') => fill = Fill::None,
                Some('_') => fill = Fill::Space,
                Some('0') => fill = Fill::Zero,
                Some('^') => upper = true,
                other => break other,
            }
        };
        let taken = code.len() - letters.as_str().len();
        match letter.and_then(|c| one(c, fill, at, seconds)) {
            Some(text) if upper => out += &text.to_uppercase(),
            Some(text) => out += &text,
            None => out += &rest[next..next + 1 + taken],
        }
        rest = &code[taken..];
    }
    out + rest
}

/// What one code says.
fn one(code: char, fill: Fill, at: DateTime, seconds: i64) -> Option<String> {
    let pad = |n: i64, width: usize, own: Fill| match (fill, own) {
        (Fill::None, _) | (Fill::Own, Fill::None) => n.to_string(),
        (Fill::Space, _) | (Fill::Own, Fill::Space) => format!("{n:width$}"),
        _ => format!("{n:0width$}"),
    };
    let two = |n: i8| pad(n.into(), 2, Fill::Zero);
    let again = |format: &str| Some(strftime(format, at, seconds));
    let (year, month) = (i64::from(at.year()), MONTHS.get(usize::from(at.month().unsigned_abs()) - 1)?);
    let day = day_name(at.weekday());
    let hour12 = (at.hour() + 11) % 12 + 1;
    let of_year = i64::from(at.day_of_year());
    let since_sunday = i64::from(at.weekday().to_sunday_zero_offset());
    let since_monday = i64::from(at.weekday().to_monday_zero_offset());
    let week = |first: i64| (of_year + 6 - first) / 7;
    let iso = at.date().iso_week_date();
    Some(match code {
        'Y' => pad(year, 1, Fill::None),
        'C' => pad(year / 100, 2, Fill::Zero),
        'y' => pad(year % 100, 2, Fill::Zero),
        'G' => iso.year().to_string(),
        'g' => pad(i64::from(iso.year()) % 100, 2, Fill::Zero),
        'm' => two(at.month()),
        'd' => two(at.day()),
        'e' => pad(at.day().into(), 2, Fill::Space),
        'j' => pad(of_year, 3, Fill::Zero),
        'H' => two(at.hour()),
        'k' => pad(at.hour().into(), 2, Fill::Space),
        'I' => two(hour12),
        'l' => pad(hour12.into(), 2, Fill::Space),
        'M' => two(at.minute()),
        'S' => two(at.second()),
        'f' => format!("{:06}", at.subsec_nanosecond() / 1000),
        's' => seconds.to_string(),
        'p' => if at.hour() < 12 { "AM" } else { "PM" }.into(),
        'P' => if at.hour() < 12 { "am" } else { "pm" }.into(),
        'B' => (*month).into(),
        'b' | 'h' => month[..3].into(),
        'A' => day.into(),
        'a' => day[..3].into(),
        'w' => since_sunday.to_string(),
        'u' => (since_monday + 1).to_string(),
        'U' => pad(week(since_sunday), 2, Fill::Zero),
        'W' => pad(week(since_monday), 2, Fill::Zero),
        'V' => pad(iso.week().into(), 2, Fill::Zero),
        'F' => return again("%Y-%m-%d"),
        'T' | 'X' => return again("%H:%M:%S"),
        'R' => return again("%H:%M"),
        'r' => return again("%I:%M:%S %p"),
        'D' | 'x' => return again("%m/%d/%y"),
        'c' => return again("%a %b %e %H:%M:%S %Y"),
        // A time of Python's without a zone.
        'z' | 'Z' => String::new(),
        'n' => "\n".into(),
        't' => "\t".into(),
        '%' => "%".into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |format: &str, seconds: i64| {
            let zoned = jiff::Timestamp::from_second(seconds).unwrap().to_zoned(jiff::tz::TimeZone::UTC);
            strftime(format, zoned.datetime(), seconds)
        };
        assert_eq!(at("%A %d %b %Y %H:%M:%S %j %p %I", 0), "Thursday 01 Jan 1970 00:00:00 001 AM 12");
        // Independent: `date -u -d @…`.
        assert_eq!(at("%a %F %T %B %-d %e %y %j %%", 951_782_399), "Mon 2000-02-28 23:59:59 February 28 28 00 059 %");
        assert_eq!(at("%a %d %b %Y %j", 951_782_400), "Tue 29 Feb 2000 060");
        assert_eq!(at("%a %d %b %Y %j", 1_735_603_200), "Tue 31 Dec 2024 366");
        assert_eq!(at("%d %b %Y %j", 4_107_542_400), "01 Mar 2100 060");
        assert_eq!(
            at("%c|%x|%X|%D|%r|%R", 1_735_603_200),
            "Tue Dec 31 00:00:00 2024|12/31/24|00:00:00|12/31/24|12:00:00 AM|00:00"
        );
        assert_eq!(
            at("%U %W %V %G %g %u %w %C %s %f %^a %_d %l", 1_735_603_200),
            "52 53 01 2025 25 2 2 20 1735603200 000000 TUE 31 12"
        );
        assert_eq!(at("%Q %- é%", 0), "%Q %- é%");
    }
}
