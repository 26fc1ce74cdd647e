//! Every metric, declared once. Named `callferry_<what>_<unit>[_total]`; served by `observe`.

use std::sync::LazyLock;

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// The registry `/metrics` prints.
pub static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::new);

fn counter(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let metric = IntCounterVec::new(Opts::new(name, help), labels).expect("a metric's name is a constant");
    REGISTRY.register(Box::new(metric.clone())).expect("each metric is declared once");
    metric
}

fn gauge(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    let metric = IntGaugeVec::new(Opts::new(name, help), labels).expect("a metric's name is a constant");
    REGISTRY.register(Box::new(metric.clone())).expect("each metric is declared once");
    metric
}

fn histogram(name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
    let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    let metric = HistogramVec::new(opts, labels).expect("a metric's name is a constant");
    REGISTRY.register(Box::new(metric.clone())).expect("each metric is declared once");
    metric
}

fn total(name: &str, help: &str) -> IntCounter {
    let metric = IntCounter::new(name, help).expect("a metric's name is a constant");
    REGISTRY.register(Box::new(metric.clone())).expect("each metric is declared once");
    metric
}

fn level(name: &str, help: &str) -> IntGauge {
    let metric = IntGauge::new(name, help).expect("a metric's name is a constant");
    REGISTRY.register(Box::new(metric.clone())).expect("each metric is declared once");
    metric
}

/// Rows committed to the journal.
pub static ROWS_READ: LazyLock<IntCounterVec> =
    LazyLock::new(|| counter("callferry_rows_read_total", "Rows read from the PBX and stored", &["table"]));

/// 1 while the PBX database answers.
pub static SOURCE_UP: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("callferry_source_up", "1 while the source can be read", &["kind"]));

/// Attempts to deliver a call, by what came of them: delivered, retry, dead, released (the sink's fault), split.
pub static DELIVERIES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter("callferry_deliveries_total", "Attempts to deliver a call, by result", &["sink", "result"])
});

/// One request (or one write), which may carry a batch.
pub static DELIVERY_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    histogram(
        "callferry_delivery_duration_seconds",
        "Time a sink took to answer a request",
        &["sink"],
        &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0],
    )
});

/// Deliveries waiting or in flight.
pub static PENDING: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("callferry_deliveries_pending", "Deliveries not yet answered", &["sink"]));

/// Age of the oldest of them.
pub static PENDING_AGE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge("callferry_oldest_pending_age_seconds", "Age of the oldest delivery not yet answered", &["sink"])
});

/// Dead letters kept.
pub static DEAD: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("callferry_deliveries_dead", "Deliveries given up and kept", &["sink"]));

/// 1 while a sink takes calls; 0 while it is paused or behind an open breaker.
pub static SINK_UP: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("callferry_sink_up", "1 while the sink takes calls", &["sink"]));

/// 1 while a sink is paused because it turns every call away.
pub static SINK_PAUSED: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("callferry_sink_paused", "1 while the sink is paused until somebody mends it", &["sink"]));
/// Rows that only the audit found: every faster lane had missed them.
pub static ROWS_BY_AUDIT: LazyLock<IntCounterVec> =
    LazyLock::new(|| counter("callferry_rows_by_audit_total", "Rows found by the audit only", &["table"]));

/// Rows that could not be read and were put aside.
pub static ROWS_QUARANTINED: LazyLock<IntCounterVec> =
    LazyLock::new(|| counter("callferry_rows_quarantined_total", "Rows that could not be read", &["table"]));

/// Row ids that never appeared within the time a gap is watched.
pub static GAPS_GIVEN_UP: LazyLock<IntCounter> =
    LazyLock::new(|| total("callferry_gaps_given_up_total", "Row ids that never appeared"));

/// Late rows given up: of a frozen call, or of one whose other rows are gone everywhere.
pub static ROWS_DROPPED: LazyLock<IntCounter> = LazyLock::new(|| {
    total("callferry_rows_dropped_total", "Late rows given up: of a frozen call, or of one whose other rows are gone")
});

/// Calls that could not be built or recorded, by a fault of callferry's.
pub static CALLS_UNBUILT: LazyLock<IntCounter> = LazyLock::new(|| {
    total(
        "callferry_calls_unbuilt_total",
        "Calls that could not be built, by a fault of callferry's; their rows are kept",
    )
});

/// Calls put into the outbox for the first time.
pub static CALLS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter("callferry_calls_total", "Calls finished and queued for delivery", &["direction", "outcome"])
});

/// Calls that a filter keeps back, by filter: internal, min_duration, destination, context.
pub static CALLS_SUPPRESSED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter("callferry_calls_suppressed_total", "Calls kept back by a filter, not shipped", &["filter"])
});

/// Calls that a backfill shipped.
pub static BACKFILLED: LazyLock<IntCounter> =
    LazyLock::new(|| total("callferry_backfilled_calls_total", "Calls of the past that a backfill shipped"));

/// Calls put into the outbox again because late rows changed them.
pub static REVISIONS: LazyLock<IntCounter> =
    LazyLock::new(|| total("callferry_revisions_total", "Calls queued again because late rows changed them"));

/// Documents of calls that are up put into the outbox.
pub static UPDATES: LazyLock<IntCounter> =
    LazyLock::new(|| total("callferry_updates_total", "Documents of calls in progress queued for delivery"));

/// Calls that turned out to be part of another one after they were queued.
pub static MERGED: LazyLock<IntCounter> =
    LazyLock::new(|| total("callferry_calls_merged_total", "Calls that turned out to be part of another one"));

/// Groups of rows in the journal whose call has not ended.
pub static CALLS_OPEN: LazyLock<IntGauge> =
    LazyLock::new(|| level("callferry_calls_open", "Calls that have not ended yet"));

/// Rows in the journal.
pub static JOURNAL_ROWS: LazyLock<IntGauge> =
    LazyLock::new(|| level("callferry_journal_rows", "Rows that wait in the journal for their call to end"));

/// Size of the state database with its write-ahead log.
pub static STATE_BYTES: LazyLock<IntGauge> =
    LazyLock::new(|| level("callferry_state_bytes", "Size of the state on disk"));

/// 1 while reading waits: the state is over its budget, or its disk is full.
pub static READING_STOPPED: LazyLock<IntGauge> = LazyLock::new(|| {
    level("callferry_reading_stopped", "1 while nothing is read because the state has no room for it")
});

/// Dead letters removed before their time because the budget left nothing else.
pub static DEAD_DROPPED: LazyLock<IntCounter> = LazyLock::new(|| {
    total("callferry_dead_letters_dropped_total", "Dead letters removed early, to stay within STATE_MAX_SIZE")
});

/// Recording files kept for a call, by what they were matched: id, table, record, number.
pub static RECORDINGS_FOUND: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter("callferry_recordings_found_total", "Recording files kept for a call, new or changed", &["by"])
});

/// Recording files that no call, or more than one, fits.
pub static RECORDINGS_UNMATCHED: LazyLock<IntCounter> =
    LazyLock::new(|| total("callferry_recordings_unmatched_total", "Recording files whose call could not be told"));

/// Recording files that are not known to be complete yet.
pub static RECORDING_FILES_PENDING: LazyLock<IntGauge> =
    LazyLock::new(|| level("callferry_recording_files_pending", "Recording files watched until they are complete"));

/// Attempts to send a recording: delivered, retry, dead, released (the API's fault).
pub static RECORDING_UPLOADS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter("callferry_recording_uploads_total", "Attempts to send a recording, by result", &["result"])
});

/// Recordings waiting to be sent.
pub static RECORDING_UPLOADS_PENDING: LazyLock<IntGauge> =
    LazyLock::new(|| level("callferry_recording_uploads_pending", "Recordings not sent yet"));

/// Recordings given up.
pub static RECORDING_UPLOADS_DEAD: LazyLock<IntGauge> =
    LazyLock::new(|| level("callferry_recording_uploads_dead", "Recordings given up"));

/// Always 1; the label tells the version that runs.
pub static BUILD_INFO: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("callferry_build_info", "Always 1, with the version as label", &["version"]));
