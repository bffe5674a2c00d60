//! The local clock, for names of run folders and what the history shows.

use std::time::{SystemTime, UNIX_EPOCH};

/// Year, month, day, hour, minute and second.
pub type Civil = [i64; 6];

/// Now, as the local clock says.
pub fn now() -> Civil {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    civil(seconds + offset(seconds))
}

/// Seconds that the local clock is ahead of UTC; 0 where the system does not say.
#[cfg(unix)]
fn offset(seconds: i64) -> i64 {
    // SAFETY: `tm` is plain data that `localtime_r` fills in; both pointers are to values that outlive the call.
    unsafe {
        let mut out: libc::tm = std::mem::zeroed();
        let at = seconds as libc::time_t;
        if libc::localtime_r(&raw const at, &raw mut out).is_null() { 0 } else { out.tm_gmtoff as i64 }
    }
}

#[cfg(not(unix))]
fn offset(_: i64) -> i64 {
    0
}

/// The proleptic Gregorian date of seconds since 1970 (Hinnant, days from civil).
fn civil(seconds: i64) -> Civil {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    [year, month, day, rest / 3600, rest % 3600 / 60, rest % 60]
}

/// `2026-11-24_14-03-22`, as a run folder is named.
pub fn name([y, mo, d, h, mi, s]: Civil) -> String {
    format!("{y:04}-{mo:02}-{d:02}_{h:02}-{mi:02}-{s:02}")
}

/// `2026-11-24 14:03` of such a name; the name itself when it is another.
pub fn shown(name: &str) -> String {
    let fits = |b: &[u8]| {
        b.len() >= 19
            && b.iter().take(19).enumerate().all(|(i, c)| match i {
                4 | 7 | 13 | 16 => *c == b'-',
                10 => *c == b'_',
                _ => c.is_ascii_digit(),
            })
    };
    if fits(name.as_bytes()) { format!("{} {}:{}", &name[..10], &name[11..13], &name[14..16]) } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_the_calendars() {
        assert_eq!(civil(0), [1970, 1, 1, 0, 0, 0]);
        assert_eq!(civil(951_782_399), [2000, 2, 28, 23, 59, 59]);
        assert_eq!(civil(951_782_400), [2000, 2, 29, 0, 0, 0]);
        assert_eq!(civil(1_795_529_002), [2026, 11, 24, 14, 3, 22]);
        assert_eq!(civil(-1), [1969, 12, 31, 23, 59, 59]);
    }

    #[test]
    fn a_name_shows_as_a_time_and_anything_else_as_itself() {
        let text = name([2026, 11, 24, 14, 3, 22]);
        assert_eq!((text.as_str(), shown(&text)), ("2026-11-24_14-03-22", "2026-11-24 14:03".into()));
        assert_eq!((shown("2026-11-24_14-03-22-2"), shown("my run")), ("2026-11-24 14:03".into(), "my run".into()));
        assert_eq!(shown("2026-11-24_14-03-2é"), "2026-11-24_14-03-2é");
    }
}
