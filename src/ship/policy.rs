//! What an answer means and when to try again: pure functions, no clock, no randomness of their own.
//! docs/sinks.md shows the same table to users.

use std::time::Duration;

use super::Answer;
use crate::printable::steers;

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    /// Nobody's for long: try again later.
    Transient,
    /// The sink's: nothing else will fare better until somebody mends it. Pause.
    Sink,
    /// The document's, as far as one answer can tell.
    Document,
    /// 403: the document's, unless another call gets it too.
    Forbidden,
    /// The sink is gone for good.
    Gone,
}

/// A `Retry-After` longer than this is not believed.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// How many different calls have to be refused in a row before it is the sink after all.
pub const REFUSED_CALLS_MAX: usize = 5;
/// The same for 403.
pub const FORBIDDEN_CALLS_MAX: usize = 2;

/// A batch that failed this often while others were delivered is cut in halves: one of its members may be the reason.
pub const BATCH_ATTEMPTS_MAX: u32 = 5;

pub fn sort(answer: &Answer) -> Verdict {
    match answer {
        Answer::Accepted => Verdict::Delivered,
        Answer::Unreachable(_) | Answer::Unanswered(_) => Verdict::Transient,
        Answer::Broken(_) => Verdict::Sink,
        Answer::Gone(_) => Verdict::Gone,
        Answer::Http { status, .. } => match status {
            200..=299 => Verdict::Delivered,
            408 | 409 | 425 | 429 => Verdict::Transient,
            300..=399 | 401 | 404 | 405 | 407 | 421 => Verdict::Sink,
            403 => Verdict::Forbidden,
            400..=499 => Verdict::Document,
            // 5xx, and what no standard defines
            _ => Verdict::Transient,
        },
    }
}

/// How long the sink asked to be left alone (429 and 503 only).
pub fn asked_to_wait(answer: &Answer) -> Option<Duration> {
    match answer {
        Answer::Http { status: 429 | 503, retry_after: Some(wait), .. } => Some((*wait).min(RETRY_AFTER_MAX)),
        _ => None,
    }
}

/// Exponential backoff with full jitter: anything between nothing and `base * 2^failures`, at most `cap`. The cap is
/// applied before the jitter, so that capped retries spread out too. `failures` counts from 0.
pub fn backoff(base: Duration, cap: Duration, failures: u32, rng: &mut fastrand::Rng) -> Duration {
    let full = base.saturating_mul(1_u32.checked_shl(failures.min(31)).unwrap_or(u32::MAX)).min(cap);
    full.mul_f64(rng.f64())
}

/// The answer in words, for `last_error`: bounded, control characters taken out.
pub fn describe(answer: &Answer) -> String {
    match answer {
        Answer::Accepted => "accepted".to_owned(),
        Answer::Http { status, excerpt, .. } if excerpt.is_empty() => format!("HTTP {status}"),
        Answer::Http { status, excerpt, .. } => format!("HTTP {status}: {excerpt}"),
        Answer::Unreachable(text) | Answer::Unanswered(text) | Answer::Broken(text) | Answer::Gone(text) => {
            printable(text)
        }
    }
}

/// The answer in words without anything the other side wrote, which may repeat numbers: for the log.
pub fn describe_briefly(answer: &Answer) -> String {
    match answer {
        Answer::Http { status, .. } => {
            let name = reqwest::StatusCode::from_u16(*status).ok().and_then(|s| s.canonical_reason());
            name.map_or_else(|| format!("HTTP {status}"), |name| format!("HTTP {status} {name}"))
        }
        other => describe(other),
    }
}

/// A kept [`describe`] without what the other side wrote: for the log.
pub fn without_excerpt(described: &str) -> &str {
    match described.split_once(": ") {
        Some((status, _)) if status.starts_with("HTTP ") => status,
        _ => described,
    }
}

/// One line: what could move a terminal's cursor or forge a log line becomes a blank.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if steers(c) { ' ' } else { c }).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_gets_no_word_of_the_answer() {
        let refused = Answer::Http { status: 503, retry_after: None, excerpt: "+420777123456: busy: x".to_owned() };
        assert_eq!(describe(&refused), "HTTP 503: +420777123456: busy: x");
        assert_eq!(without_excerpt(&describe(&refused)), "HTTP 503");
        for whole in ["HTTP 503", "connection refused: no route", ""] {
            assert_eq!(without_excerpt(whole), whole);
        }
    }

    fn http(status: u16) -> Answer {
        Answer::Http { status, retry_after: Some(Duration::from_secs(7_200)), excerpt: String::new() }
    }

    #[test]
    fn every_status_has_its_place() {
        let expected = |status: u16| match status {
            200..=299 => Verdict::Delivered,
            408 | 409 | 425 | 429 | 500..=599 => Verdict::Transient,
            300..=399 | 401 | 404 | 405 | 407 | 421 => Verdict::Sink,
            403 => Verdict::Forbidden,
            _ => Verdict::Document,
        };
        for status in 200..=599 {
            assert_eq!(sort(&http(status)), expected(status), "{status}");
        }
        assert_eq!(sort(&http(999)), Verdict::Transient);
        assert_eq!(sort(&Answer::Unanswered(String::new())), Verdict::Transient);
        assert_eq!(sort(&Answer::Broken(String::new())), Verdict::Sink);
    }

    #[test]
    fn retry_after_counts_on_429_and_503_up_to_an_hour() {
        assert_eq!(asked_to_wait(&http(429)), Some(RETRY_AFTER_MAX));
        assert_eq!(asked_to_wait(&http(503)), Some(RETRY_AFTER_MAX));
        assert_eq!(asked_to_wait(&http(500)), None);
    }

    #[test]
    fn backoff_doubles_up_to_its_cap_and_spreads_over_all_of_it() {
        let (base, cap) = (Duration::from_secs(1), Duration::from_secs(600));
        let mut rng = fastrand::Rng::with_seed(1);
        for failures in 0..200 {
            let most = Duration::from_secs(1 << failures.min(20)).min(cap);
            let waits: Vec<Duration> = (0..200).map(|_| backoff(base, cap, failures, &mut rng)).collect();
            assert!(waits.iter().all(|w| *w <= most));
            assert!(waits.iter().any(|w| *w < most / 10) && waits.iter().any(|w| *w > most * 9 / 10));
        }
    }

    #[test]
    fn what_the_other_side_wrote_cannot_forge_a_line() {
        let answer = Answer::Unanswered("a\r\n\u{1b}[31mERROR".to_owned());
        assert_eq!(describe(&answer), "a   [31mERROR");
    }
}
