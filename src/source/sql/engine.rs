//! Where the SQL of the three engines differs.

use chrono::DateTime;

use super::backend::{ColumnInfo, Param};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    MySql,
    PostgreSql,
    Sqlite,
}

/// How a column holds time, which decides how it is compared, counted and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeKind {
    /// DATETIME, timestamp: a clock's reading without zone.
    Naive,
    /// MySQL's TIMESTAMP (read in a UTC session), timestamptz: a moment, if the writer told the truth.
    Instant,
    /// A number: seconds since 1970 UTC.
    Epoch,
    /// Text of a reading: `2026-11-20 23:48:10.593251`.
    TextNaive,
    /// Text of seconds since 1970 UTC.
    TextEpoch,
}

impl TimeKind {
    /// The column holds moments rather than readings.
    pub const fn is_moment(self) -> bool {
        matches!(self, Self::Instant | Self::Epoch | Self::TextEpoch)
    }
}

impl Engine {
    pub const fn kind(self) -> &'static str {
        match self {
            Self::MySql => "mysql",
            Self::PostgreSql => "postgresql",
            Self::Sqlite => "sqlite",
        }
    }

    pub fn quote(self, name: &str) -> String {
        match self {
            Self::MySql => format!("`{}`", name.replace('`', "``")),
            Self::PostgreSql | Self::Sqlite => format!("\"{}\"", name.replace('"', "\"\"")),
        }
    }

    /// The database's clock, as a moment.
    pub const fn now(self) -> &'static str {
        match self {
            Self::MySql => "SELECT UTC_TIMESTAMP(6)",
            Self::PostgreSql => "SELECT clock_timestamp()",
            Self::Sqlite => "SELECT CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER)",
        }
    }

    /// How a column is named in a select list so that its backend can read it.
    pub fn selected(self, column: &ColumnInfo) -> String {
        let name = self.quote(&column.name);
        let plain = match self {
            Self::MySql | Self::Sqlite => true,
            Self::PostgreSql => matches!(
                column.kind.as_str(),
                "character varying"
                    | "text"
                    | "character"
                    | "name"
                    | "smallint"
                    | "integer"
                    | "bigint"
                    | "real"
                    | "double precision"
                    | "timestamp without time zone"
                    | "timestamp with time zone"
            ),
        };
        if plain { name } else { format!("{name}::text") }
    }

    /// Minutes since 1970 of a time column, for GROUP BY; the same number `audit_minute` gives.
    pub fn minute_of(self, column: &str, kind: TimeKind) -> String {
        match (self, kind) {
            (Self::MySql, TimeKind::Naive | TimeKind::Instant) => {
                format!("FLOOR(TIMESTAMPDIFF(SECOND, '1970-01-01 00:00:00', {column}) / 60)")
            }
            (Self::MySql, TimeKind::TextNaive) => {
                format!("FLOOR(TIMESTAMPDIFF(SECOND, '1970-01-01 00:00:00', CAST({column} AS DATETIME)) / 60)")
            }
            (Self::MySql, TimeKind::Epoch | TimeKind::TextEpoch) => format!("FLOOR({column} / 60)"),
            (Self::PostgreSql, TimeKind::Naive | TimeKind::Instant) => {
                format!("floor(extract(epoch FROM {column}) / 60)::bigint")
            }
            (Self::PostgreSql, TimeKind::TextNaive) => {
                format!("floor(extract(epoch FROM {column}::timestamp) / 60)::bigint")
            }
            (Self::PostgreSql, TimeKind::Epoch) => format!("floor({column} / 60)::bigint"),
            (Self::PostgreSql, TimeKind::TextEpoch) => format!("floor({column}::numeric / 60)::bigint"),
            (Self::Sqlite, TimeKind::TextNaive | TimeKind::Naive | TimeKind::Instant) => {
                format!("CAST(strftime('%s', substr({column}, 1, 19)) AS INTEGER) / 60")
            }
            (Self::Sqlite, TimeKind::Epoch | TimeKind::TextEpoch) => format!("CAST({column} AS INTEGER) / 60"),
        }
    }

    /// Blocks of the audit by id.
    pub fn block_of(self, column: &str, size: i64) -> String {
        match self {
            Self::MySql => format!("({column} DIV {size})"),
            Self::PostgreSql | Self::Sqlite => format!("({column} / {size})"),
        }
    }

    /// A time as a value to compare a column of this kind with: a placeholder's parameter, or a number to write out.
    pub fn time_value(self, raw_micros: i64, kind: TimeKind) -> TimeValue {
        match kind {
            TimeKind::Naive if self != Self::Sqlite => TimeValue::Bound(Param::Wall(raw_micros)),
            TimeKind::Instant if self != Self::Sqlite => TimeValue::Bound(Param::Utc(raw_micros)),
            TimeKind::Naive | TimeKind::Instant | TimeKind::TextNaive => {
                TimeValue::Bound(Param::Text(reading(raw_micros)))
            }
            TimeKind::Epoch => TimeValue::Literal(epoch(raw_micros)),
            TimeKind::TextEpoch => TimeValue::Bound(Param::Text(epoch(raw_micros))),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum TimeValue {
    Bound(Param),
    Literal(String),
}

/// `2026-11-20 23:48:10`, with six digits where the time has a fraction: text columns compare as text, and whole seconds
/// are written without a fraction there.
fn reading(raw_micros: i64) -> String {
    let text = |t: DateTime<chrono::Utc>| {
        let format = if raw_micros % 1_000_000 == 0 { "%Y-%m-%d %H:%M:%S" } else { "%Y-%m-%d %H:%M:%S%.6f" };
        t.format(format).to_string()
    };
    DateTime::from_timestamp_micros(raw_micros).map_or_else(|| "1970-01-01 00:00:00".to_owned(), text)
}

fn epoch(raw_micros: i64) -> String {
    let micros = raw_micros.max(0);
    match micros % 1_000_000 {
        // whole seconds are written without a fraction, and text compares as text
        0 => (micros / 1_000_000).to_string(),
        fraction => format!("{}.{fraction:06}", micros / 1_000_000),
    }
}

/// A statement under construction: its text, and the parameters in the order of their placeholders.
#[derive(Debug)]
pub struct Statement {
    pub engine: Engine,
    pub sql: String,
    pub params: Vec<Param>,
}

impl Statement {
    pub fn new(engine: Engine) -> Self {
        Self { engine, sql: String::with_capacity(512), params: Vec::new() }
    }

    pub fn push(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    pub fn bind(&mut self, param: Param) -> &mut Self {
        self.params.push(param);
        match self.engine {
            Engine::MySql => self.sql.push('?'),
            Engine::PostgreSql => self.sql.push_str(&format!("${}", self.params.len())),
            Engine::Sqlite => self.sql.push_str(&format!("?{}", self.params.len())),
        }
        self
    }

    pub fn bind_time(&mut self, raw_micros: i64, kind: TimeKind) -> &mut Self {
        match self.engine.time_value(raw_micros, kind) {
            TimeValue::Bound(param) => self.bind(param),
            TimeValue::Literal(text) => self.push(&text),
        }
    }

    /// `(?, ?, …)`: filled up to a power of two with repeats, so that few statements are prepared.
    pub fn bind_list(&mut self, values: &[String]) -> &mut Self {
        self.push("(");
        let Some(last) = values.last() else {
            return self.push("NULL)");
        };
        for i in 0..values.len().next_power_of_two() {
            if i > 0 {
                self.push(", ");
            }
            self.bind(Param::Text(values.get(i).unwrap_or(last).clone()));
        }
        self.push(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_end_their_quotes() {
        assert_eq!(Engine::MySql.quote("a`b"), "`a``b`");
        assert_eq!(Engine::PostgreSql.quote("a\"b"), "\"a\"\"b\"");
    }

    #[test]
    fn lists_are_filled_to_powers_of_two() {
        let mut s = Statement::new(Engine::PostgreSql);
        s.bind_list(&["a".into(), "b".into(), "c".into()]);
        assert_eq!(s.sql, "($1, $2, $3, $4)");
        assert_eq!(s.params.last(), Some(&Param::Text("c".into())));
    }

    #[test]
    fn text_times_compare_as_text() {
        assert_eq!(reading(1_795_214_890_000_000), "2026-11-20 22:48:10");
        assert_eq!(reading(1_795_214_890_593_251), "2026-11-20 22:48:10.593251");
        assert_eq!(epoch(1_795_214_890_593_251), "1795214890.593251");
    }
}
