//! A receiver that does as little as an honest one can: reads each request whole, unpacks it, reads it as JSON, counts each
//! call by its key, answers 200, keeps the connection. One thread a connection.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::IgnoredAny;

/// Largest head of a request.
const HEAD_MAX: usize = 16 << 10;

#[derive(Default)]
struct Seen {
    /// By `<id>/<revision>`: how often, and when first.
    keys: HashMap<Box<str>, (u32, Instant)>,
    last: Option<Instant>,
    sample: Option<(String, Vec<u8>)>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    requests: AtomicU64,
    bytes: AtomicU64,
}

pub struct Receiver {
    shared: Arc<Shared>,
    port: u16,
}

/// What came.
pub struct Received {
    pub calls: usize,
    /// Keys that came more than once.
    pub doubled: usize,
    pub last: Option<Instant>,
}

impl Receiver {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared::default());
        let all = Arc::clone(&shared);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let shared = Arc::clone(&all);
                // a client that goes away ends its thread
                thread::spawn(move || serve(connection, &shared));
            }
        });
        Self { shared, port }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/calls", self.port)
    }

    pub fn received(&self) -> Received {
        let seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Received {
            calls: seen.keys.len(),
            doubled: seen.keys.values().filter(|(times, _)| *times > 1).count(),
            last: seen.last,
        }
    }

    /// How many keys came, without looking at each.
    pub fn count(&self) -> usize {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).keys.len()
    }

    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// When each call came first, by its linkedid.
    pub fn arrivals(&self) -> HashMap<String, Instant> {
        let seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut first: HashMap<String, Instant> = HashMap::with_capacity(seen.keys.len());
        for (key, (_, at)) in &seen.keys {
            let id = key.rsplit_once('/').map_or(&**key, |(id, _)| id);
            let linkedid = id.rsplit_once(':').map_or(id, |(_, linkedid)| linkedid);
            let known = first.entry(linkedid.to_owned()).or_insert(*at);
            *known = (*known).min(*at);
        }
        first
    }

    /// A receiver's own ceiling: the requests it got, sent again over this many connections by clients that do nothing else.
    /// Returns calls a second; `None`: it got none.
    pub fn ceiling(&self, connections: usize, length: Duration) -> Option<f64> {
        let sample = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).sample.clone();
        let (head, body) = sample?;
        let calls = read_keys(&head, &body).len().max(1);
        let empty = Self::start();
        let request = [head.as_bytes(), &body].concat();
        let began = Instant::now();
        let sent: usize = thread::scope(|scope| {
            let clients: Vec<_> =
                (0..connections).map(|_| scope.spawn(|| repeat(empty.port, &request, began + length))).collect();
            clients.into_iter().map(|c| c.join().unwrap_or_default()).sum()
        });
        Some((sent * calls) as f64 / began.elapsed().as_secs_f64())
    }
}

fn repeat(port: u16, request: &[u8], until: Instant) -> usize {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).expect("the receiver listens");
    let _ = connection.set_nodelay(true);
    let mut answer = [0; 512];
    let mut sent = 0;
    while Instant::now() < until {
        connection.write_all(request).expect("the receiver reads");
        // its answers are shorter than one packet
        if connection.read(&mut answer).expect("the receiver answers") == 0 {
            break;
        }
        sent += 1;
    }
    sent
}

fn serve(mut connection: TcpStream, shared: &Shared) -> Option<()> {
    let _ = connection.set_nodelay(true);
    let mut buffer: Vec<u8> = Vec::with_capacity(64 << 10);
    let mut chunk = vec![0; 256 << 10];
    loop {
        let head_end = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            let read = connection.read(&mut chunk).ok().filter(|n| *n > 0 && buffer.len() < HEAD_MAX)?;
            buffer.extend_from_slice(chunk.get(..read)?);
        };
        let head = String::from_utf8_lossy(buffer.get(..head_end)?).into_owned();
        let length: usize = header(&head, "content-length")?.parse().ok()?;
        while buffer.len() < head_end + length {
            let read = connection.read(&mut chunk).ok().filter(|n| *n > 0)?;
            buffer.extend_from_slice(chunk.get(..read)?);
        }
        let keys = read_keys(&head, buffer.get(head_end..head_end + length)?);
        take(shared, &head, buffer.get(head_end..head_end + length)?, keys);
        connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").ok()?;
        buffer.drain(..head_end + length);
    }
}

fn take(shared: &Shared, head: &str, body: &[u8], keys: Vec<String>) {
    let now = Instant::now();
    shared.requests.fetch_add(1, Ordering::Relaxed);
    shared.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
    let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.sample.is_none() {
        seen.sample = Some((head.to_owned(), body.to_vec()));
    }
    for key in keys {
        seen.keys.entry(key.into()).or_insert((0, now)).0 += 1;
    }
    seen.last = Some(now);
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The fields of a document that make its key.
#[derive(Deserialize)]
struct Document {
    id: String,
    revision: i64,
}

/// The keys of the calls of a request: of the documents of an array, else the request's own.
fn read_keys(head: &str, body: &[u8]) -> Vec<String> {
    let unpacked;
    let mut body = body;
    if header(head, "content-encoding") == Some("gzip") {
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(body).read_to_end(&mut text).expect("a gzip body");
        unpacked = text;
        body = &unpacked;
    }
    if body.first() == Some(&b'[') {
        let documents: Vec<Document> = serde_json::from_slice(body).expect("an array of calls");
        let key = |d: Document| format!("{}/{}", d.id, d.revision);
        return documents.into_iter().map(key).collect();
    }
    let _: IgnoredAny = serde_json::from_slice(body).expect("a call");
    vec![header(head, "idempotency-key").expect("a key").to_owned()]
}
