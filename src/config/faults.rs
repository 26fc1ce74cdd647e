//! Settings that cannot be used: all of them, so that they can be mended at once.

use super::ConfigError;

/// In the order they were found.
#[derive(Debug, Default)]
pub struct Faults(Vec<ConfigError>);

impl Faults {
    /// The value, where there is one.
    pub fn take<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|fault| self.add(fault)).ok()
    }

    /// What several settings rest on may be found more than once, and what cannot be read is not missing as well.
    pub fn add(&mut self, fault: ConfigError) {
        let told = |f: &ConfigError| {
            let of_file = f.variable.strip_suffix("_FILE") == Some(&fault.variable);
            of_file || (f.variable == fault.variable && f.problem == fault.problem)
        };
        if !self.0.iter().any(told) {
            self.0.push(fault);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_vec(self) -> Vec<ConfigError> {
        self.0
    }
}
