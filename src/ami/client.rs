//! A connection: login, actions, events.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use md5::{Digest, Md5};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::AmiError;
use super::frame::{Action, Frame, MAX_FRAME_BYTES};

type Result<T> = std::result::Result<T, AmiError>;

/// Events kept while an action is awaited; a connection with more is given up, never thinned out.
const MAX_QUEUED_EVENTS: usize = 10_000;
/// Frames of one list answer.
const MAX_LIST: usize = 200_000;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Encryption of the connection.
#[derive(Clone, Debug)]
pub enum Tls {
    Off,
    /// Certificate and name are verified: against the authorities of a PEM file, or the system's.
    On {
        ca_file: Option<PathBuf>,
    },
}

#[derive(Clone, Debug)]
pub struct Connect {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub secret: SecretString,
    pub tls: Tls,
    /// For the connection and for every answer.
    pub timeout: Duration,
    /// Event classes: `off`, `on`, or `system,call`.
    pub events: String,
}

pub struct Client {
    stream: Box<dyn Stream>,
    /// What has arrived and is not yet a frame.
    buffer: Vec<u8>,
    events: VecDeque<Frame>,
    next_id: u64,
    timeout: Duration,
    version: String,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("version", &self.version).field("queued", &self.events.len()).finish()
    }
}

impl Client {
    /// Connects and logs in, with the MD5 challenge where the server offers it: the secret does not cross the wire.
    pub async fn connect(to: &Connect) -> Result<Self> {
        let address = format!("{}:{}", to.host, to.port);
        let failed = |reason: String| AmiError::Connect { address: address.clone(), reason };
        let deadline = Instant::now() + to.timeout;
        let opening = async {
            let tcp = TcpStream::connect((to.host.as_str(), to.port)).await.map_err(|e| failed(e.to_string()))?;
            let _ = tcp.set_nodelay(true);
            match to.tls {
                Tls::Off => Ok(Box::new(tcp) as Box<dyn Stream>),
                Tls::On { ref ca_file } => {
                    tls(tcp, &to.host, ca_file.as_deref()).await.map(|s| Box::new(s) as Box<dyn Stream>).map_err(failed)
                }
            }
        };
        let late = || failed(format!("no answer within {} s", to.timeout.as_secs()));
        let stream = timeout_at(deadline, opening).await.map_err(|_| late())??;
        let mut client = Self {
            stream,
            buffer: Vec::new(),
            events: VecDeque::new(),
            next_id: 1,
            timeout: to.timeout,
            version: String::new(),
        };
        let greeting = timeout_at(deadline, client.line()).await.map_err(|_| late())??;
        let Some(version) = greeting.strip_prefix("Asterisk Call Manager/") else {
            let greeting = greeting.chars().take(80).collect();
            return Err(AmiError::Greeting { address, greeting });
        };
        client.version = version.to_owned();
        client.login(to).await?;
        Ok(client)
    }

    /// Version of the protocol, as greeted.
    pub fn version(&self) -> &str {
        &self.version
    }

    async fn login(&mut self, to: &Connect) -> Result<()> {
        let challenge = self.action(Action::new("Challenge").with("AuthType", "MD5")).await;
        let login = Action::new("Login").with("Username", &to.user).with("Events", &to.events);
        let login = match challenge {
            Ok(answer) => {
                let challenge = answer.get("Challenge").unwrap_or_default();
                let mut md5 = Md5::new();
                md5.update(challenge);
                md5.update(to.secret.expose_secret());
                let key: String = md5.finalize().iter().map(|b| format!("{b:02x}")).collect();
                login.with("AuthType", "MD5").with("Key", key)
            }
            Err(AmiError::Refused { .. }) => login.with("Secret", to.secret.expose_secret()),
            Err(e) => return Err(e),
        };
        match self.action(login).await {
            Ok(_) => Ok(()),
            Err(AmiError::Refused { message, .. }) => Err(AmiError::Login { user: to.user.clone(), message }),
            Err(e) => Err(e),
        }
    }

    /// Sends an action and waits for its response; `Refused` when that is an error.
    pub async fn action(&mut self, action: Action) -> Result<Frame> {
        let deadline = Instant::now() + self.timeout;
        let id = self.send(&action).await?;
        let frame = self.answer(&action, &id, deadline).await?;
        if frame.is_success() {
            return Ok(frame);
        }
        let message = frame.get("Message").unwrap_or("refused without a message").to_owned();
        Err(AmiError::Refused { action: action.name.to_owned(), message })
    }

    /// Sends an action that answers with a list of events and returns those up to its end.
    pub async fn list(&mut self, action: Action) -> Result<Vec<Frame>> {
        let deadline = Instant::now() + self.timeout;
        let id = self.send(&action).await?;
        let first = self.answer(&action, &id, deadline).await?;
        if !first.is_success() {
            let message = first.get("Message").unwrap_or("refused without a message").to_owned();
            return Err(AmiError::Refused { action: action.name.to_owned(), message });
        }
        let mut list = Vec::new();
        loop {
            let frame = self.before(deadline, &action).await?;
            if frame.get("ActionID") != Some(&id) {
                self.keep(frame)?;
                continue;
            }
            if frame.get("EventList").is_some_and(|e| e.eq_ignore_ascii_case("complete")) {
                return Ok(list);
            }
            if list.len() == MAX_LIST {
                return Err(AmiError::Protocol(format!("more than {MAX_LIST} answers to {}", action.name)));
            }
            list.push(frame);
        }
    }

    /// A command of Asterisk's console; its lines.
    pub async fn command(&mut self, command: &str) -> Result<Vec<String>> {
        let frame = self.action(Action::new("Command").with("Command", command)).await?;
        Ok(frame.all("Output").map(str::to_owned).collect())
    }

    /// The next event. Dropped midway it loses nothing.
    pub async fn event(&mut self) -> Result<Frame> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let frame = self.frame().await?;
            if frame.event().is_some() {
                return Ok(frame);
            }
        }
    }

    /// Asks for a sign of life.
    pub async fn ping(&mut self) -> Result<()> {
        self.action(Action::new("Ping")).await.map(|_| ())
    }

    pub async fn logoff(mut self) {
        let _ = self.action(Action::new("Logoff")).await;
    }

    async fn send(&mut self, action: &Action) -> Result<String> {
        let id = format!("callferry-{}", self.next_id);
        self.next_id += 1;
        let bytes = action.encode(&id)?;
        let write = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(self.timeout, write).await {
            Ok(done) => done.map_err(|e| AmiError::Lost(e.to_string()))?,
            Err(_) => return Err(self.late(action)),
        }
        Ok(id)
    }

    fn late(&self, action: &Action) -> AmiError {
        AmiError::Timeout { action: action.name.to_owned(), seconds: self.timeout.as_secs() }
    }

    async fn answer(&mut self, action: &Action, id: &str, deadline: Instant) -> Result<Frame> {
        loop {
            let frame = self.before(deadline, action).await?;
            if frame.get("Response").is_some() && frame.event().is_none() {
                // answers to actions that were given up on come late
                if frame.get("ActionID").is_none_or(|i| i == id) {
                    return Ok(frame);
                }
            } else {
                self.keep(frame)?;
            }
        }
    }

    fn keep(&mut self, frame: Frame) -> Result<()> {
        if frame.event().is_none() {
            return Ok(());
        }
        if self.events.len() == MAX_QUEUED_EVENTS {
            return Err(AmiError::Protocol(format!(
                "more than {MAX_QUEUED_EVENTS} events while an answer was awaited"
            )));
        }
        self.events.push_back(frame);
        Ok(())
    }

    async fn before(&mut self, deadline: Instant, action: &Action) -> Result<Frame> {
        match timeout_at(deadline, self.frame()).await {
            Ok(frame) => frame,
            Err(_) => Err(self.late(action)),
        }
    }

    async fn frame(&mut self) -> Result<Frame> {
        let mut seen = 0;
        loop {
            if let Some(end) = Frame::end(&self.buffer, seen) {
                seen = 0;
                let bytes: Vec<u8> = self.buffer.drain(..end).collect();
                if end > 2 {
                    return Frame::parse(&bytes);
                }
                continue;
            }
            seen = self.buffer.len();
            self.fill().await?;
        }
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&b| b == b'\n') {
                let bytes: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned());
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<()> {
        if self.buffer.len() > MAX_FRAME_BYTES {
            return Err(AmiError::Protocol(format!("a frame of more than {MAX_FRAME_BYTES} bytes")));
        }
        // read_buf is safe to drop: what it has read is in the buffer
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(AmiError::Lost("closed by the other side".to_owned())),
            Ok(_) => Ok(()),
            Err(e) => Err(AmiError::Lost(e.to_string())),
        }
    }
}

async fn tls(tcp: TcpStream, host: &str, ca_file: Option<&Path>) -> std::result::Result<impl Stream + use<>, String> {
    let mut roots = rustls::RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let problem = |e: String| format!("TLS: the authorities of {} cannot be read: {e}", path.display());
            let found = CertificateDer::pem_file_iter(path).map_err(|e| problem(e.to_string()))?;
            for certificate in found {
                let certificate = certificate.map_err(|e| problem(e.to_string()))?;
                roots.add(certificate).map_err(|e| problem(e.to_string()))?;
            }
            if roots.is_empty() {
                return Err(problem("it holds no certificate".to_owned()));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, tcp).await.map_err(|e| {
        format!(
            "TLS: {e}; the certificate has to be for the name {host}, of an authority in AMI_CA_FILE or the system's"
        )
    })
}
