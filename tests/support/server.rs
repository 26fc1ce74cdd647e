//! A database server of the test's own: in a temporary directory, on a Unix socket, killed with the process that started
//! it however that ends.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// The user servers run as where the tests run as root, which PostgreSQL refuses: nobody.
const NOBODY: u32 = 65_534;

pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// Without a server of this kind the test says so loudly, and fails where servers are required.
pub fn missing(what: &str, package: &str) {
    let text = format!("{what} is not installed: tests against it are NOT RUN. Install the package {package}");
    assert!(std::env::var_os("REQUIRE_DATABASES").is_none(), "{text} (REQUIRE_DATABASES is set)");
    eprintln!("\n!!! {text}\n");
}

/// A program in one of the usual places.
pub fn program(name: &str, more: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/libexec"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).chain(more.iter().cloned()).map(|d| d.join(name)).find(|p| p.is_file())
}

/// A directory the server's user owns, short enough for a socket's path. A server lives as long as its process, which
/// cannot clean up after it: directories of processes that are gone are removed here.
pub fn directory(prefix: &str) -> tempfile::TempDir {
    let prefix = format!("callferry-{prefix}-");
    for entry in std::fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(&prefix).and_then(|rest| rest.split('-').next()).map(str::to_owned);
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let prefix = format!("{prefix}{}-", std::process::id());
    let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in("/tmp").expect("a directory under /tmp");
    own(dir.path());
    dir
}

pub fn own(path: &Path) {
    if is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).expect("chown to nobody");
    }
}

/// A port of the loopback address that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A certificate authority and a server's certificate for `localhost`, in `<dir>/tls`: ca.pem, server.pem, server.key.
pub fn certificates(dir: &Path) -> PathBuf {
    let openssl = program("openssl", &[]).expect("openssl (package openssl)");
    let tls = dir.join("tls");
    std::fs::create_dir(&tls).expect("a directory");
    std::fs::write(tls.join("san"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n").expect("a file");
    for arguments in [
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=Test-CA -keyout ca.key -out ca.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.pem",
    ] {
        let mut command = Command::new(&openssl);
        command.args(arguments.split(' ')).current_dir(&tls);
        run(command);
    }
    for file in ["server.key", "server.pem"] {
        own(&tls.join(file));
    }
    tls
}

/// A command that runs as the server's user, and dies with the thread that starts it.
pub fn command(program: &Path) -> Command {
    let setpriv = super::server::program("setpriv", &[]).expect("setpriv (package util-linux)");
    let mut command = Command::new(setpriv);
    command.arg("--pdeathsig=KILL");
    if is_root() {
        command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()]);
    }
    // its own process group: Ctrl-C at the terminal goes to the tests, whose end is the server's
    command.arg("--").arg(program).stdin(Stdio::null()).env_remove("NOTIFY_SOCKET").process_group(0);
    command
}

/// Runs a command of the preparation to its end.
pub fn run(mut command: Command) {
    let output = command.output().expect("the command starts");
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A running server. The signal that ends it follows the thread that started it, so that thread lives as long.
pub struct Process {
    orders: mpsc::Sender<Order>,
}

enum Order {
    Kill(mpsc::Sender<()>),
    Start(mpsc::Sender<()>),
}

impl Process {
    /// `start` makes the command; called again for each restart.
    pub fn start(start: impl Fn() -> Command + Send + 'static) -> Self {
        let (orders, receiver) = mpsc::channel::<Order>();
        let spawn = move || start().stdout(Stdio::null()).spawn().expect("the server starts");
        thread::Builder::new()
            .name("server".to_owned())
            .spawn(move || {
                let mut child: Option<Child> = Some(spawn());
                while let Ok(order) = receiver.recv() {
                    match order {
                        Order::Kill(done) => {
                            end(&mut child);
                            let _ = done.send(());
                        }
                        Order::Start(done) => {
                            end(&mut child);
                            child = Some(stays_up(&spawn));
                            let _ = done.send(());
                        }
                    }
                }
                end(&mut child);
            })
            .expect("a thread");
        Self { orders }
    }

    /// SIGKILL, and the end of the process.
    pub fn kill(&self) {
        self.order(Order::Kill);
    }

    pub fn restart(&self) {
        self.order(Order::Start);
    }

    fn order(&self, order: impl FnOnce(mpsc::Sender<()>) -> Order) {
        let (done, wait) = mpsc::channel();
        self.orders.send(order(done)).expect("the server's thread lives");
        wait.recv().expect("the server's thread lives");
    }
}

/// Starts a server again, and once more when it ends at once: PostgreSQL refuses to start while a session of the one that was
/// killed still holds the shared memory.
fn stays_up(spawn: impl Fn() -> Child) -> Child {
    for _ in 0..50 {
        let mut child = spawn();
        thread::sleep(Duration::from_millis(200));
        if matches!(child.try_wait(), Ok(None)) {
            return child;
        }
    }
    panic!("the server ends at once, fifty times");
}

/// Ends a server and the processes it made: PostgreSQL's sessions outlive it for a while, and keep its files.
fn end(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        let pid = child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let _ = child.kill();
        let _ = child.wait();
        for pid in children.split_whitespace() {
            let _ = Command::new("kill").args(["-9", pid]).stderr(Stdio::null()).status();
        }
    }
}

/// Waits until `ready` says so.
pub async fn until_ready<F: Future<Output = Result<(), String>>>(what: &str, ready: impl Fn() -> F) {
    let began = Instant::now();
    loop {
        match ready().await {
            Ok(()) => return,
            Err(e) => assert!(began.elapsed() < Duration::from_secs(60), "{what} does not come up: {e}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
