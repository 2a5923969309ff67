//! What time is it, here and in UTC, and how is it written on a line?

use std::time::{SystemTime, UNIX_EPOCH};

use time::{OffsetDateTime, PrimitiveDateTime, UtcOffset};

/// The last millisecond that four digits of a year can say.
const MS_MAX: i64 = 253_402_300_799_999;
/// The first one.
const MS_MIN: i64 = -62_167_219_200_000;

/// Where a recorder has the time from.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Milliseconds since 1970 in UTC.
    fn now_ms(&self) -> i64;

    /// What the clock on the wall was ahead of UTC at that moment.
    fn local_offset(&self, at_ms: i64) -> UtcOffset;
}

/// The clock and the time zone of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(MS_MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(MS_MIN, |ms| -ms),
        }
    }

    fn local_offset(&self, at_ms: i64) -> UtcOffset {
        UtcOffset::local_offset_at(moment(at_ms)).unwrap_or(UtcOffset::UTC)
    }
}

/// The moment, held within the years 0 to 9999.
fn moment(ms: i64) -> OffsetDateTime {
    let nanos = i128::from(ms.clamp(MS_MIN, MS_MAX)) * 1_000_000;
    // Within the bounds there is no error.
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// What the clock on the wall said.
pub(super) fn wall_time(clock: &dyn Clock, at_ms: i64) -> PrimitiveDateTime {
    // The first and the last day have no whole neighbour: there the clock is held back.
    let local = moment(at_ms).checked_to_offset(clock.local_offset(at_ms)).unwrap_or_else(|| moment(at_ms));
    PrimitiveDateTime::new(local.date(), local.time())
}

/// `YYYY-MM-DDThh:mm:ss.mmmZ`: in UTC, three digits of a second (spec 1.1).
pub(super) fn stamp(ms: i64) -> [u8; 24] {
    let moment = moment(ms);
    let (year, month, day) = moment.to_calendar_date();
    let (hour, minute, second, milli) = moment.to_hms_milli();
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let year = year.unsigned_abs();
    let fields: [(usize, usize, u32); 7] = [
        (0, 4, year),
        (5, 2, u32::from(u8::from(month))),
        (8, 2, u32::from(day)),
        (11, 2, u32::from(hour)),
        (14, 2, u32::from(minute)),
        (17, 2, u32::from(second)),
        (20, 3, u32::from(milli)),
    ];
    for (start, digits, mut number) in fields {
        for place in text[start..start + digits].iter_mut().rev() {
            // A digit fits a byte.
            *place = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_have_three_digits_of_a_second() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_770_542_102_007, "2026-02-08T09:15:02.007Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (i64::MAX, "9999-12-31T23:59:59.999Z"),
            (i64::MIN, "0000-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(std::str::from_utf8(&stamp(ms)).unwrap(), expected);
        }
        assert!(SystemClock.now_ms() > 1_577_836_800_000, "later than 2020");
    }
}
