//! Where calls go.

use std::path::PathBuf;

use super::super::settings::{Secrets, Settings, SinkSettings};
use super::super::{ConfigError, FileSinkConfig, SinkConfig, SipstackConfig, WebhookConfig};
use super::values::{concurrency, http_url, seconds, trimmed};

type Result<T> = std::result::Result<T, ConfigError>;

pub(super) fn sinks(settings: &Settings, secrets: &Secrets, hostname: &str) -> Result<Vec<SinkConfig>> {
    let s = &settings.sinks;
    let mut names: Vec<String> = trimmed(&s.sinks).into_iter().map(|n| n.to_ascii_lowercase()).collect();
    if names.is_empty() {
        if secrets.api_key.is_some() {
            names.push("sipstack".to_owned());
        } else {
            return Err(ConfigError::new(
                "SINKS",
                "not set. It says where calls go: webhook (with WEBHOOK_URL), file (with FILE_PATH), sipstack (with \
                 API_KEY), or several with commas between",
            ));
        }
    }
    let mut sinks = Vec::new();
    for name in names {
        let sink = match name.as_str() {
            "webhook" => SinkConfig::Webhook(webhook(settings, secrets)?),
            "file" => {
                SinkConfig::File(FileSinkConfig { path: (s.file_path != "-").then(|| PathBuf::from(&s.file_path)) })
            }
            "sipstack" => SinkConfig::Sipstack(sipstack(settings, secrets, hostname)?),
            other => return Err(ConfigError::new("SINKS", format!("{other} is not one of webhook, file, sipstack"))),
        };
        if sinks.iter().any(|s: &SinkConfig| s.name() == sink.name()) {
            return Err(ConfigError::new("SINKS", format!("{} is named twice", sink.name())));
        }
        sinks.push(sink);
    }
    Ok(sinks)
}

fn webhook(settings: &Settings, secrets: &Secrets) -> Result<WebhookConfig> {
    let s = &settings.sinks;
    let Some(url) = &s.webhook_url else {
        return Err(ConfigError::new("WEBHOOK_URL", "not set, but SINKS names webhook"));
    };
    if !(1..=1_000).contains(&s.webhook_batch_size) {
        return Err(ConfigError::new(
            "WEBHOOK_BATCH_SIZE",
            format!("{} is not between 1 and 1000", s.webhook_batch_size),
        ));
    }
    Ok(WebhookConfig {
        url: http_url("WEBHOOK_URL", url)?,
        token: secrets.webhook_token.clone(),
        signing_secret: secrets.webhook_secret.clone(),
        batch_size: s.webhook_batch_size,
        gzip: s.webhook_gzip,
        concurrency: concurrency("WEBHOOK_CONCURRENCY", s.webhook_concurrency)?,
        timeout: seconds("WEBHOOK_TIMEOUT", s.webhook_timeout, 0.1, 3_600.0)?,
        allow_http: s.allow_http,
    })
}

/// Where calls are posted: as set, or by region.
pub(in crate::config) fn calls_url(s: &SinkSettings) -> Result<String> {
    Ok(match s.api_endpoint.as_ref().or(s.api_url.as_ref()) {
        Some(url) => {
            let variable = if s.api_endpoint.is_some() { "API_ENDPOINT" } else { "API_URL" };
            let url = http_url(variable, url)?;
            let url = url.trim_end_matches('/');
            // as the SIPSTACK connector does: only the API's own path lacks its last part
            if url.ends_with("/v1/mqs/connectors/asterisk") { format!("{url}/calls") } else { url.to_owned() }
        }
        None => match s.region.to_ascii_lowercase().as_str() {
            region @ ("dev" | "ca1" | "us1" | "us2") => {
                format!("https://api-{region}.sipstack.com/v1/mqs/connectors/asterisk/calls")
            }
            other => return Err(ConfigError::new("REGION", format!("{other} is not one of dev, ca1, us1, us2"))),
        },
    })
}

fn sipstack(settings: &Settings, secrets: &Secrets, hostname: &str) -> Result<SipstackConfig> {
    let s = &settings.sinks;
    let Some(api_key) = secrets.api_key.clone() else {
        return Err(ConfigError::new("API_KEY", "not set, but SINKS names sipstack (API_KEY or API_KEY_FILE)"));
    };
    let url = calls_url(s)?;
    Ok(SipstackConfig {
        url,
        api_key,
        customer_id: s.customer_id,
        tenant: settings.rules.tenant.clone(),
        hostname: hostname.to_owned(),
        include_raw_data: s.include_raw_data,
        concurrency: concurrency("API_CONCURRENCY", s.api_concurrency)?,
        timeout: seconds("API_TIMEOUT", s.api_timeout, 0.1, 3_600.0)?,
        allow_http: s.allow_http,
    })
}
