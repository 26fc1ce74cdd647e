//! What the HTTP sinks share: one POST, its answer read within bounds, and the rule for secrets over plain http.
//!
//! TLS is rustls on ring with the system's certificates. Redirects are answers, not followed. Nothing here retries.

use std::error::Error as _;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{AUTHORIZATION, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Identity, Method, Response, Url};
use secrecy::{ExposeSecret, SecretString};

use super::{Answer, USER_AGENT, policy};
use crate::config::{ConfigError, TlsConfig};
use crate::finding::Finding;

/// Kept of an answer that is not 2xx.
const EXCERPT_MAX: usize = 2_048;
/// Read of a 2xx answer so that its connection can serve again; with a larger one the connection is closed.
const DRAIN_MAX: usize = 64 * 1_024;
const DRAIN_TIME: Duration = Duration::from_secs(1);
const EXCERPT_TIME: Duration = Duration::from_secs(5);
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// One endpoint that calls are posted to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    client: Client,
    url: Url,
    /// Without user, password, path and query: for logs and findings.
    shown: String,
    authorization: Option<HeaderValue>,
    /// What an answer might repeat and nobody may keep.
    secrets: Vec<SecretString>,
    timeout: Duration,
}

/// What an endpoint is made of, with the names of the settings for messages.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub url_variable: &'a str,
    pub url: &'a str,
    pub token_variable: &'a str,
    pub token: Option<&'a SecretString>,
    pub timeout: Duration,
    pub allow_http: bool,
    pub tls: &'a TlsConfig,
    /// Requests at the same time.
    pub concurrency: usize,
}

impl Endpoint {
    pub fn new(target: &Target<'_>) -> Result<Self, ConfigError> {
        let url_error = |problem: String| ConfigError::new(target.url_variable, problem);
        let url = Url::parse(target.url).map_err(|e| url_error(format!("is not a URL: {e}")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(url_error("is not an http or https URL with a host".to_owned()));
        }
        let secret = target.token.is_some() || !url.username().is_empty() || url.password().is_some();
        let guarded = secret && url.scheme() == "http" && !target.allow_http;
        if guarded && !is_local_host(url.host_str().unwrap_or_default()) {
            return Err(url_error(format!(
                "would send {} unencrypted to {}. Use https, or set ALLOW_HTTP=true if the way there is safe",
                if target.token.is_some() { target.token_variable } else { "the password inside it" },
                url.host_str().unwrap_or_default(),
            )));
        }
        let authorization = target.token.map(|token| bearer(target.token_variable, token)).transpose()?;
        // rustls asks for its provider once a process; a second time changes nothing
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .timeout(target.timeout)
            .connect_timeout(target.timeout.min(Duration::from_secs(10)))
            .pool_max_idle_per_host(target.concurrency)
            .pool_idle_timeout(Duration::from_secs(30))
            .tcp_nodelay(true);
        if guarded {
            builder = builder.dns_resolver(LocalOnly);
        }
        if let Some(ca) = &target.tls.ca {
            let roots = Certificate::from_pem_bundle(&ca.pem)
                .map_err(|e| ConfigError::new(ca.variable, format!("{}: {}", ca.file.display(), chain(&e))))?;
            builder = builder.tls_certs_only(roots);
        }
        if let Some(client) = &target.tls.client {
            let mut pem = client.certificate.pem.clone();
            pem.push(b'\n');
            pem.extend_from_slice(client.key.expose_secret().as_bytes());
            let of = &client.certificate;
            let identity = Identity::from_pem(&pem)
                .map_err(|_| ConfigError::new(of.variable, format!("{} cannot be used", of.file.display())))?;
            builder = builder.identity(identity);
        }
        let client = builder.build().map_err(|e| url_error(format!("no HTTP client can be made: {}", chain(&e))))?;
        let (shown, secrets) = (shown(&url), secrets(&url, target.token));
        let mut url = url;
        if authorization.is_some() {
            // one kind of credentials in a request: the token's setting is the one made for it
            let _ = url.set_username("").and_then(|()| url.set_password(None));
        }
        Ok(Self { client, url, shown, authorization, secrets, timeout: target.timeout })
    }

    /// The URL without anything secret.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Posts a body and waits for the answer, at most for the endpoint's timeout.
    pub async fn post(&self, headers: HeaderMap, body: Vec<u8>) -> Answer {
        let mut request = self.client.post(self.url.clone()).headers(headers).body(body);
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value.clone());
        }
        match request.send().await {
            Ok(response) => self.read(response).await,
            Err(e) => self.failed(&e),
        }
    }

    /// Posts a form whose parts are read while they are sent. Only 202 means that it was taken.
    pub async fn post_form(&self, headers: HeaderMap, form: reqwest::multipart::Form) -> Answer {
        let mut request = self.client.post(self.url.clone()).headers(headers).multipart(form);
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value.clone());
        }
        match request.send().await {
            Ok(response) => {
                let status = response.status();
                match self.read(response).await {
                    Answer::Accepted if status.as_u16() != 202 => {
                        Answer::Unanswered(format!("{} answered {status}, and only 202 means taken", self.shown))
                    }
                    answer => answer,
                }
            }
            Err(e) => self.failed(&e),
        }
    }

    /// What an answer says, without what it repeats of our credentials.
    async fn read(&self, response: Response) -> Answer {
        match read(response).await {
            Answer::Http { status, retry_after, excerpt } => {
                let known = self.secrets.iter().map(ExposeSecret::expose_secret);
                let excerpt = known.fold(excerpt, |text, secret| text.replace(secret, "…"));
                Answer::Http { status, retry_after, excerpt }
            }
            answer => answer,
        }
    }

    fn failed(&self, e: &reqwest::Error) -> Answer {
        if e.is_connect() {
            Answer::Unreachable(format!("cannot connect to {}: {}", self.shown, chain(e)))
        } else if e.is_timeout() {
            Answer::Unanswered(format!("no answer from {} within {} s", self.shown, self.timeout.as_secs_f64()))
        } else {
            Answer::Unanswered(format!("no answer from {}: {}", self.shown, chain(e)))
        }
    }

    /// Connects and asks with HEAD, which hands over nothing.
    pub async fn check(&self, sink: &str, url_variable: &str, token_variable: &str) -> Vec<Finding> {
        let topic = format!("sink {sink}");
        let mut request = self.client.request(Method::HEAD, self.url.clone()).timeout(self.timeout.min(CHECK_TIMEOUT));
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value.clone());
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(e) => {
                let text = policy::describe(&self.failed(&e));
                let remedy = format!("check {url_variable}, name resolution, firewall and, for https, the certificate");
                return vec![Finding::problem(topic, text, remedy)];
            }
        };
        let status = response.status();
        let answered = format!("{} answers {status} to HEAD", self.shown);
        let no_call = "whether it takes calls shows with the first one: none was sent now";
        vec![match status.as_u16() {
            300..=399 => {
                let to = redirect_text(&self.url, response.headers().get("location").and_then(|l| l.to_str().ok()));
                Finding::problem(
                    topic,
                    format!("{answered}: it redirects{to}, and calls are not sent after a redirect"),
                    format!("set {url_variable} to the final URL"),
                )
            }
            401 | 407 => Finding::warning(
                topic,
                format!("{answered}: it does not accept the credentials, or wants none for POST only"),
                format!("check {token_variable}; {no_call}"),
            ),
            403 => Finding::warning(
                topic,
                format!("{answered}: the credentials are not allowed here, or HEAD is not"),
                format!("check {token_variable} and {url_variable}; {no_call}"),
            ),
            404 => Finding::warning(
                topic,
                format!("{answered}: there is no such path, or it knows POST only"),
                format!("check the path in {url_variable}; {no_call}"),
            ),
            500..=599 => Finding::warning(topic, answered, format!("look at the receiver's log; {no_call}")),
            _ => Finding::ok(topic, format!("{answered}, so it is reachable; {no_call}")),
        }]
    }
}

fn bearer(variable: &str, token: &SecretString) -> Result<HeaderValue, ConfigError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret().trim()))
        .map_err(|_| ConfigError::new(variable, "holds characters that cannot stand in an HTTP header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A key as a header value: everything but visible ASCII percent-encoded (a linkedid may begin with any system name).
pub fn key_header(key: &str) -> HeaderValue {
    let mut text = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("invalid"))
}

async fn read(mut response: Response) -> Answer {
    let status = response.status();
    if status.is_success() {
        // the answer is the status; the rest is read only to keep the connection
        let _ = tokio::time::timeout(DRAIN_TIME, take(&mut response, DRAIN_MAX)).await;
        return Answer::Accepted;
    }
    let retry_after = retry_after(response.headers());
    let body = tokio::time::timeout(EXCERPT_TIME, take(&mut response, EXCERPT_MAX)).await.unwrap_or_default();
    let excerpt = policy::printable(&String::from_utf8_lossy(&body));
    Answer::Http { status: status.as_u16(), retry_after, excerpt }
}

/// At most `most` bytes of the body, unpacked; what comes before an error is kept.
async fn take(response: &mut Response, most: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < most {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk[..chunk.len().min(most - body.len())]),
            Ok(None) | Err(_) => break,
        }
    }
    body
}

/// Seconds, or a date measured against the answer's own `Date`, so that no clock has to agree with another.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(secs) = text.parse::<u64>() {
        return Some(Duration::from_secs(secs));
    }
    let date = |s: &str| chrono::DateTime::parse_from_rfc2822(s).ok();
    let from = headers.get(DATE).and_then(|d| d.to_str().ok()).and_then(date)?;
    (date(text)? - from).to_std().ok()
}

/// Scheme, host and port. Of a path only that there is one: with many receivers it is the password.
fn shown(url: &Url) -> String {
    let path = if url.path().len() > 1 { "…" } else { "" };
    format!("{}/{path}", url.origin().ascii_serialization())
}

/// The longest first, so that a part of one does not hide the rest. Short words would blot out harmless text.
fn secrets(url: &Url, token: Option<&SecretString>) -> Vec<SecretString> {
    const SHORTEST: usize = 6;
    let password = url.password().unwrap_or_default();
    let decoded: String = percent_encoding::percent_decode_str(password).decode_utf8_lossy().into_owned();
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("{}:{decoded}", url.username()));
    let mut secrets = vec![password.to_owned(), decoded, basic, url.path().to_owned()];
    secrets.extend(token.map(|t| t.expose_secret().trim().to_owned()));
    secrets.extend(url.query().map(str::to_owned));
    secrets.extend(url.query_pairs().map(|(_, value)| value.into_owned()));
    secrets.retain(|s| s.len() >= SHORTEST);
    secrets.sort_by_key(|s| std::cmp::Reverse(s.len()));
    secrets.into_iter().map(SecretString::from).collect()
}

/// Where a redirect leads, as far as it can be told.
fn redirect_text(from: &Url, location: Option<&str>) -> String {
    let Some(to) = location.and_then(|l| from.join(l).ok()) else { return String::new() };
    if !matches!(to.scheme(), "http" | "https") {
        format!(" to {}:, which is no way to send calls", policy::printable(to.scheme()))
    } else if to.origin() == from.origin() {
        " to another path of the same host".to_owned()
    } else {
        format!(" to {}", shown(&to))
    }
}

/// The innermost cause that has words: what stands around it are the names of libraries' layers, and the URL.
fn chain(e: &reqwest::Error) -> String {
    let causes = std::iter::successors(e.source(), |&cause| cause.source());
    match causes.map(plain_cause).filter(|words| !words.is_empty()).last() {
        Some(words) => policy::printable(&words),
        None if e.is_body() || e.is_decode() => "broken answer".into(),
        None => "request failed".into(),
    }
}

/// In the words of a person: without the number the system has for it.
fn plain_cause(cause: &(dyn std::error::Error + 'static)) -> String {
    let words = cause.to_string();
    match words.as_str() {
        // tokio's, of a connection that did not come about in time
        "deadline has elapsed" => "no answer in time".to_owned(),
        _ => words.split_once(" (os error ").map_or_else(|| words.clone(), |(before, _)| before.to_owned()),
    }
}

/// Hosts a secret may be sent to over plain http: addresses that are loopback or private, and names that stand for the
/// machine or the local network. Where such a name leads is looked at again when it is resolved.
pub fn is_local_host(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return is_private(ip);
    }
    let name = bare.trim_end_matches('.').to_ascii_lowercase();
    let local_domain = [".localhost", ".local", ".internal", ".lan", ".home.arpa"].iter().any(|d| name.ends_with(d));
    !name.is_empty() && (!name.contains('.') || local_domain)
}

/// Loopback, RFC 1918, link-local, unique local.
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Resolves names as usual and drops every address that is not private: a secret goes out unencrypted.
struct LocalOnly;

impl Resolve for LocalOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let private: Vec<_> = found.into_iter().filter(|a| is_private(a.ip())).collect();
            if private.is_empty() {
                return Err(format!(
                    "{} leads to no private address, and a secret is not sent there unencrypted: use https, or \
                     ALLOW_HTTP=true",
                    name.as_str()
                )
                .into());
            }
            Ok(Box::new(private.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str, token: Option<&str>, allow_http: bool) -> Result<Endpoint, ConfigError> {
        let token = token.map(|t| SecretString::from(t.to_owned()));
        Endpoint::new(&Target {
            url_variable: "WEBHOOK_URL",
            url,
            token_variable: "WEBHOOK_TOKEN",
            token: token.as_ref(),
            timeout: Duration::from_secs(1),
            allow_http,
            tls: &TlsConfig::default(),
            concurrency: 1,
        })
    }

    #[test]
    fn secrets_go_over_plain_http_only_to_the_neighbourhood() {
        for host in [
            "127.0.0.1",
            "10.1.2.3",
            "172.20.0.1",
            "192.168.1.1",
            "[::1]",
            "[fd00::1]",
            "localhost",
            "receiver",
            "a.local",
        ] {
            assert!(endpoint(&format!("http://{host}/x"), Some("t0ken"), false).is_ok(), "{host}");
        }
        for host in
            ["8.8.8.8", "172.32.0.1", "[2001:db8::1]", "example.com", "localhost.example.com", "[::ffff:8.8.8.8]"]
        {
            let url = format!("http://{host}/x");
            let error = endpoint(&url, Some("t0ken"), false).expect_err(host).to_string();
            assert!(
                error.contains("WEBHOOK_TOKEN") && error.contains("ALLOW_HTTP") && !error.contains("t0ken"),
                "{error}"
            );
            assert!(endpoint(&url, Some("t0ken"), true).is_ok());
            assert!(endpoint(&url, None, false).is_ok(), "no secret, no rule");
            assert!(endpoint(&format!("http://user:pass@{host}/"), None, false).is_err());
            assert!(endpoint(&url.replace("http", "https"), Some("t0ken"), false).is_ok());
        }
        for url in ["ftp://localhost/", "localhost:80", "file:///etc/passwd", ""] {
            assert!(endpoint(url, None, true).is_err(), "{url}");
        }
        assert!(endpoint("https://a/", Some("line\nbreak"), false).is_err());
    }

    #[tokio::test]
    async fn a_local_name_that_leads_outside_is_not_connected_to() {
        let resolve = |name: &str| LocalOnly.resolve(name.parse().expect("name"));
        let error = resolve("192.0.2.1").await.err().expect("public").to_string();
        assert!(error.contains("ALLOW_HTTP"), "{error}");
        assert!(resolve("127.0.0.1").await.expect("private").count() > 0);
    }

    #[test]
    fn nothing_secret_is_shown() {
        let endpoint = endpoint("https://user:pa55@example.com/in?key=pa55#x", Some("pa55"), false).expect("endpoint");
        assert_eq!(endpoint.shown(), "https://example.com/…");
        assert!(!format!("{:?}", endpoint.authorization).contains("pa55"));
    }

    #[tokio::test]
    async fn an_endpoint_that_cannot_be_reached_is_told_in_plain_words() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("port").port();
        let closed = endpoint(&format!("http://127.0.0.1:{port}/in"), None, false).expect("endpoint");
        let answer = closed.post(HeaderMap::new(), Vec::new()).await;
        let text = format!("cannot connect to http://127.0.0.1:{port}/…: Connection refused");
        assert_eq!(answer, Answer::Unreachable(text));
        // a name that leads outside is told by the reason it is not used for, however deep that is wrapped
        let endpoint =
            Endpoint { client: Client::builder().no_proxy().dns_resolver(Nowhere).build().expect("c"), ..closed };
        let endpoint = Endpoint { url: Url::parse("http://pbx.lan/in").expect("url"), ..endpoint };
        let answer = endpoint.post(HeaderMap::new(), Vec::new()).await;
        assert!(matches!(&answer, Answer::Unreachable(text) if text.ends_with(": no such name here")), "{answer:?}");
    }

    struct Nowhere;

    impl Resolve for Nowhere {
        fn resolve(&self, _: Name) -> Resolving {
            Box::pin(async { Err("no such name here".into()) })
        }
    }

    #[test]
    fn keys_fit_into_headers() {
        assert_eq!(key_header("pbx:1795213604.12/1"), "pbx:1795213604.12/1");
        assert_eq!(key_header("pbx:büro\n%-1.2/1"), "pbx:b%C3%BCro%0A%25-1.2/1");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("120"));
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(120)));
        headers.insert(RETRY_AFTER, HeaderValue::from_static("Fri, 20 Nov 2026 22:01:00 GMT"));
        assert_eq!(retry_after(&headers), None, "a date means nothing without the sender's clock");
        headers.insert(DATE, HeaderValue::from_static("Fri, 20 Nov 2026 22:00:00 GMT"));
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(60)));
        headers.insert(RETRY_AFTER, HeaderValue::from_static("soon"));
        assert_eq!(retry_after(&headers), None);
    }
}
