//! Dead letters: shown, sent again, dropped, exported, with the agent running and without.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::{Ended, Program};
use crate::running::database;
use crate::ship::support::{Receiver, Request, reply};

const LIMIT: Duration = Duration::from_secs(20);

pub struct Site {
    pub program: Program,
    pub receiver: Receiver,
    agent: Option<Child>,
}

impl Site {
    /// The demo's 21 calls; the receiver refuses those whose number stands in `refused`, the way it refuses a document.
    async fn new(refused: &'static [usize]) -> Self {
        Self::with(refused, "").await
    }

    /// The same, with further settings.
    pub async fn with(refused: &'static [usize], settings: &str) -> Self {
        let receiver = Receiver::accepting().await;
        refuse(&receiver, refused);
        let program = Program::new().env_file(&format!(
            "DB_TYPE=sqlite\nDB_NAME=pbx.db\nDB_TIMEZONE=UTC\nKNOWN_TRUNKS=PJSIP/trunk-*\nSTART_FROM=all\n\
             SINKS=webhook\nWEBHOOK_URL={}\nWEBHOOK_CONCURRENCY=1\nMONITORING_ENABLED=false\n{settings}",
            receiver.url()
        ));
        database(&program.dir().join("pbx.db"));
        Self { program, receiver, agent: None }
    }

    pub fn start(&mut self) {
        let mut command = self.program.command(&["run"]);
        self.agent = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }

    pub fn stop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    pub async fn run(&self, args: &[&str]) -> Ended {
        // the receiver answers on this runtime meanwhile
        let mut command = self.program.command(args);
        let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output().unwrap()).await.unwrap();
        Ended {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    async fn json_lines(&self, args: &[&str]) -> Vec<Value> {
        let ended = self.run(args).await;
        assert_eq!(ended.code, 0, "{}", ended.err);
        ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn failed(&self) -> Vec<String> {
        let calls = self.json_lines(&["calls", "list", "--failed", "--json"]).await;
        let mut ids: Vec<String> = calls.iter().map(|c| c["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    }

    pub async fn wait_for(&self, what: &str, done: impl AsyncFn(&Self) -> bool) {
        let began = Instant::now();
        while !done(self).await {
            assert!(began.elapsed() < LIMIT, "{what} did not come about within {LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn times_seen(&self, id: &str) -> usize {
        self.receiver.seen().iter().filter(|r| r.calls().iter().any(|key| key.starts_with(&format!("{id}/")))).count()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Refuses every n-th call of those it sees first; again and again the same ones.
fn refuse(receiver: &Receiver, refused: &'static [usize]) {
    let known = std::sync::Mutex::new(Vec::<String>::new());
    receiver.answer_with(move |request: &Request, _| {
        let id = request.json()["id"].as_str().unwrap_or_default().to_owned();
        let mut known = known.lock().unwrap();
        let n = known.iter().position(|k| *k == id).unwrap_or_else(|| {
            known.push(id);
            known.len() - 1
        });
        if refused.contains(&n) { reply(422).body("field `from` is\u{1b}[31m wrong") } else { reply(200) }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_sent_again_while_the_agent_runs() {
    let mut site = Site::new(&[3, 9, 15]).await;
    site.start();
    site.wait_for("three dead letters", async |s| {
        s.program.dir().join("data/callferry.db").exists()
            && s.receiver.seen().len() >= 21
            && s.failed().await.len() == 3
    })
    .await;
    let dead = site.failed().await;

    let list = site.run(&["calls", "list", "--failed"]).await;
    assert!(dead.iter().all(|id| list.out.contains(id)) && list.out.contains("dead"), "{}", list.out);
    let shown = site.run(&["calls", "show", &dead[0]]).await;
    assert!(shown.out.contains("422") && !shown.out.contains('\u{1b}'), "{}", shown.out);
    assert!(
        shown.out.lines().any(|l| l.trim_start().starts_with("last error: HTTP 422: field `from`")),
        "{}",
        shown.out
    );
    for out in [&list.out, &shown.out] {
        assert!(out.contains("times on the PBX's clock, UTC\n"), "{out}");
    }
    let of_sink = site.run(&["calls", "list", "--failed", "--sink", "webhok"]).await;
    assert_eq!(of_sink.code, 1);
    assert!(of_sink.err.contains("webhok") && of_sink.err.contains("knows webhook"), "{}", of_sink.err);

    // one of them is known by its linkedid too; a wrong one stops all, and near ones are told
    let linkedid = dead[0].split_once(':').unwrap().1.to_owned();
    let mut wrong = linkedid.clone();
    wrong.push('7');
    let refused = site.run(&["calls", "retry", &linkedid, &wrong]).await;
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("knows no call") && refused.err.contains(&dead[0]), "{}", refused.err);
    assert_eq!(site.failed().await.len(), 3);

    // still refused: dead again, by another attempt
    let before = site.times_seen(&dead[0]);
    let again = site.run(&["calls", "retry", &linkedid]).await;
    assert_eq!((again.code, again.err.as_str()), (0, ""));
    assert!(again.out.contains("1 delivery of 1 call (webhook 1) pending again"), "{}", again.out);
    assert!(again.out.contains("the running agent sends them now"), "{}", again.out);
    site.wait_for("another attempt", async |s| s.times_seen(&dead[0]) > before && s.failed().await.len() == 3).await;

    // mended: all of them within seconds, under the keys they had
    site.receiver.answer_with(|_, _| reply(200));
    let all = site.run(&["calls", "retry", "--all"]).await;
    assert!(all.out.contains("3 deliveries of 3 calls (webhook 3)"), "{} {}", all.out, all.err);
    let began = Instant::now();
    site.wait_for("no dead letters", async |s| s.failed().await.is_empty()).await;
    site.wait_for("nothing waiting", async |s| {
        s.json_lines(&["calls", "list", "--pending", "--json"]).await.is_empty()
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    for id in &dead {
        let keys: Vec<String> =
            site.receiver.seen().iter().filter(|r| r.key().starts_with(id.as_str())).map(Request::key).collect();
        assert!(keys.len() >= 2 && keys.windows(2).all(|k| k[0] == k[1]), "{keys:?}");
    }

    let none = site.run(&["calls", "retry", "--all"]).await;
    assert_eq!((none.code, none.out.trim()), (0, "there are no dead letters"));
    let healthy = site.run(&["calls", "retry", &dead[0]]).await;
    assert_eq!(healthy.code, 1);
    assert!(healthy.err.contains("was given up"), "{}", healthy.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_agent_the_command_does_it_itself_and_the_next_run_sends() {
    let site = Site::new(&[3, 9, 15]).await;
    let once = site.run(&["run", "--once"]).await;
    assert_eq!(once.code, 1, "{}", once.err);
    assert!(once.err.contains("callferry: 3 deliveries given up: `callferry calls list --failed`"), "{}", once.err);
    assert!(once.err.contains("dead=3"), "{}", once.err);
    // the first at once, the others with the end, and nothing of what the receiver wrote
    let told: Vec<&str> = once.err.lines().filter(|l| l.contains("dead letter")).collect();
    assert!(told.len() == 2 && told.iter().all(|l| l.contains("WARN") && l.contains("422 Unprocessable")), "{told:?}");
    assert!(told[0].contains("calls=1") && told[1].contains("calls=2"), "{told:?}");
    assert!(told.iter().all(|l| l.contains("call=\"pbx:") || l.contains("call=pbx:")), "{told:?}");
    assert!(!once.err.contains("is wrong") && !once.err.contains("field"), "{}", once.err);
    let dead = site.failed().await;
    assert_eq!(dead.len(), 3);

    let dropped = site.run(&["calls", "drop", &dead[2], "--sink", "webhook"]).await;
    assert_eq!((dropped.code, dropped.out.trim()), (0, "1 delivery of 1 call (webhook 1) dropped"));
    let shown = site.run(&["calls", "show", &dead[2]]).await;
    assert!(shown.out.contains("dropped"), "{}", shown.out);

    let retried = site.run(&["calls", "retry", "--all"]).await;
    assert!(
        retried.out.contains("2 deliveries of 2 calls") && retried.out.contains("when it starts"),
        "{}",
        retried.out
    );
    site.receiver.answer_with(|_, _| reply(200));
    let before = site.times_seen(&dead[2]);
    assert_eq!(site.run(&["run", "--once"]).await.code, 0, "what was given up before is no failure of this run");
    assert!(site.failed().await.is_empty());
    assert_eq!(site.times_seen(&dead[2]), before, "what was dropped is not sent");

    let all = site.run(&["calls", "drop", "--all"]).await;
    assert_eq!((all.code, all.out.trim()), (0, "there are no dead letters"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_all_has_to_be_meant() {
    let site = Site::new(&[3, 9]).await;
    assert_eq!(site.run(&["run", "--once"]).await.code, 1);
    let unsure = site.run(&["calls", "drop", "--all"]).await;
    assert_eq!(unsure.code, 2);
    assert!(unsure.err.contains("2 deliveries") && unsure.err.contains("--yes"), "{}", unsure.err);
    assert_eq!(site.failed().await.len(), 2);
    assert_eq!(site.run(&["calls", "drop", "--all", "--yes"]).await.code, 0);
    assert!(site.failed().await.is_empty());
    // neither, or both
    assert_eq!(site.run(&["calls", "retry"]).await.code, 2);
    assert_eq!(site.run(&["calls", "retry", "--all", "x"]).await.code, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_exported_whole_or_not_at_all() {
    let site = Site::new(&[3, 9, 15]).await;
    assert_eq!(site.run(&["run", "--once"]).await.code, 1);
    let dead = site.failed().await;
    let dir = site.program.dir().to_owned();

    let lines = site.json_lines(&["calls", "export", "-"]).await;
    let mut ids: Vec<&str> = lines.iter().map(|l| l["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, dead);
    for line in &lines {
        assert_eq!(line["document"]["id"], line["id"]);
        assert_eq!((line["sink"].as_str(), line["attempts"].as_i64()), (Some("webhook"), Some(1)));
        assert!(line["last_error"].as_str().unwrap().contains("422"));
    }

    let written = site.run(&["calls", "export", "letters.ndjson"]).await;
    assert_eq!(written.out.trim(), "3 dead letters written to letters.ndjson");
    let file = dir.join("letters.ndjson");
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 3);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(&file, "precious").unwrap();
    let exists = site.run(&["calls", "export", "letters.ndjson"]).await;
    assert_eq!(exists.code, 1);
    assert!(exists.err.contains("exists") && exists.err.contains("--force"), "{}", exists.err);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    assert_eq!(site.run(&["calls", "export", "letters.ndjson", "--force"]).await.code, 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 3);

    let nowhere = site.run(&["calls", "export", "no/such/dir/letters"]).await;
    assert_eq!(nowhere.code, 1);
    assert!(nowhere.err.contains("cannot write no/such/dir/letters"), "{}", nowhere.err);
    // a device that says the disk is full, and one that must not be replaced
    let full = Command::new("sh")
        .args(["-c", "exec \"$0\" calls export - > /dev/full", env!("CARGO_BIN_EXE_callferry")])
        .current_dir(&dir)
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(full.status.code(), Some(1), "{}", String::from_utf8_lossy(&full.stderr));
    assert!(String::from_utf8_lossy(&full.stderr).contains("cannot write -"));
    std::os::unix::fs::symlink("/dev/null", dir.join("null")).unwrap();
    let device = site.run(&["calls", "export", "null", "--force"]).await;
    assert_eq!(device.code, 1, "{}", device.out);
    assert!(device.err.contains("not a file"), "{}", device.err);
    let left: Vec<_> =
        std::fs::read_dir(&dir).unwrap().filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    assert!(!left.iter().any(|name| name.starts_with(".callferry-")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_told_in_one_line() {
    let site = Site::new(&[]).await;
    for command in [&["calls", "retry", "--all"][..], &["calls", "drop", "--all", "--yes"], &["calls", "export", "-"]] {
        site.run(command).await.refused(1, &["there is no state at data/callferry.db", "STATE_DIR"]);
    }
    assert!(!Path::new(&site.program.dir().join("data")).exists(), "asking makes no state");
    assert_eq!(site.run(&["run", "--once"]).await.code, 0);
    for id in ["%", "pbx:%", "_", "'; DROP TABLE delivery; --", "1795213604.1\n2", "\u{1b}[2J", ""] {
        let ended = site.run(&["calls", "retry", id]).await;
        ended.refused(1, &["knows no call"]);
        assert!(!ended.err.contains('\u{1b}'), "{}", ended.err);
    }
}
