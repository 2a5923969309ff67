//! What is asked of the index for a listing? One function a query, over any connection. Keyset pages, never OFFSET.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::cursor::Bound;
use super::filter::{Filter, object_start};
use super::{ListQuery, SortKey};
use crate::store::index::{FILE_COLUMNS, full_row};
use crate::store::row::Row;
use crate::store::schema::SCHEMA_VERSION;

/// As `index::REST_COLUMNS`, without the long state that only the indexer needs.
const REST_COLUMNS: &str = "(SELECT meta FROM texts t WHERE t.row = r.row), NULL, r.indexed_bytes, r.lines, r.error, r.name_position, \
     r.created_at_ms";

/// True if the tables are those of this build. What the views say is not asked here, so their version may differ.
pub(super) fn is_current(connection: &Connection) -> bool {
    connection
        .pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))
        .is_ok_and(|found| found >> 16 == SCHEMA_VERSION)
}

/// True if every file that the index knows was read once.
pub(super) fn all_read_once(connection: &Connection) -> rusqlite::Result<bool> {
    let unread = connection
        .query_row(
            "SELECT 1 FROM rollouts WHERE state = 0 AND lines = 0 AND size_bytes > 0 LIMIT 1",
            [],
            |_| Ok(()),
        )
        .optional()?;
    Ok(unread.is_none())
}

/// True if the last writer ended in order.
pub(super) fn closed_cleanly(connection: &Connection) -> rusqlite::Result<bool> {
    let mark: Option<i64> = connection
        .query_row("SELECT value FROM meta WHERE key = 'closed_cleanly'", [], |row| row.get(0))
        .optional()?;
    Ok(mark == Some(1))
}

/// The next rows of one root behind `bound`, with the filters that SQL can do.
pub(super) fn page(
    connection: &Connection,
    query: &ListQuery,
    filter: &Filter<'_>,
    archived: bool,
    bound: Option<&Bound>,
    limit: usize,
) -> rusqlite::Result<Vec<Row>> {
    let (sql, values) = page_sql(query, filter, archived, bound, limit);
    connection.prepare_cached(&sql)?.query_map(params_from_iter(values), full_row)?.collect()
}

fn page_sql(
    query: &ListQuery,
    filter: &Filter<'_>,
    archived: bool,
    bound: Option<&Bound>,
    limit: usize,
) -> (String, Vec<Value>) {
    let (index, key) = match query.sort {
        SortKey::Created => ("rollouts_created", "r.created_at_ms"),
        SortKey::Updated => ("rollouts_updated", "r.mtime_ns"),
    };
    let (direction, behind) = if query.descending { ("DESC", "<") } else { ("ASC", ">") };
    let mut sql = format!(
        "SELECT {FILE_COLUMNS}, {REST_COLUMNS} FROM rollouts r INDEXED BY {index} WHERE r.kind = 0 AND r.archived = ?"
    );
    let mut values = vec![Value::from(archived)];
    if let Some(bound) = bound {
        let mut columns = vec![key];
        values.push(Value::from(bound.key));
        if let Some(id) = bound.id {
            columns.push("r.thread_id");
            values.push(Value::from(id.as_bytes().to_vec()));
            if let Some(path) = &bound.path {
                columns.push("r.path");
                values.push(Value::from(path.clone()));
            }
        }
        let marks = vec!["?"; columns.len()].join(", ");
        sql.push_str(&format!(" AND ({}) {behind} ({marks})", columns.join(", ")));
    }
    if !query.sources.is_empty() {
        let each =
            vec!["r.source = ? OR substr(r.source, 1, length(?)) = ?"; query.sources.len()].join(" OR ");
        sql.push_str(&format!(" AND ({each})"));
        for source in &query.sources {
            let start = object_start(source);
            values.extend([source.clone(), start.clone(), start].map(Value::from));
        }
    }
    if !filter.providers().is_empty() {
        let marks = vec!["?"; filter.providers().len()].join(", ");
        sql.push_str(&format!(" AND r.provider IN ({marks})"));
        values.extend(filter.providers().iter().map(|provider| Value::from((*provider).to_owned())));
    }
    sql.push_str(&format!(
        " ORDER BY {key} {direction}, r.thread_id {direction}, r.path {direction} LIMIT {limit}"
    ));
    (sql, values)
}

/// Rollouts of the threads whose ids lie between two, both included.
pub(super) fn threads_between(
    connection: &Connection,
    low: &[u8; 16],
    high: &[u8; 16],
    limit: usize,
) -> rusqlite::Result<Vec<Row>> {
    let sql = format!(
        "SELECT {FILE_COLUMNS}, {REST_COLUMNS} FROM rollouts r WHERE r.kind = 0 AND r.thread_id BETWEEN ?1 AND ?2 \
         ORDER BY r.thread_id, r.path LIMIT ?3"
    );
    connection
        .prepare_cached(&sql)?
        .query_map(params![&low[..], &high[..], limit as i64], full_row)?
        .collect()
}

/// Rollouts of the threads whose ids end in these bytes.
pub(super) fn threads_ending(
    connection: &Connection,
    end: &[u8; 4],
    limit: usize,
) -> rusqlite::Result<Vec<Row>> {
    let sql = format!(
        "SELECT {FILE_COLUMNS}, {REST_COLUMNS} FROM rollouts r WHERE r.kind = 0 AND substr(r.thread_id, 13) = ?1 \
         ORDER BY r.thread_id, r.path LIMIT ?2"
    );
    connection.prepare_cached(&sql)?.query_map(params![&end[..], limit as i64], full_row)?.collect()
}

/// The row id and name of each current rollout that has one, the name given last first.
pub(super) fn named(connection: &Connection) -> rusqlite::Result<Vec<(i64, String)>> {
    connection
        .prepare_cached(
            "SELECT row, name FROM rollouts WHERE name_key IS NOT NULL AND kind = 0 AND current = 1 AND name IS NOT NULL \
             ORDER BY name_position DESC, mtime_ns DESC, thread_id DESC",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;

    #[test]
    fn pages_are_found_by_an_index() {
        let dir = tempfile::tempdir().unwrap();
        let connection = schema::open_writer(&dir.path().join("index.sqlite"), 1).unwrap();
        assert!(is_current(&connection));
        let bounds = [None, Some("2026-02-08T09:15:02Z|0198c0de-0000-7000-8000-0000000000aa|p")];
        for (sort, column) in [(SortKey::Created, "created_at_ms"), (SortKey::Updated, "mtime_ns")] {
            for descending in [true, false] {
                for bound in bounds {
                    let query =
                        ListQuery { sort, descending, sources: vec!["cli".into()], ..ListQuery::default() };
                    let bound = bound.map(|text| text.parse::<super::super::Cursor>().unwrap());
                    let bound = bound.map(|cursor| cursor.bound(sort, descending));
                    let (sql, values) = page_sql(&query, &Filter::new(&query), false, bound.as_ref(), 5);
                    assert!(!sql.contains("OFFSET"));
                    let plan: Vec<String> = connection
                        .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
                        .unwrap()
                        .query_map(params_from_iter(values), |row| row.get(3))
                        .unwrap()
                        .collect::<rusqlite::Result<_>>()
                        .unwrap();
                    let plan = plan.join("; ");
                    // Behind a cursor the time itself is searched, not only the root.
                    assert!(plan.contains("SEARCH") && (bound.is_none() || plan.contains(column)), "{plan}");
                    assert!(!plan.contains("FOR ORDER BY"), "{plan}");
                }
            }
        }
    }
}
