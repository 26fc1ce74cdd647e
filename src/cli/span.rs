//! `--from` and `--to`: a span of the past, in the zone of the PBX unless they say another.

use chrono::{DateTime, Local, NaiveDate, NaiveDateTime, TimeZone};

use crate::agent::history::Span;
use crate::call::Timestamp;
use crate::config::ConfigError;
use crate::correlate::Zone;

#[derive(clap::Args, Debug)]
#[group(skip)]
pub struct Args {
    /// Calls that began at or after this: 2026-11-20, 2026-11-20T08:00 (both in the PBX's zone), 2026-11-20T08:00:00+01:00,
    /// or a duration back (36h, 7d)
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Calls that began before this, written the same way; a date means its beginning [default: now]
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
}

impl Args {
    /// `now` is the database's clock.
    pub fn span(&self, zone: &Zone, now: Timestamp) -> Result<Span, ConfigError> {
        let Some(from_text) = &self.from else {
            return Err(ConfigError::new("--from", "name the time from which on: 2026-11-20, or 36h"));
        };
        let from = moment(from_text, zone, now, false).map_err(|e| ConfigError::new("--from", e))?;
        let to = match &self.to {
            Some(text) => moment(text, zone, now, true).map_err(|e| ConfigError::new("--to", e))?.min(now),
            None => now,
        };
        if from >= to {
            let to = self.to.as_deref().unwrap_or("now");
            return Err(ConfigError::new("--from", format!("{from_text:?} is not before --to {to:?}")));
        }
        Ok(Span { from, to })
    }
}

/// `late`: of a reading that the end of summer time repeats, the later one.
fn moment(text: &str, zone: &Zone, now: Timestamp, late: bool) -> Result<Timestamp, String> {
    if let Some(moment) = Timestamp::parse_rfc3339(text) {
        return Ok(moment);
    }
    if let Some(back) = seconds_back(text) {
        return Ok(now.plus_micros(-((back * 1e6) as i64)));
    }
    let date = text.parse::<NaiveDate>().ok().and_then(|day| day.and_hms_opt(0, 0, 0));
    let formats = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f"];
    let reading = date.or_else(|| formats.iter().find_map(|f| NaiveDateTime::parse_from_str(text, f).ok()));
    let Some(reading) = reading else {
        return Err(format!(
            "{text:?} is neither a time (2026-11-20, 2026-11-20T08:00, 2026-11-20T08:00:00+01:00) nor a duration back (36h, \
             7d)"
        ));
    };
    Ok(in_zone(reading, zone, late))
}

fn in_zone(reading: NaiveDateTime, zone: &Zone, late: bool) -> Timestamp {
    match zone {
        Zone::Fixed(offset_s) => {
            Timestamp::from_chrono(reading.and_utc()).plus_micros(-i64::from(*offset_s) * 1_000_000)
        }
        Zone::Named(tz) => {
            // a reading that summer time leaves out stands for the moment it would have been
            let found = (0..=4).find_map(|quarters: i32| {
                let reading = reading + chrono::TimeDelta::minutes(i64::from(quarters) * 15);
                let found = tz.from_local_datetime(&reading);
                if late { found.latest() } else { found.earliest() }
            });
            found.map_or_else(
                || Timestamp::from_chrono(reading.and_utc()),
                |at| Timestamp::from_chrono(at.with_timezone(&chrono::Utc)),
            )
        }
    }
}

/// `90m`, `36h`, `7d`, `2w` in seconds.
pub fn seconds_back(text: &str) -> Option<f64> {
    let unit = match text.chars().last()? {
        's' => 1.0,
        'm' => 60.0,
        'h' => 3_600.0,
        'd' => 86_400.0,
        'w' => 604_800.0,
        _ => return None,
    };
    let number: f64 = text[..text.len() - 1].parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number * unit)
}

/// For messages, in the zone the times were given in.
pub fn shown(at: Timestamp, zone: &Zone) -> String {
    let Some(at) = at.to_chrono() else { return at.to_string() };
    match zone {
        Zone::Named(tz) => at.with_timezone(tz).format("%Y-%m-%d %H:%M:%S").to_string(),
        Zone::Fixed(offset_s) => match chrono::FixedOffset::east_opt(*offset_s) {
            Some(offset) => at.with_timezone(&offset).format("%Y-%m-%d %H:%M:%S").to_string(),
            None => DateTime::<Local>::from(at).format("%Y-%m-%d %H:%M:%S").to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).expect(text)
    }

    #[test]
    fn times_are_the_pbxs_unless_they_say_another_zone() {
        let prague = Zone::Named(chrono_tz::Europe::Prague);
        let now = at("2026-11-21T00:00:00Z");
        let read = |text: &str, late| moment(text, &prague, now, late).expect(text);
        assert_eq!(read("2026-11-20", false), at("2026-11-19T23:00:00Z"));
        assert_eq!(read("2026-11-20T08:30", false), at("2026-11-20T07:30:00Z"));
        assert_eq!(read("2026-07-20 08:30:01.5", false), at("2026-07-20T06:30:01.500Z"));
        assert_eq!(read("2026-11-20T08:30:00+05:30", false), at("2026-11-20T03:00:00Z"));
        assert_eq!(read("36h", false), at("2026-11-19T12:00:00Z"));
        // the hour that comes twice, and the one that never comes
        assert_eq!(read("2026-10-25T02:30", false), at("2026-10-25T00:30:00Z"));
        assert_eq!(read("2026-10-25T02:30", true), at("2026-10-25T01:30:00Z"));
        assert_eq!(read("2026-03-29T02:30", false), at("2026-03-29T01:00:00Z"));
        assert_eq!(moment("2026-11-20", &Zone::Fixed(-3_600), now, false), Ok(at("2026-11-20T01:00:00Z")));
        for wrong in ["", "d", "yesterday", "2026-13-01", "2026-11-20T25:00", "-5h", "é"] {
            assert!(moment(wrong, &prague, now, false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_span_has_to_go_forward() {
        let args = |from: &str, to: Option<&str>| Args { from: Some(from.to_owned()), to: to.map(str::to_owned) };
        let (zone, now) = (Zone::Fixed(0), at("2026-11-21T00:00:00Z"));
        let span = args("7d", None).span(&zone, now).expect("a week");
        assert_eq!((span.from, span.to), (at("2026-11-14T00:00:00Z"), now));
        let beyond = args("2026-11-20", Some("2030-01-01")).span(&zone, now).expect("until now");
        assert_eq!(beyond.to, now);
        let e = args("2026-11-20", Some("2026-11-20")).span(&zone, now).expect_err("empty");
        assert!(e.to_string().contains("not before"), "{e}");
    }
}
