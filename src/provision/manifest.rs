//! `pbx.toml`: what the PBX should have, as one writes it. Unknown keys are refused; every problem names file and line.

use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::error::{Error, Result};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    #[serde(default)]
    pub defaults: Defaults,
    #[serde(default)]
    pub tables: std::collections::BTreeMap<String, TableDef>,
    #[serde(default, rename = "tenant")]
    pub tenants: Vec<Spanned<TenantDef>>,
    #[serde(default, rename = "trunk")]
    pub trunks: Vec<Spanned<TrunkDef>>,
    #[serde(default, rename = "extension")]
    pub extensions: Vec<Spanned<ExtensionDef>>,
    #[serde(default, rename = "queue")]
    pub queues: Vec<Spanned<QueueDef>>,
    #[serde(default, rename = "did")]
    pub dids: Vec<Spanned<DidDef>>,
    #[serde(default, rename = "route")]
    pub routes: Vec<Spanned<RouteDef>>,
}

/// A table under another name than Asterisk's, and columns of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableDef {
    pub name: Option<String>,
    #[serde(default)]
    pub columns: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    pub transport: String,
    pub webrtc_transport: String,
    pub trunk_codecs: Vec<String>,
    pub codecs: Vec<String>,
    pub webrtc_codecs: Vec<String>,
    /// Seconds a phone rings.
    pub ring_timeout: u32,
    /// Seconds to wait for an answer from outside.
    pub dial_timeout: u32,
}

impl Default for Defaults {
    fn default() -> Self {
        let list = |codecs: &[&str]| codecs.iter().map(|&c| c.to_owned()).collect();
        Self {
            transport: "transport-udp".to_owned(),
            webrtc_transport: "transport-ws".to_owned(),
            trunk_codecs: list(&["alaw", "ulaw"]),
            codecs: list(&["ulaw", "alaw", "g722", "opus"]),
            webrtc_codecs: list(&["opus", "ulaw", "alaw", "g722"]),
            ring_timeout: 30,
            dial_timeout: 60,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantDef {
    pub name: String,
    /// Goes to `accountcode` and `tenantid` [default: the name].
    pub accountcode: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrunkDef {
    /// What other parts of the file call it [default: host/extension].
    pub name: Option<String>,
    /// Takes over the trunk that stands under this id [default: made of host and extension].
    pub id: Option<String>,
    pub host: String,
    pub port: Option<u16>,
    pub extension: Option<String>,
    pub auth_id: Option<String>,
    pub password_env: Option<String>,
    pub password_file: Option<String>,
    pub digest_realm: Option<String>,
    /// `register` or `ip`.
    pub mode: Option<String>,
    #[serde(default)]
    pub ips: Vec<String>,
    pub protocol: Option<String>,
    pub transport: Option<String>,
    pub outbound_proxy: Option<String>,
    pub codecs: Option<Vec<String>>,
    #[serde(default)]
    pub strip_prefix: String,
    #[serde(default)]
    pub add_prefix: String,
    /// `pass` or `reject`.
    pub unmatched: Option<String>,
    pub from_number: Option<String>,
    pub app: Option<String>,
    pub inbound: Option<String>,
    pub tenant: Option<String>,
    pub media_encryption: Option<String>,
    pub dial_timeout: Option<u32>,
    pub expiration: Option<u32>,
    pub qualify_frequency: Option<u32>,
    #[serde(default)]
    pub nat: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtensionDef {
    pub number: String,
    /// Login of the phone [default: the number].
    pub username: Option<String>,
    pub name: Option<String>,
    pub password_env: Option<String>,
    pub password_file: Option<String>,
    pub digest_realm: Option<String>,
    #[serde(default)]
    pub webrtc: bool,
    #[serde(default = "yes")]
    pub active: bool,
    pub transport: Option<String>,
    pub context: Option<String>,
    pub codecs: Option<Vec<String>>,
    #[serde(default)]
    pub voicemail: bool,
    pub call_group: Option<String>,
    pub pickup_group: Option<String>,
    pub tenant: Option<String>,
    pub dtls_cert_file: Option<String>,
    pub max_contacts: Option<u32>,
    pub ring_timeout: Option<u32>,
    #[serde(default)]
    pub adopt: bool,
}

const fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueDef {
    pub name: String,
    /// Written under this very name instead of `<namespace>_<name>`; never pruned.
    pub exact_name: Option<String>,
    pub number: Option<String>,
    pub tenant: Option<String>,
    pub strategy: Option<String>,
    pub timeout: Option<u32>,
    #[serde(default)]
    pub ring_in_use: bool,
    #[serde(default)]
    pub wrapup: u32,
    #[serde(default)]
    pub max_len: u32,
    pub join_empty: Option<String>,
    pub leave_when_empty: Option<String>,
    pub music: Option<String>,
    pub announce: Option<String>,
    #[serde(default)]
    pub members: Vec<MemberDef>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberDef {
    /// Number of a phone of the file.
    pub extension: Option<String>,
    /// Any other device instead: `PJSIP/200`, `Local/9@ctx/n`.
    pub interface: Option<String>,
    pub name: Option<String>,
    #[serde(default)]
    pub penalty: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DidDef {
    pub number: String,
    /// Trunk it comes in by [default: every one].
    pub trunk: Option<String>,
    pub to: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteDef {
    pub trunk: String,
    /// Front of the numbers it takes, as a regular expression; empty for all.
    #[serde(default)]
    pub prefix: String,
    #[serde(default)]
    pub strip: bool,
    #[serde(default)]
    pub add_prefix: String,
    pub tenant: Option<String>,
    pub from_number: Option<String>,
    pub dial_timeout: Option<u32>,
}

/// The text of a manifest with its name, to tell lines.
pub struct Source<'a> {
    pub name: &'a str,
    pub text: &'a str,
}

impl Source<'_> {
    /// `pbx.toml line 12`
    pub fn place(&self, span: &Range<usize>) -> String {
        let line = self.text.get(..span.start).map_or(1, |before| before.matches('\n').count() + 1);
        format!("{} line {line}", self.name)
    }
}

/// Largest manifest read.
const MAX_BYTES: u64 = 8 << 20;

impl Manifest {
    pub fn parse(source: &Source<'_>) -> Result<Self> {
        toml::from_str(source.text).map_err(|e| {
            let place = e.span().map_or_else(|| source.name.to_owned(), |span| source.place(&span));
            Error::input(e.message().to_owned()).at(place)
        })
    }

    pub fn read(path: &Path) -> Result<String> {
        let problem = |e: std::io::Error| Error::input(format!("cannot read it: {e}")).at(path.display().to_string());
        let size = std::fs::metadata(path).map_err(problem)?.len();
        if size > MAX_BYTES {
            return Err(
                Error::input(format!("{size} bytes are too many for a manifest")).at(path.display().to_string())
            );
        }
        std::fs::read_to_string(path).map_err(problem)
    }
}
