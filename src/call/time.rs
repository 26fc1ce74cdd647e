//! Moments and durations as the document writes them: integers inside, so that equal input gives equal bytes.

use std::fmt;
use std::ops::{Add, Sub};

use chrono::{DateTime, NaiveDateTime, SecondsFormat, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// First and last moment that RFC 3339 can write: the years 1 to 9999.
const MIN: i64 = -62_135_596_800_000_000;
const MAX: i64 = 253_402_300_799_999_999;

/// A moment: microseconds since 1970 UTC. Written as RFC 3339 with six digits and `Z`. Always within the years 1 to 9999,
/// whatever a row claims, so that differences cannot overflow and every moment can be written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    pub const fn from_micros(micros: i64) -> Self {
        if micros < MIN {
            Self(MIN)
        } else if micros > MAX {
            Self(MAX)
        } else {
            Self(micros)
        }
    }

    pub const fn from_secs(secs: i64) -> Self {
        Self::from_micros(secs.saturating_mul(1_000_000))
    }

    pub const fn micros(self) -> i64 {
        self.0
    }

    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// The moment `micros` later (earlier when negative), held at the ends of the range.
    #[must_use]
    pub const fn plus_micros(self, micros: i64) -> Self {
        Self::from_micros(self.0.saturating_add(micros))
    }

    /// Microseconds from `earlier` to here, negative when it is later, held at the ends of the range.
    pub const fn micros_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// `None` outside the years chrono can write.
    pub fn to_chrono(self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_micros(self.0)
    }

    pub fn from_chrono(t: DateTime<Utc>) -> Self {
        Self::from_micros(t.timestamp_micros())
    }

    /// Reads RFC 3339.
    pub fn parse_rfc3339(s: &str) -> Option<Self> {
        DateTime::parse_from_rfc3339(s).ok().map(|t| Self::from_micros(t.timestamp_micros()))
    }
}

impl Sub for Timestamp {
    type Output = Seconds;

    fn sub(self, earlier: Self) -> Seconds {
        Seconds::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_chrono() {
            Some(t) => f.write_str(&t.to_rfc3339_opts(SecondsFormat::Micros, true)),
            None => write!(f, "invalid:{}", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = std::borrow::Cow::<'de, str>::deserialize(d)?;
        Self::parse_rfc3339(&s).ok_or_else(|| de::Error::custom(format!("not an RFC 3339 time: {s}")))
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "format": "date-time",
            "description": "RFC 3339, UTC, microseconds"
        })
    }
}

/// A duration: whole milliseconds inside, written as seconds (`3.002`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seconds(i64);

impl Seconds {
    pub const ZERO: Self = Self(0);

    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Rounds half up to the millisecond.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros.saturating_add(500).div_euclid(1_000))
    }

    pub const fn millis(self) -> i64 {
        self.0
    }

    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1_000.0
    }
}

impl Add for Seconds {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Debug for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.as_f64())
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.0 % 1_000 == 0 { s.serialize_i64(self.0 / 1_000) } else { s.serialize_f64(self.as_f64()) }
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = f64::deserialize(d)?;
        Ok(Self((s * 1_000.0).round() as i64))
    }
}

impl JsonSchema for Seconds {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Seconds".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "number",
            "description": "seconds, millisecond precision"
        })
    }
}

/// A wall clock reading without a zone: microseconds since 1970 as though the clock showed UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(pub i64);

impl WallTime {
    pub fn from_naive(t: NaiveDateTime) -> Self {
        Self(t.and_utc().timestamp_micros())
    }

    pub fn to_naive(self) -> Option<NaiveDateTime> {
        DateTime::from_timestamp_micros(self.0).map(|t| t.naive_utc())
    }
}

/// A time as a row holds it. `Wall` becomes a moment only with a zone, which is given to the correlator as data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum RowTime {
    /// The row said which moment it is (epoch, or a zone of its own).
    #[serde(rename = "u")]
    Utc(i64),
    /// The server's local time without a zone.
    #[serde(rename = "w")]
    Wall(WallTime),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_stays_one_that_can_be_written() {
        for absurd in [i64::MIN, i64::MAX] {
            let t = Timestamp::from_micros(absurd).plus_micros(absurd);
            assert!(t.to_chrono().is_some(), "{t}");
            assert_eq!(Timestamp::parse_rfc3339(&t.to_string()), Some(t));
        }
        let longest = Timestamp::from_micros(i64::MAX).micros_since(Timestamp::from_micros(i64::MIN));
        assert!(longest > 0 && longest < i64::MAX);
    }
}
