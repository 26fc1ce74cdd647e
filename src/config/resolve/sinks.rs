//! Where calls go.

use std::path::PathBuf;

use secrecy::ExposeSecret;

use super::super::settings::{Secrets, Settings, SinkSettings};
use super::super::tls::{TlsConfig, Wanted};
use super::super::{
    ConfigError, FileSinkConfig, HiddenUrl, NumberPrivacy, PrivacyWay, SinkConfig, SipstackConfig, WebhookConfig,
    labels,
};
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
                let path = (s.file_path != "-").then(|| PathBuf::from(&s.file_path));
                let privacy = privacy(settings, secrets, "FILE_NUMBER_PRIVACY", s.file_number_privacy.as_deref())?;
                SinkConfig::File(FileSinkConfig { path, privacy })
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
        tls: TlsConfig::resolve(&Wanted {
            ca: s.webhook_ca_file.as_deref().map(|file| ("WEBHOOK_CA_FILE", file)),
            certificate: s.webhook_client_cert_file.as_deref().map(|file| ("WEBHOOK_CLIENT_CERT_FILE", file)),
            key: ("WEBHOOK_CLIENT_KEY", secrets.webhook_client_key.as_ref()),
        })?,
        privacy: privacy(settings, secrets, "WEBHOOK_NUMBER_PRIVACY", s.webhook_number_privacy.as_deref())?,
    })
}

/// Where calls are posted: as set, or by region.
pub(in crate::config) fn calls_url(s: &SinkSettings) -> Result<HiddenUrl> {
    let url = match s.api_endpoint.as_ref().or(s.api_url.as_ref()) {
        Some(url) => {
            let variable = if s.api_endpoint.is_some() { "API_ENDPOINT" } else { "API_URL" };
            let url = http_url(variable, url)?;
            let url = url.as_str().trim_end_matches('/');
            // as the SIPSTACK connector does: only the API's own path lacks its last part
            if url.ends_with("/v1/mqs/connectors/asterisk") { format!("{url}/calls") } else { url.to_owned() }
        }
        None => match s.region.to_ascii_lowercase().as_str() {
            region @ ("dev" | "ca1" | "us1" | "us2") => {
                format!("https://api-{region}.sipstack.com/v1/mqs/connectors/asterisk/calls")
            }
            other => return Err(ConfigError::new("REGION", format!("{other} is not one of dev, ca1, us1, us2"))),
        },
    };
    Ok(url.into())
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
        tls: api_tls(s, secrets)?,
        privacy: api_privacy(settings, secrets)?,
    })
}

/// Of the API: calls and recordings.
pub(in crate::config) fn api_tls(s: &SinkSettings, secrets: &Secrets) -> Result<TlsConfig> {
    TlsConfig::resolve(&Wanted {
        ca: s.api_ca_file.as_deref().map(|file| ("API_CA_FILE", file)),
        certificate: s.api_client_cert_file.as_deref().map(|file| ("API_CLIENT_CERT_FILE", file)),
        key: ("API_CLIENT_KEY", secrets.api_client_key.as_ref()),
    })
}

/// The same.
pub(in crate::config) fn api_privacy(settings: &Settings, secrets: &Secrets) -> Result<NumberPrivacy> {
    privacy(settings, secrets, "API_NUMBER_PRIVACY", settings.sinks.api_number_privacy.as_deref())
}

/// A shorter key is found by trying: there are not that many phone numbers.
const KEY_CHARS_MIN: usize = 16;

/// What `variable` says for one sink, or `NUMBER_PRIVACY` for all.
fn privacy(settings: &Settings, secrets: &Secrets, variable: &str, own: Option<&str>) -> Result<NumberPrivacy> {
    let (variable, value) = own.map_or(("NUMBER_PRIVACY", settings.sinks.number_privacy.as_str()), |v| (variable, v));
    let way = match value.to_ascii_lowercase().as_str() {
        "full" => PrivacyWay::Full,
        "masked" => PrivacyWay::Masked,
        "hashed" => match &secrets.number_privacy_key {
            Some(key) if key.expose_secret().chars().count() >= KEY_CHARS_MIN => PrivacyWay::Hashed(key.clone()),
            Some(_) => {
                let problem = format!("is shorter than {KEY_CHARS_MIN} characters; such as: openssl rand -base64 32");
                return Err(ConfigError::new("NUMBER_PRIVACY_KEY", problem));
            }
            None => {
                let problem = format!(
                    "not set, but {variable}=hashed (NUMBER_PRIVACY_KEY or NUMBER_PRIVACY_KEY_FILE); make one once and \
                     keep it: openssl rand -base64 32"
                );
                return Err(ConfigError::new("NUMBER_PRIVACY_KEY", problem));
            }
        },
        other => return Err(ConfigError::new(variable, format!("{other} is not one of full, masked, hashed"))),
    };
    let numbering = labels::numbering(&settings.rules)?;
    Ok(NumberPrivacy { way, numbering, extension_max: settings.rules.asterisk_ext_max_length })
}
