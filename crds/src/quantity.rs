//! Numbers as people read them.

/// Decimal units, as disks and the hub count them.
const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];

/// A number of bytes for people: `91 MB`, `4.7 GB`, `0 B`. Two or three digits, decimal units.
///
/// Negative numbers, which the API's integer type allows, count as zero.
#[must_use]
pub fn human_bytes(bytes: i64) -> String {
    let bytes = u64::try_from(bytes).unwrap_or(0);
    let mut unit = 0;
    let mut divisor = 1_u64;
    // A value that would be rounded up to 1000 of a unit is shown in the next one.
    while unit + 1 < UNITS.len() && rounded(bytes, divisor) >= 1000 {
        divisor *= 1000;
        unit += 1;
    }
    let tenths = rounded(bytes, (divisor / 10).max(1));
    if unit > 0 && tenths < 100 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{} {}", rounded(bytes, divisor), UNITS[unit])
    }
}

/// `part` of `whole` as a multiple of it, for people: `1.02`; `-` where there is no whole.
#[must_use]
pub fn human_copies(part: i64, whole: i64) -> String {
    if whole <= 0 {
        return "-".to_owned();
    }
    let hundredths = (i128::from(part.max(0)) * 100 + i128::from(whole) / 2) / i128::from(whole);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// `part` of `whole` in whole per cent, rounded down so that 100 means all of it; 100 where there is no whole.
#[must_use]
pub fn percent(part: i64, whole: i64) -> i64 {
    if whole <= 0 {
        return 100;
    }
    let per_cent = i128::from(part.clamp(0, whole)) * 100 / i128::from(whole);
    i64::try_from(per_cent).unwrap_or(100)
}

/// Quotient rounded to the nearest.
fn rounded(value: u64, divisor: u64) -> u64 {
    value / divisor + u64::from(value % divisor >= divisor.div_ceil(2) && divisor > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short_and_rounded() {
        for (bytes, text) in [
            (0, "0 B"),
            (-5, "0 B"),
            (1, "1 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_049, "1.0 kB"),
            (1_050, "1.1 kB"),
            (9_949, "9.9 kB"),
            (9_950, "10 kB"),
            (91_390_000, "91 MB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (4_700_000_000, "4.7 GB"),
            (i64::MAX, "9223 PB"),
        ] {
            assert_eq!(human_bytes(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn copies_have_two_places() {
        assert_eq!(human_copies(91, 91), "1.00");
        assert_eq!(human_copies(1_019, 1_000), "1.02");
        assert_eq!(human_copies(0, 91), "0.00");
        assert_eq!(human_copies(1, 0), "-");
        assert_eq!(human_copies(i64::MAX, 1), "9223372036854775807.00");
    }

    #[test]
    fn only_all_of_it_is_a_hundred_per_cent() {
        assert_eq!(percent(999_999, 1_000_000), 99);
        assert_eq!(percent(1_000_000, 1_000_000), 100);
        assert_eq!(percent(2, 1), 100);
        assert_eq!(percent(0, 0), 100);
        assert_eq!(percent(-1, 10), 0);
    }
}
