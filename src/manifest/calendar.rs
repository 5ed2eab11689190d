//! Times of a calendar as systemd.time(7) writes them: `*-*-* 03:00`,
//! `Mon..Fri 9:00`, `*-*-01 00:00:00`, `*:0/15`, `daily`. Pure: which instant comes
//! next is asked with the time zone in hand.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// When something is run, again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    text: String,
    weekdays: u8,
    years: Part,
    months: Part,
    days: Part,
    hours: Part,
    minutes: Part,
    seconds: Part,
}

/// One part of a time: which numbers of it are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Any,
    Some(Vec<u16>),
}

impl Part {
    fn has(&self, number: u16) -> bool {
        match self {
            Part::Any => true,
            Part::Some(numbers) => numbers.binary_search(&number).is_ok(),
        }
    }

    /// The first that is at least `from`.
    fn next(&self, from: u16, last: u16) -> Option<u16> {
        match self {
            Part::Any => (from <= last).then_some(from),
            Part::Some(numbers) => numbers.iter().copied().find(|number| *number >= from),
        }
    }
}

/// How far ahead a day is looked for: 29 February on one weekday comes every 28 years,
/// 40 over a century that is no leap year.
const YEARS: i16 = 41;

const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl FromStr for Calendar {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail = |what: &str| {
            format!(
                "{text:?} is not a schedule: {what}; write \"*-*-* 03:00\", \"Mon..Fri 9:00\" or daily"
            )
        };
        let whole = match text.trim().to_ascii_lowercase().as_str() {
            "minutely" => "*-*-* *:*:00".to_owned(),
            "hourly" => "*-*-* *:00:00".to_owned(),
            "daily" => "*-*-* 00:00:00".to_owned(),
            "weekly" => "mon *-*-* 00:00:00".to_owned(),
            "monthly" => "*-*-01 00:00:00".to_owned(),
            "yearly" | "annually" => "*-01-01 00:00:00".to_owned(),
            other => other.to_owned(),
        };
        if whole.is_empty() {
            return Err(fail("it is empty"));
        }
        let mut words = whole.split_whitespace().peekable();
        let weekdays = match words.peek() {
            Some(word) if word.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                let set = parse_weekdays(word).ok_or_else(|| fail("no such weekday"))?;
                words.next();
                set
            }
            _ => 0x7f,
        };
        let (mut date, mut time) = ("*-*-*", "00:00:00");
        for word in words {
            match (word.contains('-'), word.contains(':')) {
                (true, false) => date = word,
                (false, true) => time = word,
                _ => return Err(fail("neither a date nor a time of day")),
            }
        }
        let dates: Vec<&str> = date.split('-').collect();
        let (years, months, days) = match dates[..] {
            [year, month, day] => (year, month, day),
            [month, day] => ("*", month, day),
            _ => return Err(fail("a date is YEAR-MONTH-DAY")),
        };
        let times: Vec<&str> = time.split(':').collect();
        let (hours, minutes, seconds) = match times[..] {
            [hour, minute, second] => (hour, minute, second),
            [hour, minute] => (hour, minute, "0"),
            _ => return Err(fail("a time of day is HOUR:MINUTE")),
        };
        let part =
            |text: &str, first, last, what| part(text, first, last).ok_or_else(|| fail(what));
        let calendar = Calendar {
            text: text.trim().to_owned(),
            weekdays,
            years: part(years, 1970, 2200, "a year is from 1970 to 2200")?,
            months: part(months, 1, 12, "a month is from 1 to 12")?,
            days: part(days, 1, 31, "a day is from 1 to 31")?,
            hours: part(hours, 0, 23, "an hour is from 0 to 23")?,
            minutes: part(minutes, 0, 59, "a minute is from 0 to 59")?,
            seconds: part(seconds, 0, 59, "a second is from 0 to 59")?,
        };
        let exists = (1..=12).any(|month| {
            calendar.months.has(month)
                && calendar.days.next(1, 31).is_some_and(|day| day <= longest(month))
        });
        if exists { Ok(calendar) } else { Err(fail("no month has that day")) }
    }
}

fn longest(month: u16) -> u16 {
    match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn parse_weekdays(text: &str) -> Option<u8> {
    let number =
        |name: &str| WEEKDAYS.iter().position(|day| name.len() >= 3 && name.starts_with(day));
    let mut set = 0;
    for range in text.split(',') {
        let (first, last) = match range.split_once("..") {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(range)?, number(range)?),
        };
        let mut day = first;
        loop {
            set |= 1 << day;
            if day == last {
                break;
            }
            day = (day + 1) % 7;
        }
    }
    Some(set)
}

/// `*`, `3`, `1,5`, `1..5`, `0/15`, `*/2`.
fn part(text: &str, first: u16, last: u16) -> Option<Part> {
    if text == "*" {
        return Some(Part::Any);
    }
    let within = |text: &str| {
        let number: u16 = text.parse().ok()?;
        (first..=last).contains(&number).then_some(number)
    };
    let mut numbers = Vec::new();
    for item in text.split(',') {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => {
                (range, Some(step.parse::<u16>().ok().filter(|step| *step > 0)?))
            }
            None => (item, None),
        };
        let (from, to) = match range.split_once("..") {
            Some((from, to)) => (within(from)?, within(to)?),
            None if range == "*" => (first, last),
            None if step.is_some() => (within(range)?, last),
            None => (within(range)?, within(range)?),
        };
        numbers.extend((from..=to).step_by(usize::from(step.unwrap_or(1))));
    }
    numbers.sort_unstable();
    numbers.dedup();
    (!numbers.is_empty()).then_some(Part::Some(numbers))
}

impl Calendar {
    /// The first instant after `after` (nanoseconds since 1970) that is meant, in this
    /// time zone. An hour that summer time skips is taken at its end, one that comes
    /// twice the first time. None if there is none for decades.
    pub fn next(&self, after: i64, zone: &TimeZone) -> Option<i64> {
        let after = Timestamp::from_nanosecond(i128::from(after)).ok()?;
        let begin = after.to_zoned(zone.clone()).datetime();
        let mut date = begin.date();
        let end = date.year().saturating_add(YEARS);
        while date.year() <= end {
            if !self.has_month(date) {
                date = first_of_next_month(date)?;
                continue;
            }
            if self.has_day(date) {
                let mut from = (0, 0, 0);
                while let Some((hour, minute, second)) = self.time(from) {
                    let at = date.at(hour as i8, minute as i8, second as i8, 0);
                    // A day may be the first one twice over: only what is later counts.
                    let instant = at.to_zoned(zone.clone()).ok()?.timestamp();
                    if instant > after {
                        return i64::try_from(instant.as_nanosecond()).ok();
                    }
                    from = self.later(begin.date() == date, begin.time(), (hour, minute, second));
                }
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }

    /// Where to look on after a time that has passed: not second by second where most
    /// of the day is gone.
    fn later(
        &self,
        is_today: bool,
        now: jiff::civil::Time,
        passed: (u16, u16, u16),
    ) -> (u16, u16, u16) {
        let now = (now.hour() as u16, now.minute() as u16, now.second() as u16);
        let next = match passed {
            (hour, minute, second) if second < 59 => (hour, minute, second + 1),
            (hour, minute, _) if minute < 59 => (hour, minute + 1, 0),
            (hour, _, _) => (hour + 1, 0, 0),
        };
        if is_today && now > next { now } else { next }
    }

    /// The first time of a day from `from` on.
    fn time(&self, from: (u16, u16, u16)) -> Option<(u16, u16, u16)> {
        let (mut hour, mut minute, mut second) = from;
        loop {
            let next_hour = self.hours.next(hour, 23)?;
            if next_hour > hour {
                (hour, minute, second) = (next_hour, 0, 0);
            }
            match self.minutes.next(minute, 59) {
                None => {
                    (hour, minute, second) = (hour + 1, 0, 0);
                    continue;
                }
                Some(next) if next > minute => (minute, second) = (next, 0),
                Some(_) => {}
            }
            match self.seconds.next(second, 59) {
                None => (minute, second) = (minute + 1, 0),
                Some(second) => return Some((hour, minute, second)),
            }
        }
    }

    fn has_month(&self, date: Date) -> bool {
        self.years.has(date.year().unsigned_abs())
            && self.months.has(date.month().unsigned_abs().into())
    }

    fn has_day(&self, date: Date) -> bool {
        let weekday = match date.weekday() {
            Weekday::Monday => 0,
            Weekday::Tuesday => 1,
            Weekday::Wednesday => 2,
            Weekday::Thursday => 3,
            Weekday::Friday => 4,
            Weekday::Saturday => 5,
            Weekday::Sunday => 6,
        };
        self.days.has(date.day().unsigned_abs().into()) && self.weekdays & (1 << weekday) != 0
    }
}

fn first_of_next_month(date: Date) -> Option<Date> {
    date.first_of_month().checked_add(1.month()).ok()
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Calendar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Calendar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Calendar {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Calendar".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "examples": ["*-*-* 03:00", "Mon..Fri 9:00", "daily"]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str) -> String {
        let calendar: Calendar = schedule.parse().unwrap();
        let after: Timestamp = after.parse().unwrap();
        let after = i64::try_from(after.as_nanosecond()).unwrap();
        match calendar.next(after, &TimeZone::UTC) {
            Some(next) => Timestamp::from_nanosecond(i128::from(next)).unwrap().to_string(),
            None => "never".to_owned(),
        }
    }

    /// As `systemd-analyze calendar` says them.
    #[test]
    fn the_next_time_is_found() {
        for (schedule, after, expected) in [
            ("*-*-* 03:00", "2026-11-25T02:59:59Z", "2026-11-25T03:00:00Z"),
            ("*-*-* 03:00", "2026-11-25T03:00:00Z", "2026-11-26T03:00:00Z"),
            ("*-*-* 03:00", "2026-12-31T03:00:01Z", "2027-01-01T03:00:00Z"),
            ("Mon..Fri 9:00", "2026-11-27T09:00:00Z", "2026-11-30T09:00:00Z"),
            ("Sat,Sun *-*-* 10:30", "2026-11-25T00:00:00Z", "2026-11-28T10:30:00Z"),
            ("Fri..Mon 0:00", "2026-11-24T00:00:00Z", "2026-11-27T00:00:00Z"),
            ("*:0/15", "2026-11-25T10:50:00Z", "2026-11-25T11:00:00Z"),
            ("*:0/15", "2026-11-25T10:15:00.5Z", "2026-11-25T10:30:00Z"),
            ("hourly", "2026-11-25T23:59:59Z", "2026-11-26T00:00:00Z"),
            ("minutely", "2026-11-25T23:59:30Z", "2026-11-26T00:00:00Z"),
            ("weekly", "2026-11-25T00:00:00Z", "2026-11-30T00:00:00Z"),
            ("monthly", "2026-11-25T00:00:00Z", "2026-12-01T00:00:00Z"),
            ("yearly", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("*-02-29 12:00", "2026-11-25T00:00:00Z", "2028-02-29T12:00:00Z"),
            ("12-24 18:00", "2026-12-24T18:00:00Z", "2027-12-24T18:00:00Z"),
            ("*-*-* *:*:*", "2026-11-25T10:00:00.2Z", "2026-11-25T10:00:01Z"),
            ("2025-*-* 00:00", "2026-01-01T00:00:00Z", "never"),
            ("*-*-31 1:00", "2026-11-25T00:00:00Z", "2026-12-31T01:00:00Z"),
        ] {
            assert_eq!(next(schedule, after), expected, "{schedule} after {after}");
        }
    }

    #[test]
    fn summer_time_neither_skips_nor_repeats() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let run = |schedule: &str, after: &str| {
            let after: Timestamp = after.parse().unwrap();
            let calendar: Calendar = schedule.parse().unwrap();
            let next = calendar.next(i64::try_from(after.as_nanosecond()).unwrap(), &zone).unwrap();
            Timestamp::from_nanosecond(i128::from(next)).unwrap().to_string()
        };
        // 02:30 does not exist on this day; 03:30 is what the clock then says.
        assert_eq!(run("*-*-* 2:30", "2026-03-29T00:00:00Z"), "2026-03-29T01:30:00Z");
        // It exists twice on this day: once is enough.
        assert_eq!(run("*-*-* 2:30", "2026-10-25T00:00:00Z"), "2026-10-25T00:30:00Z");
        assert_eq!(run("*-*-* 2:30", "2026-10-25T00:30:00Z"), "2026-10-26T01:30:00Z");
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for (text, why) in [
            ("", "empty"),
            ("25:00", "hour"),
            ("*-13-01 0:00", "month"),
            ("*-*-32", "day is"),
            ("*-02-30", "no month has that day"),
            ("Funday 0:00", "weekday"),
            ("1:2:3:4", "HOUR:MINUTE"),
            ("*:0/0", "minute"),
            ("soon", "weekday"),
        ] {
            let error = text.parse::<Calendar>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
