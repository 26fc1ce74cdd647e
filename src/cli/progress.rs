//! How far something is: a bar where somebody looks, else a line now and then.

use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two lines where nobody looks.
const LINES: Duration = Duration::from_secs(10);

pub struct Bar {
    bar: ProgressBar,
    terminal: bool,
    lines: bool,
    begun: Instant,
    /// Where this run began: of 1,000.
    first: Cell<Option<u32>>,
    said: RefCell<(Instant, String)>,
}

/// `lines`: without a terminal, say now and then how far it is, on standard error.
pub fn bar(lines: bool) -> Bar {
    let terminal = stderr().is_terminal();
    let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:30.cyan} {percent:>3} %  {msg}");
    let bar = ProgressBar::with_draw_target(Some(1_000), target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let begun = Instant::now();
    Bar { bar, terminal, lines, begun, first: Cell::new(None), said: RefCell::new((begun, String::new())) }
}

impl Bar {
    /// It has come so far, of 1,000.
    pub fn at(&self, permille: u32, message: &str) {
        let first = self.first.get().unwrap_or_else(|| {
            self.first.set(Some(permille));
            permille
        });
        let left = left(self.begun.elapsed(), permille.saturating_sub(first), 1_000_u32.saturating_sub(permille));
        let message = left.map_or_else(|| message.to_owned(), |left| format!("{message}, {left} left"));
        self.bar.set_position(u64::from(permille));
        if !self.terminal && self.lines {
            let mut said = self.said.borrow_mut();
            if said.0.elapsed() >= LINES && said.1 != message {
                eprintln!("{:>3} %  {message}", permille / 10);
                *said = (Instant::now(), message.clone());
            }
        }
        self.bar.set_message(message);
    }

    /// Writes something else meanwhile.
    pub fn suspend(&self, f: impl FnOnce()) {
        self.bar.suspend(f);
    }

    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// How long the rest takes when it goes on like this; nothing while that is a guess.
fn left(elapsed: Duration, done: u32, rest: u32) -> Option<String> {
    if elapsed < Duration::from_secs(2) || done == 0 {
        return None;
    }
    let seconds = (elapsed.as_secs_f64() * f64::from(rest) / f64::from(done)).round() as u64;
    Some(match seconds {
        0..60 => format!("{seconds} s"),
        60..5_400 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{:.1} h", seconds as f64 / 3_600.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_time_taken() {
        let secs = Duration::from_secs;
        assert_eq!(left(secs(1), 500, 500), None);
        assert_eq!(left(secs(10), 0, 1_000), None);
        assert_eq!(left(secs(10), 500, 500).as_deref(), Some("10 s"));
        assert_eq!(left(secs(100), 100, 900).as_deref(), Some("15 min"));
        assert_eq!(left(secs(3_600), 100, 900).as_deref(), Some("9.0 h"));
    }
}
