//! `callferry explain`, word for word, for ten instructive calls.

use std::fs::File;

use callferry::correlate::batch::calls_with_rows;
use callferry::correlate::{Zone, explain};
use callferry::source::csv;

use crate::captures::rules;
use crate::support::expected::captures_dir;

fn stories(run: &str) -> String {
    let dir = captures_dir().join(run);
    let open = |name: &str| File::open(dir.join(name)).expect("a file of the capture");
    let mut rows = csv::read_cel(open("cel.csv"), "cel").expect("CEL rows").rows;
    rows.append(&mut csv::read_cdr(open("cdr.csv"), "cdr").expect("CDR rows").rows);
    let zone = Zone::Named(chrono_tz::Europe::Prague);
    let (calls, unusable) = calls_with_rows(rows, &rules(), &zone);
    assert!(unusable.is_empty());
    let stories: Vec<String> = calls.iter().map(|c| explain::story(&c.rows, &rules(), &zone, &c.marks)).collect();
    stories.join("\n\n")
}

macro_rules! told {
    ($($name:ident $run:literal),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                insta::assert_snapshot!(stories($run));
            }
        )*
    };
}

told! {
    inbound_answered "05-inbound-answered/run1",
    menu_then_extension "07-inbound-ivr-extension/run1",
    queue_where_one_declines "09d-queue-agent-declines-then-other/run1",
    queue_then_mailbox "11-queue-timeout-voicemail/run1",
    outbound_over_the_second_trunk "16b-outbound-503-failover/run1",
    blind_transfer "17-blind-transfer-refer/run1",
    attended_transfer "19-attended-transfer-refer/run1",
    blonde_transfer_recalled "20b-attended-blonde-recall/run1",
    picked_up "22a-pickup-group/run1",
    parked_until_it_came_back "24-park-timeout/run1",
}
