//! What `callferry check` reports: sources, sinks and the state each contribute findings in these terms.

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Ok,
    /// Works, but an admin should know.
    Warning,
    /// A run would fail or lose something. `check` ends with exit code 3.
    Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// What was looked at: `database`, `table cel`, `sink webhook`, `state` …
    pub topic: String,
    /// What was found.
    pub text: String,
    /// What to do about it: the setting to change, the statement to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    pub fn ok(topic: impl Into<String>, text: impl Into<String>) -> Self {
        Self { level: Level::Ok, topic: topic.into(), text: text.into(), remedy: None }
    }

    pub fn warning(topic: impl Into<String>, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Warning, topic: topic.into(), text: text.into(), remedy: Some(remedy.into()) }
    }

    /// A problem whose text says what to do about it.
    pub fn told(topic: impl Into<String>, text: impl Into<String>) -> Self {
        Self { level: Level::Problem, topic: topic.into(), text: text.into(), remedy: None }
    }

    pub fn problem(topic: impl Into<String>, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Problem, topic: topic.into(), text: text.into(), remedy: Some(remedy.into()) }
    }
}
