//! The captured rows of a real Asterisk as its backends wrote them, what each scenario is known to have been, and how far a
//! call document says so. The comparison is that of the captures' own scorer: a plain value is equal, `{"any": […]}` one of, `{"t": time, "tol": s}` a moment,
//! `{"s": seconds, "tol": s}` a duration (null counts as 0).

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Folder of the captures copied into the repository.
pub fn captures_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures")
}

/// One run of one scenario.
#[derive(Clone, Debug)]
pub struct Capture {
    /// `05-inbound-answered/run1`
    pub name: String,
    pub scenario: String,
    pub dir: PathBuf,
    /// Expected fields of each call.
    pub calls: Vec<Map<String, Value>>,
}

/// Rows of a CSV file: names of the columns, and text.
pub struct Sheet {
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Capture {
    /// A file with a header line; `None`: the run has no such file.
    pub fn sheet(&self, file: &str) -> Option<Sheet> {
        let mut rows = records(&self.dir.join(file))?;
        let header = if rows.is_empty() { Vec::new() } else { rows.remove(0) };
        Some(Sheet { header, rows })
    }

    /// A file without one.
    pub fn headerless(&self, file: &str, header: &[&str]) -> Option<Sheet> {
        let header = header.iter().map(|&name| name.to_owned()).collect();
        records(&self.dir.join(file)).map(|rows| Sheet { header, rows })
    }
}

fn records(path: &Path) -> Option<Vec<Vec<String>>> {
    if !path.exists() {
        return None;
    }
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_path(path).expect("a CSV file");
    Some(reader.records().map(|r| r.expect("a record").iter().map(str::to_owned).collect()).collect())
}

/// Every capture, by name.
pub fn captures() -> Vec<Capture> {
    captures_in(&captures_dir())
}

/// Further scenarios, driven with scripted phones against the PBX of the captures: rows and what they are to say.
pub fn driven() -> Vec<Capture> {
    captures_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/driven"))
}

fn captures_in(dir: &Path) -> Vec<Capture> {
    let mut all = Vec::new();
    for scenario in children(dir) {
        for dir in children(&scenario) {
            let text = std::fs::read_to_string(dir.join("expected.json")).expect("expected.json of a capture");
            let expected: Value = serde_json::from_str(&text).expect("expected.json is JSON");
            let calls = expected["calls"].as_array().expect("calls").iter();
            all.push(Capture {
                name: format!("{}/{}", file_name(&scenario), file_name(&dir)),
                scenario: file_name(&scenario),
                calls: calls.map(|c| c["fields"].as_object().expect("fields").clone()).collect(),
                dir,
            });
        }
    }
    all
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a folder of captures");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).filter(|p| p.is_dir()).collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

/// Makes times and durations looser by these many seconds: what whole-second tables can still tell.
pub fn looser(expected: &Value, time: f64, duration: f64) -> Value {
    match expected {
        Value::Object(o) if o.contains_key("any") => {
            let any = o["any"].as_array().expect("any").iter().map(|x| looser(x, time, duration)).collect();
            Value::Object(Map::from_iter([("any".to_owned(), Value::Array(any))]))
        }
        Value::Object(o) if o.contains_key("t") || o.contains_key("s") => {
            let more = if o.contains_key("t") { time } else { duration };
            let mut o = o.clone();
            let tolerance = o["tol"].as_f64().expect("tol") + more;
            o.insert("tol".to_owned(), tolerance.into());
            Value::Object(o)
        }
        Value::Object(o) => Value::Object(o.iter().map(|(k, v)| (k.clone(), looser(v, time, duration))).collect()),
        Value::Array(list) => Value::Array(list.iter().map(|x| looser(x, time, duration)).collect()),
        plain => plain.clone(),
    }
}

/// Where `document` differs from the expected fields, a line each. Empty: all is as it was.
pub fn misses(expected: &Map<String, Value>, document: &Value) -> Vec<String> {
    let mut misses = Vec::new();
    let mut check = |field: &str, ok: bool, want: &Value, got: &Value| {
        if !ok {
            misses.push(format!("{field}: expected {want}, got {got}"));
        }
    };
    let linkedid = expected.get("linkedid").and_then(Value::as_str).unwrap_or_default();
    check("schema", document["schema"] == "callferry.call/1", &"callferry.call/1".into(), &document["schema"]);
    let id = document["id"].as_str().unwrap_or_default();
    check("id", id.split_once(':').is_some_and(|(_, l)| l == linkedid), &linkedid.into(), &document["id"]);
    let mut empty = Vec::new();
    empty_strings(document, "", &mut empty);
    check("no_empty_strings", empty.is_empty(), &Value::Null, &format!("{empty:?}").into());
    let list = |path: &str| at(document, path).as_array().cloned().unwrap_or_default();
    let steps: Vec<Value> = list("journey").iter().map(|j| j["step"].clone()).collect();
    for (field, want) in expected {
        let got = at(document, field);
        match field.as_str() {
            "attempts.optional" => {}
            "incomplete" => {
                let alternatives =
                    want.get("any").and_then(Value::as_array).cloned().unwrap_or_else(|| vec![want.clone()]);
                check(field, alternatives.iter().any(|a| sorted(a) == sorted(got)), want, got);
            }
            "linkedids" => check(field, sorted(want) == sorted(got), want, got),
            "legs" => check(field, want.as_u64() == Some(list("legs").len() as u64), want, got),
            "recordings" => {
                let files: Vec<Value> = list("recordings").iter().map(base_name).collect();
                check(field, sorted(want) == sorted(&Value::Array(files.clone())), want, &Value::Array(files));
            }
            "open_or_incomplete" => {
                let ok = document["state"] == "in_progress" || !list("incomplete").is_empty();
                check(field, ok, want, &document["state"]);
            }
            "journey.has" => {
                for step in want.as_array().into_iter().flatten() {
                    check("journey", steps.contains(step), step, &Value::Array(steps.clone()));
                }
            }
            "journey.not" => {
                let bad = want.as_array().is_some_and(|w| w.iter().any(|s| steps.contains(s)));
                check(field, !bad, want, &Value::Array(steps.clone()));
            }
            "attempts" => {
                let optional = expected.get("attempts.optional").and_then(Value::as_array).cloned().unwrap_or_default();
                check_attempts(want, &list("attempts"), &optional, &mut check);
            }
            "transfers" => {
                let wanted = want.as_array().cloned().unwrap_or_default();
                let transfers = list("transfers");
                check("transfers.count", wanted.len() == transfers.len(), want, got);
                for (w, t) in wanted.iter().zip(&transfers) {
                    for (key, value) in w.as_object().into_iter().flatten() {
                        let found = if matches!(key.as_str(), "by" | "to") { &t[key]["number"] } else { &t[key] };
                        check(&format!("transfers.{key}"), equal(value, found, key), value, found);
                    }
                }
            }
            _ => check(field, equal(want, got, field), want, got),
        }
    }
    misses
}

fn check_attempts(want: &Value, got: &[Value], optional: &[Value], check: &mut impl FnMut(&str, bool, &Value, &Value)) {
    let wanted = want.as_array().cloned().unwrap_or_default();
    let all = Value::Array(got.to_vec());
    let number = |w: &Value, g: &Value| equal(&w["number"], &g["party"]["number"], "");
    let result = |w: &Value, g: &Value| w["result"].is_null() || equal(&w["result"], &g["result"], "");
    let (mut pairs, mut left) = pair(&wanted, got, |w, g| number(w, g) && result(w, g));
    if pairs.iter().any(Option::is_none) {
        (pairs, left) = pair(&wanted, got, number);
    }
    let extra = left.iter().any(|g| !optional.contains(&g["party"]["number"]));
    check("attempts.numbers", pairs.iter().all(Option::is_some) && !extra, want, &all);
    let each = |ok: &dyn Fn(&Value, &Value) -> bool| {
        wanted.iter().zip(&pairs).all(|(w, g)| g.as_ref().is_some_and(|g| ok(w, g)))
    };
    check("attempts.results", each(&result), want, &all);
    let ring = |w: &Value, g: &Value| w.get("ring_s").is_none_or(|r| equal(r, &g["ring_s"], ""));
    check("attempts.ring_s", each(&ring), want, &all);
}

/// Greedy one-to-one pairing; what is left over of `got`.
fn pair(wanted: &[Value], got: &[Value], ok: impl Fn(&Value, &Value) -> bool) -> (Vec<Option<Value>>, Vec<Value>) {
    let mut left: Vec<Value> = got.to_vec();
    left.sort_by_key(|g| g["at"].as_str().unwrap_or_default().to_owned());
    let pairs = wanted.iter().map(|w| left.iter().position(|g| ok(w, g)).map(|i| left.remove(i))).collect();
    (pairs, left)
}

fn equal(want: &Value, got: &Value, field: &str) -> bool {
    if let Some(any) = want.get("any").and_then(Value::as_array) {
        return any.iter().any(|w| equal(w, got, field));
    }
    let near = |a: f64, b: f64| (a - b).abs() <= want["tol"].as_f64().unwrap_or(0.0) + 1e-6;
    if let Some(t) = want.get("t").and_then(Value::as_str) {
        let seconds = |s: &str| chrono::DateTime::parse_from_rfc3339(s).ok().map(|t| t.timestamp_micros() as f64 / 1e6);
        return got.as_str().and_then(seconds).zip(seconds(t)).is_some_and(|(g, w)| near(g, w));
    }
    if let Some(s) = want.get("s").and_then(Value::as_f64) {
        return if got.is_null() { near(s, 0.0) } else { got.as_f64().is_some_and(|g| near(g, s)) };
    }
    let bare = got.as_str().and_then(|g| g.strip_prefix("PJSIP/"));
    match bare {
        Some(bare) if field.ends_with("endpoint") || field.starts_with("trunk_") => want == bare,
        _ => want == got,
    }
}

fn at<'a>(document: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(document, |v, key| &v[key])
}

fn sorted(value: &Value) -> Vec<String> {
    let mut texts: Vec<String> = match value {
        Value::Array(list) => list.iter().map(Value::to_string).collect(),
        Value::Null => Vec::new(),
        other => vec![other.to_string()],
    };
    texts.sort();
    texts
}

fn base_name(recording: &Value) -> Value {
    let name = recording["file"].as_str().or_else(|| recording["path"].as_str()).unwrap_or_default();
    name.rsplit('/').next().unwrap_or_default().into()
}

fn empty_strings(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::String(s) if s.is_empty() => found.push(path.to_owned()),
        Value::Object(o) => o.iter().for_each(|(k, v)| empty_strings(v, &format!("{path}.{k}"), found)),
        Value::Array(a) => a.iter().for_each(|v| empty_strings(v, path, found)),
        _ => {}
    }
}
