//! Releases of Asterisk, as far as the static files differ between them.

use std::fmt;

use super::error::{Error, Result};
use super::model::quoted;

/// A major release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u8);

impl Version {
    /// The newest one these files were tried with.
    pub const NEWEST: Self = Self(23);
    /// What is taken when nobody says.
    pub const LONG_TERM: Self = Self(22);
    const OLDEST: Self = Self(16);

    /// Of `22`, `22.10.1`, `certified/20.7-cert4` or `Asterisk 18.10.0~dfsg`.
    pub fn parse(text: &str) -> Result<Self> {
        let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
        let major = digits.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).map(Self);
        match major {
            Some(version) if (Self::OLDEST..=Self(99)).contains(&version) => Ok(version),
            _ => Err(Error::input(format!(
                "{} is not a version of Asterisk that is known: {} to {}",
                quoted(text),
                Self::OLDEST,
                Self::NEWEST
            ))),
        }
    }

    /// chan_sip was taken out in 21; before, a packaged one may hold the SIP port that PJSIP needs.
    pub const fn has_chan_sip(self) -> bool {
        self.0 < 21
    }

    /// `method` of a transport takes `tlsv1_2` by name.
    pub const fn names_tls_versions(self) -> bool {
        self.0 >= 18
    }

    pub fn is_newer_than_known(self) -> bool {
        self > Self::NEWEST
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majors_of_what_asterisk_says() {
        for (text, major) in
            [("16", 16), ("22.10.1", 22), ("certified/20.7-cert4", 20), ("Asterisk 18.10.0~dfsg", 18), ("24.0", 24)]
        {
            assert_eq!(Version::parse(text).unwrap(), Version(major), "{text}");
        }
        for bad in ["", "13.38", "x", "GIT-master", "1222", "-1"] {
            assert!(Version::parse(bad).is_err(), "{bad}");
        }
        assert!(Version(24).is_newer_than_known() && !Version(23).is_newer_than_known());
    }
}
