use super::super::ledger::{Absorbed, Settled};
use super::super::outbox::{self, Page};
use super::super::retention::{Sweep, drop_dead, housekeep};
use super::super::{Store, fold};
use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_795_214_890);

fn settled(call: Option<i64>, id: &str, revision: i64) -> Settled {
    let document = Some(format!("{{\"id\":\"pbx:{id}\",\"revision\":{revision}}}"));
    Settled { call, document, ..crate::store::tests::settled(id, revision) }
}

struct Outbox {
    store: Store,
    _dir: tempfile::TempDir,
}

impl Outbox {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self { store: Store::open(dir.path()).expect("open"), _dir: dir }
    }

    fn record(&self, settled: Settled, sinks: &'static [&'static str]) -> i64 {
        self.store.write_blocking(move |c| ledger::record(c, &settled, sinks, NOW)).expect("record")
    }

    /// Ends the deliveries that wait at a sink.
    fn end(&self, sink: &'static str, state: outbox::State) {
        let sql = "UPDATE delivery SET state = ?2, finished_at = ?3 WHERE sink = ?1 AND state = 0";
        self.store
            .write_blocking(move |c| Ok(c.execute(sql, params![sink, state as i64, NOW.micros()])?))
            .expect("ended");
    }

    fn let_go(&self) {
        let step = self.store.write_blocking(|c| {
            drop_dead(c, 100)?;
            // tombstones have no rows, and go by themselves
            housekeep(c, NOW.plus_micros(2 * 86_400_000_000), NOW, 100)?;
            Sweep::default().step(c, NOW.plus_micros(1), NOW, 100)
        });
        step.expect("let go");
        let left: i64 = self
            .store
            .read_blocking(|c| Ok(c.query_row("SELECT count(*) FROM delivery", [], |r| r.get(0))?))
            .expect("count");
        assert_eq!(left, 0, "deliveries are let go");
    }

    fn at(&self, call: i64, sink: &'static str) -> AtSink {
        self.store.read_blocking(move |c| at_sink(c, call, sink)).expect("at the sink")
    }

    fn queue(&self, lacking: Lacking) -> bool {
        self.store.write_blocking(move |c| queue(c, &lacking, NOW)).expect("queue")
    }

    fn due(&self, sink: &'static str) -> Vec<(String, String)> {
        let page = Page { deliveries: 100, bytes: 1 << 20, rows: false };
        let due = self.store.read_blocking(move |c| outbox::due(c, sink, NOW, page)).expect("due");
        due.into_iter().map(|d| (d.key(), d.document)).collect()
    }
}

fn lacking(call: i64, id: &str, revision: i64, content: bool) -> Lacking {
    let content = content.then(|| Content {
        document: format!("{{\"id\":\"pbx:{id}\",\"again\":true}}"),
        raw_rows: None,
        folded: Some(fold::fold([].iter()).expect("fold")),
        rows: 1,
    });
    Lacking { call, id: format!("pbx:{id}"), revision, sinks: vec!["webhook", "file"], content, tombstones: Vec::new() }
}

#[test]
fn who_got_a_call_is_known_when_its_deliveries_are_gone() {
    let state = Outbox::new();
    let call = state.record(settled(None, "1795214890.1", 1), &["webhook", "file"]);
    assert_eq!(state.at(call, "webhook"), AtSink::Pending { last_error: None });
    assert_eq!(state.at(call, "sipstack"), AtSink::NotQueued);
    state.end("webhook", outbox::State::Delivered);
    state.end("file", outbox::State::Dead);
    for gone in [false, true] {
        let file = if gone { AtSink::GivenUp } else { AtSink::Dead { last_error: None } };
        assert_eq!((state.at(call, "webhook"), state.at(call, "file")), (AtSink::Acknowledged, file));
        assert_eq!(state.at(call, "sipstack"), AtSink::NotQueued, "it was never asked");
        state.let_go();
    }
    // built again without a change, and let go again: nothing is asked anew, and nothing forgotten
    state.record(Settled { document: None, ..settled(Some(call), "1795214890.1", 1) }, &["webhook", "file"]);
    state.let_go();
    assert_eq!((state.at(call, "webhook"), state.at(call, "file")), (AtSink::Acknowledged, AtSink::GivenUp));

    // a sink that was left out when the call was revised has what no longer counts
    state.record(settled(Some(call), "1795214890.1", 2), &["file"]);
    assert_eq!(
        (state.at(call, "webhook"), state.at(call, "file")),
        (AtSink::NotQueued, AtSink::Pending { last_error: None })
    );
    state.end("file", outbox::State::Delivered);
    state.let_go();
    assert_eq!((state.at(call, "webhook"), state.at(call, "file")), (AtSink::NotQueued, AtSink::Acknowledged));

    // what an older version let go is not known to have arrived
    let old = "UPDATE ledger SET delivered = NULL, undelivered = '[\"file\"]'";
    state.store.write_blocking(move |c| Ok(c.execute(old, [])?)).expect("as it was");
    assert_eq!((state.at(call, "webhook"), state.at(call, "file")), (AtSink::Unknown, AtSink::GivenUp));
    assert_eq!(state.at(99, "webhook"), AtSink::Unknown);
}

#[test]
fn a_call_goes_again_to_the_sink_that_lacks_it_under_its_key() {
    let state = Outbox::new();
    let call = state.record(settled(None, "1795214890.1", 3), &["webhook", "file"]);
    state.end("webhook", outbox::State::Delivered);
    state.end("file", outbox::State::Dropped);
    assert!(!state.queue(lacking(call, "1795214890.1", 2, true)), "it was revised since");
    // dropped by hand: its document is still there, and goes as it was
    assert!(state.queue(lacking(call, "1795214890.1", 3, true)));
    assert!(!state.queue(lacking(call, "1795214890.1", 3, true)), "it is under way");
    let kept = "{\"id\":\"pbx:1795214890.1\",\"revision\":3}".to_owned();
    assert_eq!(state.due("file"), [("pbx:1795214890.1/3".to_owned(), kept)]);
    assert!(state.due("webhook").is_empty(), "who has it is not asked again");

    state.end("file", outbox::State::Dead);
    state.let_go();
    assert!(!state.queue(lacking(call, "1795214890.1", 3, false)), "there is nothing to send");
    assert!(state.queue(lacking(call, "1795214890.1", 3, true)));
    let again = "{\"id\":\"pbx:1795214890.1\",\"again\":true}".to_owned();
    assert_eq!(state.due("file"), [("pbx:1795214890.1/3".to_owned(), again)]);
    assert_eq!(state.at(call, "webhook"), AtSink::Acknowledged);
    state.end("file", outbox::State::Delivered);
    state.let_go();
    assert_eq!((state.at(call, "webhook"), state.at(call, "file")), (AtSink::Acknowledged, AtSink::Acknowledged));
}

#[test]
fn with_a_call_go_the_tombstones_of_those_it_took_in() {
    let state = Outbox::new();
    let part = state.record(settled(None, "1795214890.1", 1), &["webhook"]);
    let tombstone = "{\"state\":\"merged\"}";
    let absorbed =
        Absorbed { call: part, id: "pbx:1795214890.1".into(), revision: 2, tombstone: Some(tombstone.into()) };
    let supersedes = vec!["pbx:1795214890.1".to_owned()];
    let whole = Settled { supersedes, absorbed: vec![absorbed], ..settled(None, "1795214890.2", 1) };
    let call = state.record(whole, &["webhook"]);
    state.end("webhook", outbox::State::Dropped);
    state.let_go();
    let tombstones = vec![(part, "pbx:1795214890.1".to_owned(), 2, tombstone.to_owned())];
    assert!(state.queue(Lacking { tombstones, ..lacking(call, "1795214890.2", 1, true) }));
    let keys = |state: &Outbox| state.due("webhook").into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys(&state), ["pbx:1795214890.2/1"], "the survivor goes first");
    let sql = "UPDATE delivery SET state = 1 WHERE call = ?1";
    state.store.write_blocking(move |c| Ok(c.execute(sql, [call])?)).expect("delivered");
    assert_eq!(keys(&state), ["pbx:1795214890.1/2"]);
}
