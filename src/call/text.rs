//! Text of columns that hardly any row fills.

use std::ops::Deref;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

/// Text that is nearly always empty. Rows are held by the thousand, and as many as fit into a core's own cache are read
/// much faster: what is not there takes eight bytes here, and 24 as a [`CompactString`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RareText(Option<Box<CompactString>>);

impl From<&str> for RareText {
    fn from(text: &str) -> Self {
        // empty text is always none: equality and order are those of the text
        Self((!text.is_empty()).then(|| Box::new(text.into())))
    }
}

impl Deref for RareText {
    type Target = str;

    fn deref(&self) -> &str {
        self.0.as_deref().map_or("", CompactString::as_str)
    }
}

impl Serialize for RareText {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self)
    }
}

impl<'de> Deserialize<'de> for RareText {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        CompactString::deserialize(d).map(|text| Self((!text.is_empty()).then(|| Box::new(text))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equality_and_order_are_those_of_the_text() {
        let texts = ["", "a", "b", "a much longer text than fits in place"];
        for (a, b) in texts.iter().flat_map(|a| texts.iter().map(move |b| (*a, *b))) {
            assert_eq!(RareText::from(a).cmp(&RareText::from(b)), a.cmp(b), "{a:?} {b:?}");
            assert_eq!(RareText::from(a) == RareText::from(b), a == b, "{a:?} {b:?}");
        }
        assert_eq!(serde_json::from_str::<RareText>("\"\"").expect("empty"), RareText::default());
        assert_eq!(serde_json::to_string(&RareText::from("é\"")).expect("JSON"), "\"é\\\"\"");
        assert_eq!(&*serde_json::from_str::<RareText>("\"é\\\"\"").expect("text"), "é\"");
    }
}
