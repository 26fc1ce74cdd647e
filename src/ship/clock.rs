//! Where `now` comes from: the machine, or a simulation.

use std::fmt;
use std::sync::Arc;

use crate::call::Timestamp;

/// Tells the wall clock's time. Cloning shares the clock.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The machine's.
    pub fn system() -> Self {
        Self(Arc::new(|| Timestamp::from_chrono(chrono::Utc::now())))
    }

    /// Starts at `start` and goes with tokio's time, which a test can pause and advance.
    pub fn tokio(start: Timestamp) -> Self {
        let origin = tokio::time::Instant::now();
        Self(Arc::new(move || start.plus_micros(i64::try_from(origin.elapsed().as_micros()).unwrap_or(i64::MAX))))
    }

    /// Any other.
    pub fn from_fn(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({:?})", self.now())
    }
}
