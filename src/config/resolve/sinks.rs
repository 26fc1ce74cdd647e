//! Where calls go.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::super::settings::{Secrets, Settings, SinkSettings};
use super::super::tls::{TlsConfig, Wanted};
use super::super::{
    ConfigError, Faults, FileSinkConfig, HiddenUrl, NumberPrivacy, PrivacyWay, SinkConfig, SipstackConfig,
    WebhookConfig, labels,
};
use super::values::{http_url, trimmed};

type Result<T> = std::result::Result<T, ConfigError>;

/// Those that can be used; with faults among them, not all.
pub(super) fn sinks(settings: &Settings, secrets: &Secrets, hostname: &str, faults: &mut Faults) -> Vec<SinkConfig> {
    let s = &settings.sinks;
    let mut names: Vec<String> = trimmed(&s.sinks).into_iter().map(|n| n.to_ascii_lowercase()).collect();
    if names.is_empty() {
        if secrets.api_key.is_some() {
            names.push("sipstack".to_owned());
        } else {
            faults.add(ConfigError::new(
                "SINKS",
                "not set. It says where calls go: webhook (with WEBHOOK_URL), file (with FILE_PATH), sipstack (with \
                 API_KEY), or several with commas between",
            ));
        }
    }
    let mut sinks = Vec::new();
    for (n, name) in names.iter().enumerate() {
        if names[..n].contains(name) {
            faults.add(ConfigError::new("SINKS", format!("{name} is named twice")));
            continue;
        }
        sinks.extend(match name.as_str() {
            "webhook" => webhook(settings, secrets, faults).map(SinkConfig::Webhook),
            "file" => {
                let path = (s.file_path != "-").then(|| PathBuf::from(&s.file_path));
                let own = s.file_number_privacy.as_deref();
                let privacy = faults.take(privacy(settings, secrets, "FILE_NUMBER_PRIVACY", own));
                privacy.map(|privacy| SinkConfig::File(FileSinkConfig { path, privacy }))
            }
            "sipstack" => sipstack(settings, secrets, hostname, faults).map(SinkConfig::Sipstack),
            other => {
                faults.add(ConfigError::new("SINKS", format!("{other} is not one of webhook, file, sipstack")));
                None
            }
        });
    }
    sinks
}

fn webhook(settings: &Settings, secrets: &Secrets, faults: &mut Faults) -> Option<WebhookConfig> {
    let s = &settings.sinks;
    let url = match &s.webhook_url {
        Some(url) => http_url("WEBHOOK_URL", url),
        None => Err(ConfigError::new("WEBHOOK_URL", "not set, but SINKS names webhook")),
    };
    let url = faults.take(url);
    let tls = faults.take(TlsConfig::resolve(&Wanted {
        ca: s.webhook_ca_file.as_deref().map(|file| ("WEBHOOK_CA_FILE", file)),
        certificate: s.webhook_client_cert_file.as_deref().map(|file| ("WEBHOOK_CLIENT_CERT_FILE", file)),
        key: ("WEBHOOK_CLIENT_KEY", secrets.webhook_client_key.as_ref()),
    }));
    let own = s.webhook_number_privacy.as_deref();
    let privacy = faults.take(privacy(settings, secrets, "WEBHOOK_NUMBER_PRIVACY", own));
    Some(WebhookConfig {
        url: url?,
        token: secrets.webhook_token.clone(),
        signing_secret: secrets.webhook_secret.clone(),
        batch_size: s.webhook_batch_size,
        gzip: s.webhook_gzip,
        concurrency: s.webhook_concurrency,
        timeout: Duration::from_secs_f64(s.webhook_timeout),
        allow_http: s.allow_http,
        tls: tls?,
        privacy: privacy?,
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

fn sipstack(settings: &Settings, secrets: &Secrets, hostname: &str, faults: &mut Faults) -> Option<SipstackConfig> {
    let s = &settings.sinks;
    if secrets.api_key.is_none() {
        let problem = "not set, but SINKS names sipstack (API_KEY or API_KEY_FILE)";
        faults.add(ConfigError::new("API_KEY", problem));
    }
    let url = faults.take(calls_url(s));
    let tls = faults.take(api_tls(s, secrets));
    let privacy = faults.take(api_privacy(settings, secrets));
    Some(SipstackConfig {
        url: url?,
        api_key: secrets.api_key.clone()?,
        customer_id: s.customer_id,
        tenant: settings.rules.tenant.clone(),
        hostname: hostname.to_owned(),
        include_raw_data: s.include_raw_data,
        concurrency: s.api_concurrency,
        timeout: Duration::from_secs_f64(s.api_timeout),
        allow_http: s.allow_http,
        tls: tls?,
        privacy: privacy?,
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
