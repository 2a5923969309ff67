//! How are the sample's instants written? Days, stamps and RFC 3339, all UTC: the sample's machine has
//! its clock there, so local names and UTC lines agree. Depends on nothing.

/// Milliseconds of a day.
pub(super) const DAY_MS: i64 = 86_400_000;
/// Milliseconds of an hour.
pub(super) const HOUR_MS: i64 = 3_600_000;
/// 2024-11-20, in days since 1970.
pub(super) const FIRST_DAY: i64 = 20_047;
/// 2025-09-01: rollout lines get an envelope.
pub(super) const ENVELOPE_DAY: i64 = 20_332;
/// 2025-10-01: thread ids become UUIDv7.
pub(super) const ORDERED_ID_DAY: i64 = 20_362;
/// 2026-02-01: `base_instructions`, providers, names.
pub(super) const CURRENT_DAY: i64 = 20_485;
/// 2026-03-01: turns are marked by `task_started` and `task_complete`.
pub(super) const TASK_EVENTS_DAY: i64 = 20_513;
/// 2026-08-01: half of the threads are paginated.
pub(super) const PAGINATED_DAY: i64 = 20_666;
/// 2026-11-20: the last day. A constant, so that a sample does not depend on when it was made.
pub(super) const LAST_DAY: i64 = 20_777;
/// 2026-11-20T22:00:00Z: nothing in a sample is later.
pub(super) const LAST_MS: i64 = LAST_DAY * DAY_MS + 22 * HOUR_MS;

/// Year, month and day of a day since 1970 (Hinnant's `civil_from_days`).
pub(super) fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day_of_month)
}

/// 0 is Monday, 6 is Sunday.
pub(super) fn weekday(day: i64) -> i64 {
    (day + 3).rem_euclid(7)
}

fn push_digits(out: &mut String, value: i64, digits: usize) {
    let mut divisor = 10_i64.pow(digits as u32 - 1);
    while divisor > 0 {
        out.push(char::from(b'0' + (value / divisor % 10) as u8));
        divisor /= 10;
    }
}

fn push_date_time(out: &mut String, unix_ms: i64, colon: char) {
    let (year, month, day) = civil(unix_ms.div_euclid(DAY_MS));
    let second = unix_ms.rem_euclid(DAY_MS) / 1000;
    push_digits(out, year, 4);
    for (mark, value) in
        [('-', month), ('-', day), ('T', second / 3600), (colon, second / 60 % 60), (colon, second % 60)]
    {
        out.push(mark);
        push_digits(out, value, 2);
    }
}

/// `2026-02-08T09:15:02.417Z`, as rollout lines have it.
pub(super) fn push_rfc3339(out: &mut String, unix_ms: i64) {
    push_date_time(out, unix_ms, ':');
    out.push('.');
    push_digits(out, unix_ms.rem_euclid(1000), 3);
    out.push('Z');
}

/// `2026-02-08T09:15:02.417Z` as a string of its own.
pub(super) fn rfc3339(unix_ms: i64) -> String {
    let mut out = String::with_capacity(24);
    push_rfc3339(&mut out, unix_ms);
    out
}

/// `2026-02-08T09-15-02`, as rollout names have it.
pub(super) fn stamp(unix_ms: i64) -> String {
    let mut out = String::with_capacity(19);
    push_date_time(&mut out, unix_ms, '-');
    out
}

/// `2026/02/08`, the folder of a rollout below `sessions`.
pub(super) fn day_folder(unix_ms: i64) -> String {
    let (year, month, day) = civil(unix_ms.div_euclid(DAY_MS));
    format!("{year}/{month:02}/{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_dates() {
        for (day, date) in [
            (FIRST_DAY, (2024, 11, 20)),
            (ENVELOPE_DAY, (2025, 9, 1)),
            (ORDERED_ID_DAY, (2025, 10, 1)),
            (CURRENT_DAY, (2026, 2, 1)),
            (TASK_EVENTS_DAY, (2026, 3, 1)),
            (PAGINATED_DAY, (2026, 8, 1)),
            (LAST_DAY, (2026, 11, 20)),
            (0, (1970, 1, 1)),
            (19_782, (2024, 2, 29)),
        ] {
            assert_eq!(civil(day), date);
        }
        assert_eq!(weekday(LAST_DAY), 4, "2026-11-20 is a Friday");
    }

    #[test]
    fn instants_are_written_as_codex_does() {
        let unix_ms = LAST_DAY * DAY_MS + 9 * HOUR_MS + 62_007;
        assert_eq!(rfc3339(unix_ms), "2026-11-20T09:01:02.007Z");
        assert_eq!(stamp(unix_ms), "2026-11-20T09-01-02");
        assert_eq!(day_folder(unix_ms), "2026/11/20");
    }
}
