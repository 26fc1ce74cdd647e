//! Certificates: a private authority, and a certificate of our own with its key. Files are read and tried when the
//! settings are, so that a wrong one is named at the start and not by the first call that fails.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use x509_cert::der::Decode;

use super::ConfigError;
use crate::finding::Finding;

type Result<T> = std::result::Result<T, ConfigError>;

/// Told of a certificate from this long before its end.
const SOON: Duration = Duration::from_secs(30 * 86_400);
/// Larger files hold no certificates.
const FILE_MAX: u64 = 4 << 20;

/// How one connection is encrypted.
#[derive(Clone, Debug, Default)]
pub struct TlsConfig {
    /// The authorities to believe, and nobody else; `None`: the system's.
    pub ca: Option<Certificates>,
    /// Shown to servers that ask for one.
    pub client: Option<ClientIdentity>,
}

/// Certificates of a file, tried.
#[derive(Clone, Debug)]
pub struct Certificates {
    pub file: PathBuf,
    /// The setting that names the file.
    pub variable: &'static str,
    pub pem: Vec<u8>,
}

/// A certificate of our own with its key, tried together.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// With the chain above it, if the file holds that.
    pub certificate: Certificates,
    /// PEM.
    pub key: SecretString,
}

/// The settings of one connection.
pub(super) struct Wanted<'a> {
    pub ca: Option<(&'static str, &'a Path)>,
    pub certificate: Option<(&'static str, &'a Path)>,
    pub key: (&'static str, Option<&'a SecretString>),
}

impl TlsConfig {
    pub(super) fn resolve(wanted: &Wanted<'_>) -> Result<Self> {
        let ca = wanted.ca.map(|(variable, file)| Certificates::authorities(variable, file)).transpose()?;
        let client = match (wanted.certificate, wanted.key) {
            (Some((variable, file)), (key_variable, Some(key))) => {
                Some(identity(Certificates::read(variable, file)?, key_variable, key)?)
            }
            (Some((variable, _)), (key_variable, None)) => {
                let problem = format!("not set, but {variable} is ({key_variable} or {key_variable}_FILE, PEM)");
                return Err(ConfigError::new(key_variable, problem));
            }
            (None, (key_variable, Some(_))) => {
                let certificate = key_variable.replace("_KEY", "_CERT_FILE");
                return Err(ConfigError::new(certificate, format!("not set, but {key_variable} is")));
            }
            (None, (_, None)) => None,
        };
        Ok(Self { ca, client })
    }

    /// Certificates whose time has run out, or soon will: for the log at the start, and for `check`.
    pub fn findings(&self, topic: &str) -> Vec<Finding> {
        let files = self.ca.iter().chain(self.client.iter().map(|c| &c.certificate));
        files.flat_map(|f| f.findings(topic, SystemTime::now())).collect()
    }
}

impl Certificates {
    /// Authorities of a file; `variable` is the setting that names it.
    pub fn authorities(variable: &'static str, file: &Path) -> Result<Self> {
        let read = Self::read(variable, file)?;
        for der in read.der().unwrap_or_default() {
            RootCertStore::empty().add(der).map_err(|e| {
                ConfigError::new(variable, format!("{}: holds a certificate that is no authority: {e}", file.display()))
            })?;
        }
        Ok(read)
    }

    fn read(variable: &'static str, file: &Path) -> Result<Self> {
        let fault = |problem: String| ConfigError::new(variable, format!("{}: {problem}", file.display()));
        let meta = std::fs::metadata(file).map_err(|e| fault(format!("cannot be read: {e}")))?;
        if !meta.is_file() || meta.len() > FILE_MAX {
            return Err(fault("is no file of certificates".to_owned()));
        }
        let pem = std::fs::read(file).map_err(|e| fault(format!("cannot be read: {e}")))?;
        let read = Self { file: file.to_owned(), variable, pem };
        if read.der().map_err(|e| fault(format!("is not PEM: {e}")))?.is_empty() {
            return Err(fault("holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)".to_owned()));
        }
        Ok(read)
    }

    fn der(&self) -> std::result::Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
        CertificateDer::pem_slice_iter(&self.pem).collect()
    }

    /// For rustls; each was taken before.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.der().unwrap_or_default());
        roots
    }

    fn findings(&self, topic: &str, now: SystemTime) -> Vec<Finding> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let shown = self.file.display();
        let day = |at: Duration| {
            DateTime::<Utc>::from_timestamp(i64::try_from(at.as_secs()).unwrap_or(i64::MAX), 0)
                .map_or_else(|| "a time far away".to_owned(), |t| t.format("%Y-%m-%d").to_string())
        };
        let mut findings = Vec::new();
        for der in self.der().unwrap_or_default() {
            let Ok(certificate) = x509_cert::Certificate::from_der(&der) else { continue };
            let validity = certificate.tbs_certificate.validity;
            let (from, to) = (validity.not_before.to_unix_duration(), validity.not_after.to_unix_duration());
            let remedy = format!("put a valid certificate into the file that {} names and restart", self.variable);
            if now > to {
                findings.push(Finding::problem(topic, format!("{shown}: expired on {}", day(to)), remedy));
            } else if now < from {
                let text = format!("{shown}: not valid before {}; check the clock too", day(from));
                findings.push(Finding::problem(topic, text, remedy));
            } else if now + SOON > to {
                findings.push(Finding::warning(topic, format!("{shown}: expires on {}", day(to)), remedy));
            }
        }
        findings
    }
}

/// Key and certificate belong together.
fn identity(certificate: Certificates, key_variable: &'static str, key: &SecretString) -> Result<ClientIdentity> {
    let text = key.expose_secret();
    let parsed = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| {
        let problem = if text.contains("ENCRYPTED") {
            "is encrypted; write it without a password, for this user alone: openssl pkey -in KEY -out PLAIN"
        } else {
            "holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)"
        };
        ConfigError::new(key_variable, problem)
    })?;
    // rustls asks for its provider once a process; a second time changes nothing
    let _ = rustls::crypto::ring::default_provider().install_default();
    let chain = certificate.der().unwrap_or_default();
    let builder = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
    builder.with_client_auth_cert(chain, parsed).map_err(|e| {
        let problem = match e {
            rustls::Error::InconsistentKeys(_) => {
                format!("is not the key of the (first) certificate in {}", certificate.file.display())
            }
            // the reason may repeat what was read
            _ => format!("and the certificate in {} cannot be used together", certificate.file.display()),
        };
        ConfigError::new(key_variable, problem)
    })?;
    Ok(ClientIdentity { certificate, key: key.clone() })
}
