//! A receiver that misbehaves below HTTP and in it, on real sockets.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Closed before a byte was read.
    ClosedAtOnce,
    /// Reset in the middle of the request's body.
    ResetInRequest,
    /// Reset instead of an answer.
    ResetAfterRequest,
    /// Half a status line.
    TornStatusLine,
    /// 503 whose body is shorter than promised.
    TruncatedError,
    /// Not HTTP.
    Garbage,
    /// Headers without end.
    EndlessHeaders,
    /// 500 with a body without end.
    EndlessBody,
    /// 500 with a gzip bomb.
    GzipBomb,
    /// 502 and a page.
    HtmlPage,
    /// No answer at all.
    Stall,
    /// Half the answer's head, then nothing.
    StallInHead,
    /// 503 whose body never comes.
    StallInBody,
    /// 200, after the timeout.
    LateOk,
    /// The end of the connection, in order, instead of an answer.
    ClosedAfterRequest,
    /// An interim answer, and no other.
    OnlyInformational,
    /// 503 in chunks that are none.
    BadChunks,
    /// One header of 2 MB.
    HugeHeader,
    /// 200 and a page.
    HtmlOk,
    /// Interim answers, then 200.
    InformationalOk,
    /// 200 whose end is that of the connection.
    ClosedAfterOk,
    /// 200, and behind it an answer to a question nobody asked.
    StrayAnswer,
}

/// After each of these a sender cannot know that the call was taken, and has to try again.
pub const REFUSING: &[Fault] = &[
    Fault::ClosedAtOnce,
    Fault::ResetInRequest,
    Fault::ResetAfterRequest,
    Fault::TornStatusLine,
    Fault::TruncatedError,
    Fault::Garbage,
    Fault::EndlessHeaders,
    Fault::EndlessBody,
    Fault::GzipBomb,
    Fault::HtmlPage,
    Fault::Stall,
    Fault::StallInHead,
    Fault::StallInBody,
    Fault::LateOk,
    Fault::ClosedAfterRequest,
    Fault::OnlyInformational,
    Fault::BadChunks,
    Fault::HugeHeader,
];

/// An odd way to say that the call was taken.
pub const ACCEPTING: &[Fault] = &[Fault::HtmlOk, Fault::InformationalOk, Fault::ClosedAfterOk, Fault::StrayAnswer];

/// 32 MB in 32 kB.
static BOMB: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for _ in 0..32 {
        bomb.write_all(&vec![b'A'; 1 << 20]).expect("gzip");
    }
    bomb.finish().expect("gzip")
});

/// What a sender has to have for its timeout here.
pub const TIMEOUT: Duration = Duration::from_secs(1);

/// A request that was read whole.
#[derive(Clone, Debug)]
pub struct Request {
    /// In lower case.
    pub head: String,
    pub body: Vec<u8>,
    /// How it was answered; `None`: 200.
    pub fault: Option<Fault>,
}

impl Request {
    pub fn key(&self) -> &str {
        self.head.lines().find_map(|l| l.strip_prefix("idempotency-key: ")).unwrap_or_default()
    }
}

/// Which fault answers the n-th turn, from 0.
type Plan = dyn Fn(usize) -> Option<Fault> + Send + Sync;

/// A receiver on a real socket that misbehaves as planned, and otherwise answers 200.
#[derive(Clone)]
pub struct FaultReceiver {
    pub url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    turn: Arc<AtomicUsize>,
    plan: Arc<Plan>,
}

impl FaultReceiver {
    /// Lives as long as the test's runtime.
    pub async fn start(plan: impl Fn(usize) -> Option<Fault> + Send + Sync + 'static) -> Self {
        LazyLock::force(&BOMB);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let url = format!("http://{}/calls", listener.local_addr().expect("address"));
        let receiver = Self { url, requests: Arc::default(), turn: Arc::default(), plan: Arc::new(plan) };
        let serving = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move { serving.serve(stream).await });
            }
        });
        receiver
    }

    /// Misbehaves at the first request only.
    pub async fn first(fault: Fault) -> Self {
        Self::start(move |turn| (turn == 0).then_some(fault)).await
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("requests").clone()
    }

    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        loop {
            // a connection that is only kept open takes no turn
            stream.peek(&mut [0]).await.ok().filter(|n| *n > 0)?;
            let fault = (self.plan)(self.turn.fetch_add(1, Ordering::SeqCst));
            match fault {
                Some(Fault::ClosedAtOnce) => return None,
                Some(Fault::ResetInRequest) => {
                    stream.read_exact(&mut [0; 300]).await.ok()?;
                    stream.set_zero_linger().ok()?;
                    return None;
                }
                _ => {}
            }
            let (head, body) = read_request(&mut stream).await?;
            self.requests.lock().expect("requests").push(Request { head, body, fault });
            if let Some(fault) = fault {
                return misbehave(stream, fault).await;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.ok()?;
        }
    }
}

async fn misbehave(mut stream: TcpStream, fault: Fault) -> Option<()> {
    let error = "HTTP/1.1 503 Busy\r\ncontent-length: 1000\r\n\r\nwait";
    match fault {
        Fault::ClosedAtOnce | Fault::ResetInRequest | Fault::ClosedAfterRequest => {}
        Fault::ResetAfterRequest => stream.set_zero_linger().ok()?,
        Fault::TornStatusLine => stream.write_all(b"HTTP/1.1 20").await.ok()?,
        Fault::TruncatedError => stream.write_all(error.as_bytes()).await.ok()?,
        Fault::Garbage => stream.write_all(b"220 mail.example.com ESMTP\r\n\r\n").await.ok()?,
        Fault::EndlessHeaders => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await.ok()?;
            loop {
                stream.write_all(b"x-more: and more and more and more\r\n").await.ok()?;
            }
        }
        Fault::EndlessBody => {
            stream.write_all(b"HTTP/1.1 500 Oops\r\n\r\n").await.ok()?;
            loop {
                stream.write_all(&[b'A'; 65_536]).await.ok()?;
            }
        }
        Fault::GzipBomb => {
            let head = format!("HTTP/1.1 500 Oops\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", BOMB.len());
            stream.write_all(head.as_bytes()).await.ok()?;
            stream.write_all(&BOMB).await.ok()?;
        }
        Fault::HtmlPage => {
            let page = "<html>\u{1b}[31m bad gateway </html>";
            let head = format!(
                "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n",
                page.len()
            );
            stream.write_all(format!("{head}{page}").as_bytes()).await.ok()?;
        }
        Fault::Stall => tokio::time::sleep(TIMEOUT * 10).await,
        Fault::StallInHead => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").await.ok()?;
            tokio::time::sleep(TIMEOUT * 10).await;
        }
        Fault::StallInBody => {
            stream.write_all(error.as_bytes()).await.ok()?;
            tokio::time::sleep(TIMEOUT * 10).await;
        }
        Fault::LateOk => {
            tokio::time::sleep(TIMEOUT * 2).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.ok()?;
        }
        Fault::OnlyInformational => stream.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await.ok()?,
        Fault::BadChunks => {
            let head = "HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(format!("{head}zz\r\nwait\r\n").as_bytes()).await.ok()?;
        }
        Fault::HugeHeader => {
            let value = "A".repeat(2 << 20);
            stream.write_all(format!("HTTP/1.1 200 OK\r\nx-more: {value}\r\n\r\n").as_bytes()).await.ok()?;
        }
        Fault::HtmlOk => {
            let page = "<html>signed in</html>";
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n", page.len());
            stream.write_all(format!("{head}{page}").as_bytes()).await.ok()?;
        }
        Fault::InformationalOk => {
            let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n";
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(format!("{interim}{answer}").as_bytes()).await.ok()?;
        }
        Fault::ClosedAfterOk => stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nuntil the end").await.ok()?,
        Fault::StrayAnswer => {
            let answers = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answers.as_bytes()).await.ok()?;
            // the connection stays open: whoever asks next must not take this for its answer
            tokio::time::sleep(TIMEOUT * 2).await;
        }
    }
    Some(())
}

/// Head and body.
pub async fn read_request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length: usize = head.lines().find_map(|l| l.strip_prefix("content-length: "))?.parse().ok()?;
            while bytes.len() < end + 4 + length {
                stream.read_buf(&mut bytes).await.ok().filter(|n| *n > 0)?;
            }
            return Some((head, bytes.split_off(end + 4)));
        }
        stream.read_buf(&mut bytes).await.ok().filter(|n| *n > 0)?;
    }
}
