//! Every setting, declared once: environment name, flag, default, help, validation.
//!
//! [`Settings`] is what was written (environment, `.env`, flags); [`Config`] is what it means. A wrong value ends the
//! start with one line that names the variable, the value (never a secret's) and what is allowed.

mod dotenv;
mod env;
mod example;
mod faults;
mod labels;
mod names;
mod parsers;
mod recordings;
mod resolve;
mod settings;
mod tls;
mod types;

pub use env::{EnvError, load_env, secret, set_aside};
pub use example::env_example;
pub use faults::Faults;
pub use names::unknown_names;
pub use recordings::{FilesConfig, RecordingConfig, UploadConfig};
pub use resolve::{rules, zone};
pub use settings::{
    DatabaseSettings, DeliverySettings, HiddenUrl, LogSettings, MonitoringSettings, ProvisionSettings,
    RecordingSettings, RuleSettings, SECRET_NAMES, Secrets, Settings, SinkSettings, StateSettings,
};
pub use tls::{Certificates, ClientIdentity, TlsConfig};
pub use types::{
    CelMode, Config, DatabaseConfig, DatabaseKind, DeliveryConfig, FileSinkConfig, LogConfig, MonitoringConfig,
    NumberPrivacy, PrivacyWay, ShippingConfig, SinkConfig, SipstackConfig, SourceConfig, StartFrom, StateConfig,
    TlsMode, WebhookConfig,
};

use thiserror::Error;

/// A setting that cannot be used. The message names the variable and what is allowed.
#[derive(Debug, Error)]
#[error("{variable}: {problem}")]
pub struct ConfigError {
    pub variable: String,
    pub problem: String,
}

impl ConfigError {
    pub fn new(variable: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { variable: variable.into(), problem: problem.into() }
    }
}
