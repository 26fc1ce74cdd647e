//! Values that several settings share the form of, checked.

use std::time::Duration;

use super::super::{ConfigError, HiddenUrl};

type Result<T> = std::result::Result<T, ConfigError>;

pub(in crate::config) fn http_url(variable: &str, value: &HiddenUrl) -> Result<HiddenUrl> {
    let url = reqwest::Url::parse(value.as_str())
        .map_err(|e| ConfigError::new(variable, format!("not a URL ({e}); it begins with https:// or http://")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(ConfigError::new(variable, "not an http:// or https:// URL with a host"));
    }
    Ok(value.clone())
}

pub(in crate::config) fn concurrency(variable: &str, value: usize) -> Result<usize> {
    if (1..=64).contains(&value) {
        Ok(value)
    } else {
        Err(ConfigError::new(variable, format!("{value} is not between 1 and 64")))
    }
}

pub(in crate::config) fn seconds(variable: &str, value: f64, min: f64, max: f64) -> Result<Duration> {
    if (min..=max).contains(&value) {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err(ConfigError::new(variable, format!("{value} is not between {min} and {max} seconds")))
    }
}

pub(in crate::config) fn hours(variable: &str, value: f64) -> Result<Duration> {
    if value > 0.0 && value <= 24.0 * 3_650.0 {
        Ok(Duration::from_secs_f64(value * 3_600.0))
    } else {
        Err(ConfigError::new(variable, "has to be more than 0 and at most ten years"))
    }
}

pub(in crate::config) fn trimmed(list: &[String]) -> Vec<String> {
    list.iter().map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
}
