//! Regular expressions as Asterisk dialplan patterns.
//!
//! A strip rule (`^(\+39|0039)`: what to take off the front of a dialled number) becomes rows of the realtime
//! `extensions` table. Realtime tries an exact exten first and then patterns, **longest text first**; a pattern's text
//! can be lengthened with `-`, which matches nothing, and that is how an earlier alternative wins over a later one.
//! Pure: no I/O.

mod pattern;
mod regex;
mod translate;

pub use pattern::{Row, lookup, matches, strip};
pub use regex::{MAX_REGEX_LEN, RegexError};
pub use translate::{Rule, TranslateError, Unmatched, translate, translate_rules};

/// What a dialled number may be made of; everything else is filtered before it reaches `Dial`.
pub const ALPHABET: &str = "0123456789+*#";
