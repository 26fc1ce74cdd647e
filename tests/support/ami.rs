//! A manager that speaks as Asterisk's does: greeting, challenge, login; everything else is the test's.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use callferry::ami::{Connect, Tls};
use md5::{Digest, Md5};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

/// Headers of an action.
pub struct Asked(Vec<(String, String)>);

impl Asked {
    pub fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str()).unwrap_or_default()
    }

    pub fn success(&self, headers: &str) -> String {
        format!("Response: Success\r\nActionID: {}\r\n{headers}\r\n", self.get("ActionID"))
    }

    pub fn refuse(&self, why: &str) -> String {
        format!("Response: Error\r\nActionID: {}\r\nMessage: {why}\r\n\r\n", self.get("ActionID"))
    }

    /// A list: each event is its lines.
    pub fn list(&self, events: &[String]) -> String {
        let id = self.get("ActionID");
        let mut out = self.success("EventList: start\r\n");
        for event in events {
            out.push_str(&format!("{event}ActionID: {id}\r\n\r\n"));
        }
        out + &format!("Event: ListComplete\r\nEventList: Complete\r\nActionID: {id}\r\n\r\n")
    }
}

const SECRET: &str = "s3cret";

/// Where a manager listens whose answers are `answer`'s. It takes one connection.
pub async fn manager(answer: impl FnMut(&Asked) -> String + Send + 'static) -> Connect {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        serve(socket, answer).await;
    });
    connect("127.0.0.1", port, Tls::Off)
}

/// The same behind TLS, with the certificate of [`super::server::certificates`]; it takes any number of connections.
pub async fn encrypted_manager(certificates: &Path) -> Connect {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let _ = rustls::crypto::ring::default_provider().install_default();
    let chain = CertificateDer::pem_file_iter(certificates.join("server.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(certificates.join("server.key")).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(socket) = acceptor.accept(socket).await {
                    serve(socket, |asked| asked.success("")).await;
                }
            });
        }
    });
    connect("localhost", port, Tls::On { ca_file: Some(certificates.join("ca.pem")) })
}

fn connect(host: &str, port: u16, tls: Tls) -> Connect {
    Connect {
        host: host.to_owned(),
        port,
        user: "lab".to_owned(),
        secret: SECRET.to_owned().into(),
        tls,
        timeout: Duration::from_secs(2),
        events: "on".to_owned(),
    }
}

async fn serve(socket: impl AsyncRead + AsyncWrite + Send, mut answer: impl FnMut(&Asked) -> String + Send) {
    let (read, mut write) = tokio::io::split(socket);
    let _ = write.write_all(b"Asterisk Call Manager/11.0.0\r\n").await;
    let mut lines = BufReader::new(read).lines();
    let mut headers = Vec::new();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some((key, value)) = line.split_once(": ") {
            headers.push((key.to_owned(), value.to_owned()));
            continue;
        }
        let asked = Asked(std::mem::take(&mut headers));
        let key: String = Md5::digest(format!("840415273{SECRET}")).iter().map(|b| format!("{b:02x}")).collect();
        let out = match asked.get("Action") {
            "Challenge" => asked.success("Challenge: 840415273\r\n"),
            "Login" if asked.get("Key") == key => {
                asked.success("Message: Authentication accepted\r\n")
                    + "Event: FullyBooted\r\nPrivilege: system,all\r\nStatus: Fully Booted\r\n\r\n"
            }
            "Login" => asked.refuse("Authentication failed"),
            _ => answer(&asked),
        };
        // in pieces, as networks do
        for piece in out.as_bytes().chunks(out.len() / 100 + 7) {
            if write.write_all(piece).await.is_err() || write.flush().await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}
