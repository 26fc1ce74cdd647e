//! Values that several settings share the form of, checked.

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

pub(in crate::config) fn trimmed(list: &[String]) -> Vec<String> {
    list.iter().map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
}
