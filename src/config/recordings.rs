//! What the settings of recording files mean.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::resolve::{api_privacy, api_tls, calls_url, http_url, trimmed};
use super::settings::{HiddenUrl, Secrets, Settings};
use super::tls::TlsConfig;
use super::{ConfigError, NumberPrivacy};

/// Where Asterisk keeps recordings unless told otherwise.
const DEFAULT_PATH: &str = "/var/spool/asterisk/monitor";

/// Files that are looked for, and whether they are sent anywhere.
#[derive(Clone, Debug, Default)]
pub struct RecordingConfig {
    /// `None`: no files are looked for.
    pub files: Option<FilesConfig>,
    /// `None`: none is sent.
    pub upload: Option<UploadConfig>,
}

#[derive(Clone, Debug)]
pub struct FilesConfig {
    pub roots: Vec<PathBuf>,
    /// In lower case, without dot.
    pub extensions: Vec<String>,
    /// Bytes.
    pub min_size: u64,
    pub max_age: Duration,
    /// How often in a row a file has to be found unchanged.
    pub checks: u32,
    pub check_interval: Duration,
}

#[derive(Clone, Debug)]
pub struct UploadConfig {
    pub url: HiddenUrl,
    pub api_key: SecretString,
    pub concurrency: usize,
    pub timeout: Duration,
    pub allow_http: bool,
    pub tls: TlsConfig,
    pub privacy: NumberPrivacy,
}

pub(super) fn resolve(settings: &Settings, secrets: &Secrets) -> Result<RecordingConfig, ConfigError> {
    let s = &settings.recordings;
    let mut paths = trimmed(&s.recording_paths);
    if !s.recording_enabled.unwrap_or(!paths.is_empty()) {
        if s.recording_upload_enabled {
            return Err(ConfigError::new(
                "RECORDING_UPLOAD_ENABLED",
                "is true, but no recordings are looked for: set RECORDING_PATHS (and not RECORDING_ENABLED=false)",
            ));
        }
        return Ok(RecordingConfig::default());
    }
    if paths.is_empty() {
        paths.push(DEFAULT_PATH.to_owned());
    }
    let roots: Vec<PathBuf> = paths.into_iter().map(PathBuf::from).collect();
    if let Some(bad) = roots.iter().find(|p| !p.is_absolute() || p.parent().is_none()) {
        return Err(ConfigError::new(
            "RECORDING_PATHS",
            format!("{} is not an absolute path of a folder of recordings", bad.display()),
        ));
    }
    let extensions: Vec<String> = trimmed(&s.recording_file_extensions)
        .into_iter()
        .map(|e| e.trim_start_matches('.').to_ascii_lowercase())
        .filter(|e| !e.is_empty())
        .collect();
    if extensions.is_empty() {
        return Err(ConfigError::new("RECORDING_FILE_EXTENSIONS", "names no ending, such as wav,mp3,gsm"));
    }
    let files = FilesConfig {
        roots,
        extensions,
        min_size: s.recording_min_file_size,
        max_age: Duration::from_secs_f64(s.recording_max_age_hours * 3_600.0),
        checks: s.recording_stability_check_count,
        check_interval: Duration::from_secs_f64(s.recording_stability_check_interval),
    };
    let upload = if s.recording_upload_enabled { Some(upload(settings, secrets)?) } else { None };
    Ok(RecordingConfig { files: Some(files), upload })
}

fn upload(settings: &Settings, secrets: &Secrets) -> Result<UploadConfig, ConfigError> {
    let s = &settings.recordings;
    let Some(api_key) = secrets.api_key.clone() else {
        return Err(ConfigError::new(
            "API_KEY",
            "not set, but RECORDING_UPLOAD_ENABLED=true (API_KEY or API_KEY_FILE)",
        ));
    };
    let url = match &s.recording_upload_url {
        Some(url) => http_url("RECORDING_UPLOAD_URL", url)?,
        None => {
            let calls = calls_url(&settings.sinks)?;
            let base = reqwest::Url::parse(calls.as_str()).and_then(|url| url.join("/v1/mqs/recording"));
            base.map_err(|e| ConfigError::new("API_ENDPOINT", format!("not a URL ({e})")))?.to_string().into()
        }
    };
    Ok(UploadConfig {
        url,
        api_key,
        concurrency: s.recording_upload_concurrency,
        timeout: Duration::from_secs_f64(s.recording_upload_timeout),
        allow_http: settings.sinks.allow_http,
        tls: api_tls(&settings.sinks, secrets)?,
        privacy: api_privacy(settings, secrets)?,
    })
}
