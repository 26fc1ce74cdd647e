//! Calls that filters keep back, and settings that change while calls are known.

use callferry::call::{CelEvent, Row};
use callferry::correlate::numbering::Plan;
use callferry::correlate::{Filters, Numbering, Tenants};
use callferry::store::calls::{self, Filter};

use super::bench::{Bench, EPOCH, MUCH_LATER, call, call_cdr, call_cel, event, ids, placed, setup};

fn filtered(filters: Filters) -> Bench {
    let mut setup = setup();
    setup.frame.rules.filters = filters;
    Bench::with(setup, 1_000)
}

fn states(bench: &Bench) -> Vec<(String, String, i64)> {
    let filter = Filter { limit: 10, ..Filter::default() };
    let known = bench.store.read_blocking(move |c| calls::list(c, &filter)).unwrap();
    let mut known: Vec<_> = known.into_iter().map(|k| (k.id, k.state, k.pending)).collect();
    known.sort();
    known
}

#[test]
fn a_call_that_is_kept_back_is_known_and_not_shipped() {
    let mut bench = filtered(Filters { min_duration_ms: Some(10_000), ..Filters::default() });
    let mut rows = call(1, 0, 5);
    rows.extend(call(2, 100, 30));
    let outcome = bench.read(placed(rows, 1), MUCH_LATER);
    assert_eq!((outcome.shipped, outcome.suppressed), (1, 1));
    let id = |n, start| format!("pbx:{}", ids(n, start).0);
    assert_eq!(states(&bench), [(id(1, 0), "suppressed".to_owned(), 0), (id(2, 100), "shipped".to_owned(), 2)]);
    // its document is there to look at
    assert_eq!(bench.documents().len(), 2);
    assert_eq!(bench.count("SELECT count(*) FROM delivery"), 2);
    bench.assert_settled();
    // its rows again: nothing, also after a restart
    let mut bench = bench.restart();
    let outcome = bench.read(placed([call_cdr(1, 0, 5)], 900), MUCH_LATER);
    assert_eq!((outcome.shipped, outcome.revised, outcome.suppressed), (0, 0, 0));
    assert_eq!(bench.documents().len(), 2);
    // with its rows it goes as others go
    bench.let_go();
    assert_eq!(bench.count("SELECT count(*) FROM document"), 0);
    assert_eq!(bench.count("SELECT count(*) FROM ledger"), 2);
}

#[test]
fn late_rows_can_bring_a_call_through_the_filter_and_never_back() {
    let mut bench = filtered(Filters { min_duration_ms: Some(10_000), ..Filters::default() });
    // a channel that seems to have ended early
    assert_eq!(bench.read(placed(call(1, 0, 5), 1), MUCH_LATER).suppressed, 1);
    let (a, _) = ids(1, 0);
    let late: Vec<Row> =
        [CelEvent::Hangup, CelEvent::ChanEnd].map(|e| event(e, EPOCH + 40, &a, &a, "PJSIP/1001-00000001")).to_vec();
    let outcome = bench.read(placed(late, 500), MUCH_LATER);
    assert_eq!((outcome.shipped, outcome.revised), (1, 0));
    assert_eq!(states(&bench)[0].1, "shipped");
    let documents = bench.documents();
    assert_eq!(documents.iter().map(|d| d.1).collect::<Vec<_>>(), [1], "one document, the one that is shipped");
    assert_eq!(documents[0].2["duration_s"], 40.0);
    bench.assert_settled();

    // one that was shipped stays with its receivers whatever filters say now
    let mut shipped = Bench::new();
    shipped.read(placed(call_cel(1, 0, 5), 1), MUCH_LATER);
    let mut shipped = shipped.restart_with(|rules| rules.filters.internal = true);
    let outcome = shipped.read(placed([call_cdr(1, 0, 5)], 900), MUCH_LATER);
    assert_eq!((outcome.revised, outcome.suppressed), (1, 0), "the late record is a revision");
    assert_eq!(states(&shipped)[0].1, "shipped");
}

#[test]
fn a_changed_setting_revises_nothing() {
    let mut bench = Bench::new();
    bench.read(placed(call_cel(1, 0, 30), 1), MUCH_LATER);
    let before = bench.documents();
    assert_eq!(before[0].2["direction"], "internal");
    let mut bench = bench.restart_with(|rules| {
        rules.tenants = Tenants::of_all(Some("acme"));
        let country = Plan::built_in("420").map(|p| p.0);
        rules.numbering = Numbering { country, ..Numbering::default() };
        rules.trunks = vec!["PJSIP/1001".to_owned()];
    });
    assert_eq!(bench.documents(), before);
    // rows that were read before
    let again = bench.read(placed(call_cel(1, 0, 30)[..2].to_vec(), 1), MUCH_LATER);
    assert_eq!((again.revised, again.unchanged), (0, 1));
    // a row that says nothing new
    let (a, _) = ids(1, 0);
    let odd = event(CelEvent::Other("VENDOR".into()), EPOCH + 5, &a, &a, "PJSIP/1001-00000001");
    let odd = bench.read(placed([odd], 901), MUCH_LATER);
    assert_eq!((odd.revised, odd.unchanged), (0, 1));
    assert_eq!(bench.documents(), before);
    // the next call is told by the new settings, and so after the next start
    for n in [2, 3] {
        bench.read(placed(call(n, 100 * n, 30), 1_000 * n), MUCH_LATER);
        let document = &bench.documents()[n as usize - 1].2;
        assert_eq!(document["tenant"], "acme");
        assert_eq!(document["direction"], "inbound");
        bench = bench.restart();
    }
    // the late record of the first is a revision, told as the first was
    assert_eq!(bench.read(placed([call_cdr(1, 0, 30)], 9_000), MUCH_LATER).revised, 1);
    let (id, revision, last) = bench.documents().pop().unwrap();
    assert_eq!((id, revision), (before[0].0.clone(), 2));
    assert_eq!(last["userfield"], "field 1");
    for field in ["tenant", "direction", "from", "to"] {
        assert_eq!(last[field], before[0].2[field], "{field}");
    }
}
