//! Certificates: who is believed, what is shown to whom, and which file is told to be wrong.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use callferry::config::{Certificates, ClientIdentity, TlsConfig, WebhookConfig};
use callferry::ship::sink::webhook::Webhook;
use callferry::ship::{Answer, Batch, Item, Sink};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::program::Program;
use crate::ship::support::webhook_config;

/// A private authority and what it signs, as files.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

/// A certificate with its key.
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// `years`: first and last of its life.
    pub fn sign(&self, file: &str, name: &str, years: (i32, i32)) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |ending: &str| self.dir.path().join(format!("{file}.{ending}"));
        std::fs::write(path("pem"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        Pair { certificate: path("pem"), key: path("key") }
    }
}

const VALID: (i32, i32) = (2020, 2090);

/// Answers 200 to everything over TLS. How many requests it has read.
async fn receiver(pair: &Pair, clients: Option<&Authority>) -> (u16, Arc<AtomicUsize>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let chain: Vec<_> = CertificateDer::pem_file_iter(&pair.certificate).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
    let builder = ServerConfig::builder();
    let config = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(authority.file()).unwrap()).unwrap();
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap())
        }
    };
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, count) = (acceptor.clone(), count.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut buffer = vec![0; 65_536];
                if stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                    count.fetch_add(1, Ordering::SeqCst);
                    let _ =
                        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    (port, requests)
}

pub fn batch() -> Batch {
    let item = Item { key: "pbx:1.1/1".to_owned(), body: b"{}".to_vec() };
    Batch { key: item.key.clone(), items: vec![item] }
}

async fn send(url: &str, tls: TlsConfig) -> Answer {
    let config = WebhookConfig { tls, timeout: Duration::from_secs(10), ..webhook_config(url) };
    Webhook::new(&config).expect("a webhook").send(&batch()).await
}

fn believing(authority: &Authority) -> TlsConfig {
    TlsConfig { ca: Some(Certificates::authorities("WEBHOOK_CA_FILE", &authority.file()).unwrap()), client: None }
}

#[tokio::test]
async fn only_a_certificate_that_can_be_verified_gets_a_call() {
    let (ours, other) = (Authority::new(), Authority::new());
    for (name, pair, host, tls, taken) in [
        ("system's authorities", ours.sign("a", "localhost", VALID), "localhost", TlsConfig::default(), false),
        ("the private one", ours.sign("b", "localhost", VALID), "localhost", believing(&ours), true),
        ("another one", ours.sign("c", "localhost", VALID), "localhost", believing(&other), false),
        ("another name", ours.sign("d", "calls.example", VALID), "localhost", believing(&ours), false),
        ("an address without a certificate", ours.sign("e", "localhost", VALID), "127.0.0.1", believing(&ours), false),
        ("expired", ours.sign("f", "localhost", (2019, 2020)), "localhost", believing(&ours), false),
        ("not yet valid", ours.sign("g", "localhost", (2089, 2090)), "localhost", believing(&ours), false),
    ] {
        let (port, requests) = receiver(&pair, None).await;
        let answer = send(&format!("https://{host}:{port}/"), tls).await;
        if taken {
            assert_eq!(answer, Answer::Accepted, "{name}");
        } else {
            let Answer::Unreachable(text) = &answer else { panic!("{name}: {answer:?}") };
            assert!(text.to_lowercase().contains("certificate"), "{name}: {text}");
        }
        assert_eq!(requests.load(Ordering::SeqCst), usize::from(taken), "{name}");
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_who_asks_for_one() {
    let (ours, clients) = (Authority::new(), Authority::new());
    let (port, requests) = receiver(&ours.sign("server", "localhost", VALID), Some(&clients)).await;
    let url = format!("https://localhost:{port}/");
    let without = send(&url, believing(&ours)).await;
    assert!(matches!(without, Answer::Unreachable(_) | Answer::Unanswered(_)), "{without:?}");
    assert_eq!(requests.load(Ordering::SeqCst), 0);
    let pair = clients.sign("client", "agent", VALID);
    let identity = ClientIdentity {
        certificate: Certificates::authorities("WEBHOOK_CLIENT_CERT_FILE", &pair.certificate).unwrap(),
        key: std::fs::read_to_string(&pair.key).unwrap().into(),
    };
    let with = send(&url, TlsConfig { client: Some(identity), ..believing(&ours) }).await;
    assert_eq!(with, Answer::Accepted);
}

fn program(settings: &[(&str, &Path)]) -> Program {
    let mut program = Program::new().env_file(
        "DB_TYPE=sqlite\nDB_NAME=pbx.db\nDB_TIMEZONE=UTC\nSINKS=webhook\nWEBHOOK_URL=https://localhost:1/\nMONITORING_PORT=0\n",
    );
    crate::running::database(&program.dir().join("pbx.db"));
    for (name, path) in settings {
        program = program.env(name, &path.display().to_string());
    }
    program
}

/// Settings with their files, and the words of the refusal.
type Case<'a> = (&'a [(&'a str, &'a Path)], &'a [&'a str]);

#[test]
fn files_that_cannot_be_used_are_named_at_the_start_and_by_check() {
    let authority = Authority::new();
    let (one, two) = (authority.sign("one", "a", VALID), authority.sign("two", "b", VALID));
    let file = |name: &str, text: &str| {
        let path = authority.dir.path().join(name);
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        path
    };
    let (empty, text) = (file("empty.pem", ""), file("text.pem", "S3cretText"));
    let broken = file("broken.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
    let locked =
        file("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let (ca, certificate, key) = ("WEBHOOK_CA_FILE", "WEBHOOK_CLIENT_CERT_FILE", "WEBHOOK_CLIENT_KEY_FILE");
    let missing = Path::new("/nowhere/ca.pem");
    let cases: &[Case<'_>] = &[
        (&[(ca, missing)], &[ca, "/nowhere/ca.pem"]),
        (&[(ca, Path::new("/"))], &[ca]),
        (&[(ca, &empty)], &[ca, "empty.pem", "no certificate"]),
        (&[(ca, &text)], &[ca, "text.pem", "no certificate"]),
        (&[(ca, &broken)], &[ca, "broken.pem"]),
        (&[(ca, &one.key)], &[ca, "one.key"]),
        (&[(certificate, &one.certificate)], &["WEBHOOK_CLIENT_KEY", "not set"]),
        (&[(key, &one.key)], &[certificate, "not set"]),
        (&[(certificate, &one.certificate), (key, &two.key)], &["WEBHOOK_CLIENT_KEY", "not the key", "one.pem"]),
        (&[(certificate, &one.certificate), (key, &text)], &["WEBHOOK_CLIENT_KEY", "no private key"]),
        (&[(certificate, &one.certificate), (key, &locked)], &["WEBHOOK_CLIENT_KEY", "encrypted", "openssl pkey"]),
        (&[(certificate, &one.key), (key, &one.key)], &[certificate, "one.key"]),
        (&[("DB_CA_FILE", &text)], &["DB_CA_FILE", "text.pem"]),
        (&[("DB_CLIENT_CERT_FILE", &one.certificate), ("DB_CLIENT_KEY_FILE", &two.key)], &["DB_CLIENT_KEY"]),
    ];
    for (settings, words) in cases {
        let program = program(settings);
        let (run, check) = (program.run(&["run", "--once"]), program.run(&["check"]));
        run.refused(2, words);
        assert_eq!(check.code, 2, "{}", check.out);
        assert!(words.iter().all(|word| check.out.contains(word)), "{words:?}: {}", check.out);
        for text in [run.err, check.out, check.err] {
            assert!(!text.contains("S3cretText") && !text.contains("MII"), "{text}");
        }
    }
}

#[test]
fn a_certificate_that_has_run_out_is_told_and_does_not_stop_the_reading() {
    let authority = Authority::new();
    let old = authority.sign("old", "a", (2019, 2020));
    let program = program(&[("WEBHOOK_CLIENT_CERT_FILE", &old.certificate), ("WEBHOOK_CLIENT_KEY_FILE", &old.key)]);
    let check = program.run(&["check"]);
    assert_eq!(check.code, 3, "{}", check.out);
    assert!(check.out.contains("old.pem: expired on 2020-01-01"), "{}", check.out);
    assert!(check.out.contains("WEBHOOK_CLIENT_CERT_FILE"), "{}", check.out);
    let mut child = program.command(&["run"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut log = String::new();
    for line in std::io::BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
        if line.contains(" starts") {
            let _ = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        }
        log.push_str(&line);
        log.push('\n');
    }
    let _ = child.wait();
    assert!(log.contains("old.pem: expired on 2020-01-01") && log.contains("ended"), "{log}");
    // an authority for a database that nobody verifies
    let check = self::program(&[("DB_CA_FILE", &authority.file())]).run(&["check"]);
    assert!(check.out.contains("set DB_TLS=verify"), "{}", check.out);
}
