//! Phone numbers of outside parties hidden from a sink: `NUMBER_PRIVACY` masked or hashed.
//!
//! It happens in one place, [`Private`], which stands in front of a sink and hands it documents and rows that have been
//! gone through string by string; formats are made from those. The state, the content hash and revisions know nothing of
//! it, so a changed setting revises nothing, and bytes that were sent before stay as they were.
//!
//! Whose numbers: everyone's outside the PBX, also where an extension shows one as its own. Extensions, the number that an
//! inbound caller reached and the company's own caller id on outbound calls stay, and short codes (under [`SHORTEST`] digits) do. A string is searched for every
//! spelling of a number the document knows (international, national, with prefixes, with spaces and dashes); any other
//! run of digits too long for an extension is taken for a number as well, dates and Asterisk's ids left out.
//!
//! A hashed number is `num_` and 24 letters, made of HMAC-SHA256 over the E.164 form: the same for the same number in every
//! call, sink and run with the same key. Letters alone, so that no digits can be mistaken for a number.

use std::borrow::Cow;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::ExposeSecret;
use sha2::Sha256;

use super::rows::rewrite_rows;
use super::{Answer, Batch, Frozen, Item, Limits, RenderError, Sink};
use crate::call::{Call, Direction, Party, PartyKind};
use crate::config::{NumberPrivacy, PrivacyWay};
use crate::correlate::numbering::{Numbering, national};
use crate::finding::Finding;

mod json;
mod search;

use search::{Known, Search};

/// Digits of the shortest number that is a person's: fewer are short codes and extensions.
pub const SHORTEST: usize = 6;
/// How hashed numbers begin.
const TOKEN: &str = "num_";

/// How numbers are hidden.
#[derive(Clone)]
pub struct Privacy {
    /// `None`: masked.
    key: Option<Hmac<Sha256>>,
    numbering: Numbering,
    /// Runs of this many digits are numbers, whoever's they are.
    unknown_min: usize,
}

impl std::fmt::Debug for Privacy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.key.is_some() { "Privacy(hashed)" } else { "Privacy(masked)" })
    }
}

/// A number as it was hidden: not to be read as digits.
pub fn is_hidden(text: &str) -> bool {
    text.starts_with(TOKEN) || text.trim_start_matches('+').starts_with("xx")
}

impl Privacy {
    /// `None`: numbers are shown.
    pub fn new(config: &NumberPrivacy) -> Option<Self> {
        let key = match &config.way {
            PrivacyWay::Full => return None,
            PrivacyWay::Masked => None,
            // a key of any length is one
            PrivacyWay::Hashed(key) => Hmac::new_from_slice(key.expose_secret().as_bytes()).ok(),
        };
        let unknown_min = config.extension_max.saturating_add(1).max(8);
        Some(Self { key, numbering: config.numbering.clone(), unknown_min })
    }

    /// A call's document, or a tombstone.
    pub fn document(&self, document: &str) -> Result<String, RenderError> {
        let search = self.search(document);
        json::rewrite(document, |key, text| self.string(&search, key, text))
            .ok_or_else(|| RenderError("call document: not JSON".to_owned()))
    }

    /// A file's name or path, by the numbers of its call.
    pub fn path(&self, document: Option<&str>, path: &str) -> String {
        let search = self.search(document.unwrap_or_default());
        self.hide(&search, path).unwrap_or_else(|| path.to_owned())
    }

    /// An id: Asterisk makes them of a system name and a moment; a dialplan may put anything into the name.
    pub fn id<'t>(&self, id: &'t str) -> Cow<'t, str> {
        let Some((name, moment)) = id.rsplit_once('-').filter(|(name, _)| name.bytes().any(|b| b.is_ascii_digit()))
        else {
            return Cow::Borrowed(id);
        };
        match self.hide(&Search::new(Vec::new(), Vec::new(), Vec::new(), self.unknown_min), name) {
            Some(name) => Cow::Owned(format!("{name}-{moment}")),
            None => Cow::Borrowed(id),
        }
    }

    fn search(&self, document: &str) -> Search {
        let Ok(call) = serde_json::from_str::<Call>(document) else {
            return Search::new(Vec::new(), Vec::new(), Vec::new(), self.unknown_min);
        };
        let (outside, own) = self.numbers(&call);
        let legs = call.content.legs.iter().filter_map(|l| l.uniqueid.clone());
        let ids = call.content.linkedids.iter().cloned().chain(legs);
        // what is left of an id without its system name
        let moments = ids.map(|id| id.rsplit_once('-').map_or(id.clone(), |(_, m)| m.to_owned())).collect();
        Search::new(outside, own, moments, self.unknown_min)
    }

    /// Numbers of outside parties, and those of the company.
    ///
    /// What the party is decides; only where that is not known, the side it stands on does. An outside party's number is
    /// hidden wherever it stands, also where an extension shows it as its own (click to call).
    fn numbers(&self, call: &Call) -> (Vec<Known>, Vec<String>) {
        let c = &call.content;
        let did = c.did.as_deref().map(digits);
        // the number that a caller reached is the company's, whoever is said to have it
        let is_did = |party: &Party| {
            let numbers = [&party.number, &party.e164].into_iter().flatten();
            did.as_deref().is_some_and(|did| numbers.map(|n| digits(n)).any(|n| is_same(&n, did)))
        };
        let mut parties = Parties { own: did.iter().cloned().collect(), ..Parties::default() };
        let mut add = |party: &Party, side_is_inside: bool| match party.kind {
            Some(PartyKind::External) if is_did(party) => parties.inside(party),
            Some(PartyKind::External) => parties.outside(party, true),
            Some(_) => parties.inside(party),
            None if side_is_inside => parties.inside(party),
            None => parties.outside(party, false),
        };
        add(&c.from, c.direction == Direction::Outbound);
        add(&c.to, c.direction == Direction::Inbound);
        let mut copy = c.clone();
        let (from, to) = (c.from.number.as_deref(), c.to.number.as_deref());
        copy.parties_mut(&mut |party| {
            let number = party.number.as_deref();
            // the caller and the called stand again in the journey
            if number.is_some() && (number == from || number == to) && party.kind != Some(PartyKind::External) {
                return;
            }
            add(party, false);
        });
        let Parties { own, outside, mut perhaps } = parties;
        let mut outside: Vec<(String, String)> = outside
            .into_iter()
            .map(|(number, e164)| {
                let canonical = e164.unwrap_or_else(|| self.canonical(&number));
                (number, canonical)
            })
            .filter(|(number, _)| digits(number).len() >= SHORTEST)
            .collect();
        let (mut shown, mut stays) = (Vec::new(), Vec::new());
        for number in own.iter().map(|n| digits(n)).filter(|n| n.len() >= SHORTEST) {
            let theirs = outside.iter().find(|(outside, _)| is_same(&digits(outside), &number));
            match theirs.filter(|_| did.as_deref() != Some(number.as_str())) {
                Some((_, canonical)) => shown.push((number, canonical.clone())),
                None => stays.push(number),
            }
        }
        outside.append(&mut shown);
        perhaps.extend(c.journey.iter().filter_map(forwarded_to).map(|n| (n.to_owned(), None)));
        for (number, e164) in perhaps {
            let digits = digits(&number);
            if digits.len() >= SHORTEST && !stays.contains(&digits) {
                let canonical = e164.unwrap_or_else(|| self.canonical(&number));
                outside.push((number, canonical));
            }
        }
        let outside = outside.into_iter().map(|(number, canonical)| self.known(&number, canonical)).collect();
        (outside, stays)
    }

    fn known(&self, number: &str, canonical: String) -> Known {
        let mut spellings = vec![digits(number)];
        if let Some(e164) = canonical.strip_prefix('+') {
            spellings.push(e164.to_owned());
            spellings.extend(national(e164).map(str::to_owned));
        }
        Known::new(canonical, spellings)
    }

    /// The E.164 form; where the plan does not say, the digits.
    fn canonical(&self, number: &str) -> String {
        self.numbering.dialled(number).unwrap_or_else(|| digits(number))
    }

    /// What is to stand in place of one string of a document; `None`: it stays.
    fn string(&self, search: &Search, key: &str, text: &str) -> Option<String> {
        match key {
            "id" | "linkedid" | "linkedids" | "uniqueid" | "supersedes" | "merged_into" | "u" | "l" => {
                match self.id(text) {
                    Cow::Borrowed(_) => None,
                    Cow::Owned(id) => Some(id),
                }
            }
            "schema" | "at" => None,
            _ if key.ends_with("_at") => None,
            // what the caller typed: a number, an account, a card
            "digits" if digits(text).len() >= SHORTEST => Some(self.replacement(&self.canonical(text), text)),
            // accounts are numbered too; the outside parties' numbers are looked for all the same
            "accountcode" | "acc" | "pacc" => self.hide_known(search, text),
            // one digit an event
            "ex" if text.contains("\"digit\"") => Some(without_digit(text)),
            _ => self.hide(search, text),
        }
    }

    fn hide(&self, search: &Search, text: &str) -> Option<String> {
        self.replace(text, &search.all(text, |run| self.numbering.plain(run)))
    }

    fn hide_known(&self, search: &Search, text: &str) -> Option<String> {
        self.replace(text, &search.known(text))
    }

    fn replace(&self, text: &str, found: &[search::Found]) -> Option<String> {
        if found.is_empty() {
            return None;
        }
        let mut out = String::with_capacity(text.len() + 16 * found.len());
        let mut done = 0;
        for one in found {
            out.push_str(&text[done..one.at.start]);
            let canonical = one.canonical.clone().unwrap_or_else(|| self.canonical(&text[one.at.clone()]));
            out.push_str(&self.replacement(&canonical, &text[one.at.clone()]));
            done = one.at.end;
        }
        out.push_str(&text[done..]);
        Some(out)
    }

    /// All digits but the last three as `x`; or the token.
    fn replacement(&self, canonical: &str, written: &str) -> String {
        if let Some(key) = &self.key {
            return token(key, canonical);
        }
        let mut left = written.chars().filter(|c| search::digit(*c).is_some()).count();
        let mask = |c: char| match search::digit(c) {
            Some(_) => {
                left -= 1;
                if left >= 3 { 'x' } else { c }
            }
            None => c,
        };
        written.chars().map(mask).collect()
    }
}

/// `num_` and the first 24 half bytes of the HMAC, as the letters a to p.
fn token(key: &Hmac<Sha256>, canonical: &str) -> String {
    let mut mac = key.clone();
    mac.update(canonical.as_bytes());
    let bytes = mac.finalize().into_bytes();
    let letters = bytes.iter().take(12).flat_map(|b| [b >> 4, b & 15]).map(|half| char::from(b'a' + half));
    TOKEN.chars().chain(letters).collect()
}

fn digits(text: &str) -> String {
    text.chars().filter_map(search::digit).map(|d| char::from(b'0' + d)).collect()
}

/// Numbers of a call's parties, as written, and the E.164 form where the document knows it.
#[derive(Default)]
struct Parties {
    own: Vec<String>,
    outside: Vec<(String, Option<String>)>,
    /// Outside parties' too, where they are not the company's.
    perhaps: Vec<(String, Option<String>)>,
}

impl Parties {
    fn inside(&mut self, party: &Party) {
        self.own.extend([&party.number, &party.e164, &party.presented].into_iter().flatten().cloned());
    }

    fn outside(&mut self, party: &Party, surely: bool) {
        let to = if surely { &mut self.outside } else { &mut self.perhaps };
        to.extend(party.number.iter().chain(&party.e164).map(|n| (n.clone(), party.e164.clone())));
        self.perhaps.extend(party.presented.iter().map(|n| (n.clone(), None)));
    }
}

/// One number with and without what stands before it: a country code, a prefix.
fn is_same(a: &str, b: &str) -> bool {
    a == b || a.len().min(b.len()) >= SHORTEST && (a.ends_with(b) || b.ends_with(a))
}

fn forwarded_to(step: &crate::call::Step) -> Option<&str> {
    match &step.what {
        crate::call::StepKind::Forward { to, .. } => to.as_deref(),
        _ => None,
    }
}

/// CEL's `extra` of a DTMF event.
fn without_digit(extra: &str) -> String {
    match serde_json::from_str::<serde_json::Value>(extra) {
        Ok(serde_json::Value::Object(mut map)) if map.contains_key("digit") => {
            map.insert("digit".to_owned(), "x".into());
            serde_json::Value::Object(map).to_string()
        }
        // cut short by its column, or something else that cannot be told apart
        _ => String::new(),
    }
}

/// A sink behind which numbers are hidden.
pub struct Private {
    sink: Arc<dyn Sink>,
    privacy: Privacy,
}

impl Private {
    /// The sink itself where numbers are shown.
    pub fn wrap(sink: Arc<dyn Sink>, config: &NumberPrivacy) -> Arc<dyn Sink> {
        match Privacy::new(config) {
            Some(privacy) => Arc::new(Self { sink, privacy }),
            None => sink,
        }
    }
}

impl Sink for Private {
    fn name(&self) -> &'static str {
        self.sink.name()
    }

    fn limits(&self) -> Limits {
        self.sink.limits()
    }

    fn render(&self, document: &Frozen<'_>) -> Result<Option<Vec<u8>>, RenderError> {
        let search = self.privacy.search(document.document);
        let text = self.privacy.document(document.document)?;
        let hide = |text: &str| json::rewrite(text, |key, text| self.privacy.string(&search, key, text));
        let rows = document.rows.map(|rows| rewrite_rows(rows, hide)).transpose()?;
        let call_id = self.privacy.id(document.call_id);
        let hidden = Frozen { call_id: &call_id, document: &text, rows: rows.as_deref(), ..*document };
        let own = self.sink.render(&hidden)?;
        Ok(Some(own.unwrap_or_else(|| text.into_bytes())))
    }

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Answer> {
        let changes = |key: &str| matches!(self.privacy.id(key), Cow::Owned(_));
        if !changes(&batch.key) && !batch.items.iter().any(|i| changes(&i.key)) {
            return self.sink.send(batch);
        }
        let item = |i: &Item| Item { key: self.privacy.id(&i.key).into_owned(), body: i.body.clone() };
        let key = self.privacy.id(&batch.key).into_owned();
        let hidden = Batch { key, items: batch.items.iter().map(item).collect() };
        Box::pin(async move { self.sink.send(&hidden).await })
    }

    fn check(&self) -> BoxFuture<'_, Vec<Finding>> {
        self.sink.check()
    }
}

#[cfg(test)]
mod tests;
