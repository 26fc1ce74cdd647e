//! Values as they are written: truth and numbers, read with their bounds, refused in plain words.

use std::fmt::Display;
use std::str::FromStr;

/// `true` and `false` as people and other programs write them.
pub(super) fn boolean(value: &str) -> Result<bool, &'static str> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" | "t" | "y" => Ok(true),
        "false" | "no" | "off" | "0" | "f" | "n" => Ok(false),
        _ => Err("is neither true nor false"),
    }
}

/// A number from `min` to `max`; what it counts (`""`: nothing that has a name) is for the message.
pub(super) fn number<T>(
    min: T,
    max: T,
    unit: &'static str,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Copy + Send + Sync + 'static,
{
    move |text| {
        let value = text.parse().ok().filter(|value| (min..=max).contains(value));
        value.ok_or_else(|| format!("is not a number between {min} and {max}{}", counted(unit)))
    }
}

/// A whole number of at least `min`.
pub(super) fn at_least(
    min: u64,
    unit: &'static str,
) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let value = text.parse().ok().filter(|value| *value >= min);
        value.ok_or_else(|| format!("is not a whole number from {min} on{}", counted(unit)))
    }
}

/// A number of more than 0, since none at all would mean something else.
pub(super) fn above_zero(
    max: f64,
    unit: &'static str,
) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let value = text.parse().ok().filter(|value| *value > 0.0 && *value <= max);
        value.ok_or_else(|| format!("is not a number above 0 and up to {max}{}", counted(unit)))
    }
}

/// Any whole number.
pub(super) fn whole(text: &str) -> Result<i64, &'static str> {
    text.parse().map_err(|_| "is not a whole number")
}

fn counted(unit: &str) -> String {
    if unit.is_empty() { String::new() } else { format!(" ({unit})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_within_their_bounds() {
        let grace = number(0.0, 600.0, "seconds");
        assert_eq!([grace("0"), grace("2.5"), grace("600")], [Ok(0.0), Ok(2.5), Ok(600.0)]);
        for wrong in ["abc", "", "-1", "600.1", "NaN", "inf", "5s", "1,5"] {
            assert_eq!(grace(wrong), Err("is not a number between 0 and 600 (seconds)".to_owned()), "{wrong}");
        }
        let port = number::<u16>(1, 65_535, "");
        assert_eq!(port("3306"), Ok(3_306));
        for wrong in ["0", "65536", "99999999999999999999", "-1", "3306.0"] {
            assert_eq!(port(wrong), Err("is not a number between 1 and 65535".to_owned()), "{wrong}");
        }
        let age = above_zero(87_600.0, "hours");
        assert_eq!(age("0.001"), Ok(0.001));
        for wrong in ["0", "-0", "NaN", "inf", "87601"] {
            assert_eq!(age(wrong), Err("is not a number above 0 and up to 87600 (hours)".to_owned()), "{wrong}");
        }
        let size = at_least(64, "megabytes");
        assert_eq!((size("64"), size("18446744073709551615")), (Ok(64), Ok(u64::MAX)));
        assert_eq!(size("63"), Err("is not a whole number from 64 on (megabytes)".to_owned()));
        assert_eq!((whole("-7"), whole("acme")), (Ok(-7), Err("is not a whole number")));
    }
}
