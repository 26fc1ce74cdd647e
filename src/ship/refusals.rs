//! What the log tells of calls that were given up: the first at once, then one line a minute with their number, so that a
//! receiver that refuses everything fills no disk.

use std::time::Duration;

use tokio::time::Instant;

/// Between two lines.
const PAUSE: Duration = Duration::from_secs(60);

/// Those that were not told yet.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    told: Option<Instant>,
    untold: u64,
    /// The last of them: its call, and why.
    last: Option<(String, String)>,
}

impl Refusals {
    /// `key`: that of the delivery. `answer`: why, in words that hold nothing the other side wrote.
    pub(super) fn note(&mut self, key: &str, answer: String) {
        let call = key.rsplit_once('/').map_or(key, |(id, _)| id);
        self.untold += 1;
        self.last = Some((call.to_owned(), answer));
    }

    /// Tells what is due. `all`: nothing is told later.
    pub(super) fn tell(&mut self, sink: &'static str, now: Instant, all: bool) {
        let Some((calls, call, answer)) = self.take(now, all) else { return };
        tracing::warn!(
            sink,
            call = %crate::log::text(&call),
            answer,
            calls,
            "{}: `callferry calls list --failed` shows them",
            if calls == 1 {
                "a call was given up and is a dead letter now"
            } else {
                "calls were given up and are dead letters now, this one the last"
            }
        );
    }

    /// How many there are, with the last one's call and answer.
    fn take(&mut self, now: Instant, all: bool) -> Option<(u64, String, String)> {
        let pausing = self.told.is_some_and(|told| now.duration_since(told) < PAUSE);
        if pausing && !all {
            return None;
        }
        let (call, answer) = self.last.take()?;
        self.told = Some(now);
        Some((std::mem::take(&mut self.untold), call, answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "HTTP 422 Unprocessable Entity";

    fn refuse(refusals: &mut Refusals, n: i64) {
        refusals.note(&format!("pbx:1795213604.{n}/1"), ANSWER.to_owned());
    }

    #[test]
    fn the_first_is_told_at_once_and_then_a_line_a_minute() {
        let mut refusals = Refusals::default();
        let start = Instant::now();
        assert_eq!(refusals.take(start, false), None);
        refuse(&mut refusals, 1);
        let answer = ANSWER.to_owned();
        assert_eq!(refusals.take(start, false), Some((1, "pbx:1795213604.1".to_owned(), answer.clone())));
        for n in 2..=100 {
            refuse(&mut refusals, n);
            assert_eq!(refusals.take(start + Duration::from_secs(59), false), None);
        }
        let minute = start + Duration::from_secs(60);
        assert_eq!(refusals.take(minute, false), Some((99, "pbx:1795213604.100".to_owned(), answer.clone())));
        refuse(&mut refusals, 101);
        assert_eq!(refusals.take(minute, false), None);
        // the end waits for no minute
        assert_eq!(refusals.take(minute, true), Some((1, "pbx:1795213604.101".to_owned(), answer)));
        assert_eq!(refusals.take(minute, true), None);
    }
}
