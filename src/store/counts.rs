//! What was read so far, counted, for the source's audit.

use std::collections::BTreeMap;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{Store, journal};
use crate::source::{LocalCounts, Table};

impl LocalCounts for Store {
    fn seen_per_minute(&self, table: Table, from: i64, to: i64) -> BoxFuture<'_, Result<BTreeMap<i64, i64>, String>> {
        let counts = self.read(move |conn| journal::rows_by_minute(conn, table, from, to));
        counts.map(|r| r.map(|rows| rows.into_iter().collect()).map_err(|e| e.to_string())).boxed()
    }

    fn rows_per_block(
        &self,
        table: Table,
        generation: i64,
        from: i64,
        to: i64,
    ) -> BoxFuture<'_, Result<BTreeMap<i64, i64>, String>> {
        let counts = self.read(move |conn| journal::rows_by_block(conn, table, generation, from, to));
        counts.map(|r| r.map(|rows| rows.into_iter().collect()).map_err(|e| e.to_string())).boxed()
    }
}
