//! What is checked, and in which order.

use std::{fmt::Debug, future::Future, sync::Arc};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, NaiveDate, Utc};
use futures_util::{TryStreamExt, future::try_join_all};
use serde_json::json;
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, PgPool, Postgres, Row,
    postgres::{PgArguments, PgConnectOptions, PgListener, PgPoolOptions},
    query::Query,
};
use tokio::sync::Barrier;
use uuid::Uuid;

use crate::{Check, have};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "simple queries", needs: &[], run: || Box::pin(simple_queries()) },
    Check { name: "parameters of many types", needs: &[], run: || Box::pin(parameters_of_many_types()) },
    Check { name: "big values", needs: &[], run: || Box::pin(big_values()) },
    Check { name: "commit, rollback and savepoints", needs: &[], run: || Box::pin(commit_rollback_and_savepoints()) },
    Check { name: "errors and their fields", needs: &[], run: || Box::pin(errors_and_their_fields()) },
    Check { name: "copy in and out", needs: &[], run: || Box::pin(copy_in_and_out()) },
    Check { name: "results not read to the end", needs: &[], run: || Box::pin(results_not_read_to_the_end()) },
    Check { name: "prepared statements", needs: &["--prepared"], run: || Box::pin(prepared_statements()) },
    Check {
        name: "prepared statements that are closed",
        needs: &["--prepared"],
        run: || Box::pin(closed_statements()),
    },
    Check { name: "statement timeout", needs: &[], run: || Box::pin(statement_timeout()) },
    Check { name: "many connections", needs: &[], run: || Box::pin(many_connections()) },
    Check { name: "pool", needs: &[], run: || Box::pin(pool()) },
    Check { name: "reconnects", needs: &[], run: || Box::pin(reconnects()) },
    Check { name: "settings stay with their client", needs: &[], run: || Box::pin(settings_stay_with_their_client()) },
    Check { name: "listen and notify", needs: &["--listen"], run: || Box::pin(listen_and_notify()) },
];

async fn connect() -> Result<PgConnection> {
    PgConnection::connect_with(&PgConnectOptions::new()).await.context("connecting")
}

/// A query with parameters. Without `--prepared` sqlx prepares it without a name, and ends that with a Sync of its own:
/// only in a transaction is it then sure to meet the same server again while other connections are busy.
fn query(sql: &'static str) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(sql).persistent(have("--prepared"))
}

/// The SQLSTATE of what must fail.
async fn refused<T>(outcome: impl Future<Output = Result<T, sqlx::Error>>) -> Result<String> {
    let error = outcome.await.err().context("it did not fail")?;
    let code = error.as_database_error().and_then(|error| error.code().map(String::from));
    code.with_context(|| format!("an error without SQLSTATE: {error}"))
}

async fn numbers(connection: &mut PgConnection, sql: &'static str) -> Result<Vec<i32>> {
    let rows = query(sql).fetch_all(connection).await?;
    rows.iter().map(|row| row.try_get(0).context("the first column")).collect()
}

async fn simple_queries() -> Result<()> {
    let mut c = connect().await?;
    let rows = sqlx::raw_sql("select 1::text; select 'ü', null; create temp table t(a int)").fetch_all(&mut c).await?;
    let values: Vec<&str> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    ensure!(values == ["1", "ü"]);
    ensure!(rows[1].try_get::<Option<&str>, _>(1)?.is_none());
    Ok(())
}

fn equal<T: PartialEq + Debug>(actual: T, expected: T) -> Result<()> {
    ensure!(actual == expected);
    Ok(())
}

async fn parameters_of_many_types() -> Result<()> {
    macro_rules! same {
        ($connection:expr, $type:literal, $value:expr) => {{
            let values = [Some($value), None];
            let sql = concat!("select $1::", $type, ", $2::", $type);
            let row = query(sql).bind(&values[0]).bind(&values[1]).fetch_one(&mut $connection).await?;
            equal([row.try_get(0)?, row.try_get(1)?], values)?;
        }};
    }
    let mut c = connect().await?;
    same!(c, "int4", 42);
    same!(c, "int8", -(1_i64 << 60));
    same!(c, "float8", 1.5);
    same!(c, "bool", true);
    same!(c, "text", String::from("it's \\ ü € 🐯"));
    same!(c, "bytea", (0..=255).collect::<Vec<u8>>());
    same!(c, "uuid", Uuid::new_v4());
    same!(c, "date", NaiveDate::from_ymd_opt(2024, 2, 29).context("a date")?);
    same!(c, "timestamptz", "2024-02-29T01:02:03.000004Z".parse::<DateTime<Utc>>()?);
    same!(c, "jsonb", json!({ "a": [1, null, "ü"] }));
    same!(c, "int4[]", vec![Some(1), None, Some(3)]);
    same!(c, "text[]", ["a,b", "\"", "", "ü"].map(String::from).to_vec());
    Ok(())
}

async fn big_values() -> Result<()> {
    let (text, data) = ("ü".repeat(500_000), [7_u8; 16].repeat(1 << 16));
    let mut c = connect().await?;
    let row = query("select $1::text, $2::bytea").bind(&text).bind(&data).fetch_one(&mut c).await?;
    ensure!(row.try_get::<&str, _>(0)? == text && row.try_get::<&[u8], _>(1)? == data, "not what was sent");
    let rows = query("select repeat('x', 1000) from generate_series(1, 5000)").fetch_all(&mut c).await?;
    ensure!(rows.len() == 5000);
    Ok(())
}

async fn commit_rollback_and_savepoints() -> Result<()> {
    let (mut c, mut other) = (connect().await?, connect().await?);
    c.execute("create table transactions(a int)").await?;
    let mut transaction = c.begin().await?;
    query("insert into transactions values ($1)").bind(1).execute(&mut *transaction).await?;
    ensure!(numbers(&mut other, "select a from transactions").await?.is_empty());
    let mut savepoint = transaction.begin().await?;
    query("insert into transactions values ($1)").bind(2).execute(&mut *savepoint).await?;
    ensure!(refused(query("select 1 / $1").bind(0).execute(&mut *savepoint)).await? == "22012");
    ensure!(refused(query("select 1").execute(&mut *savepoint)).await? == "25P02");
    savepoint.rollback().await?;
    query("insert into transactions values ($1)").bind(3).execute(&mut *transaction).await?;
    transaction.commit().await?;
    let mut dropped = c.begin().await?;
    query("insert into transactions values ($1)").bind(4).execute(&mut *dropped).await?;
    drop(dropped);
    ensure!(numbers(&mut c, "select a from transactions order by a").await? == [1, 3]);
    Ok(())
}

async fn errors_and_their_fields() -> Result<()> {
    let mut c = connect().await?;
    c.execute("create table errors(a int constraint only_one unique check (a > 0)); insert into errors values (1)")
        .await?;
    for (state, sql) in [
        ("42601", "selec 1"),
        ("42P01", "select * from nowhere"),
        ("22012", "select 1/0"),
        ("22P02", "select 'x'::text::int"),
        ("23505", "insert into errors values (1)"),
        ("23514", "insert into errors values (-1)"),
        ("P0001", "do $$ begin raise 'ü'; end $$"),
    ] {
        ensure!(refused(query(sql).execute(&mut c)).await? == state, sql);
        ensure!(numbers(&mut c, "select 1").await? == [1]);
    }
    let error = query("insert into errors values (1)").execute(&mut c).await.err().context("no error")?;
    ensure!(error.as_database_error().and_then(|error| error.constraint()) == Some("only_one"));
    Ok(())
}

async fn copy_in_and_out() -> Result<()> {
    let mut c = connect().await?;
    c.execute("create table copied(a int)").await?;
    let lines: String = (0..50_000).map(|i| format!("{i}\n")).collect();
    let mut sink = c.copy_in_raw("copy copied from stdin").await?;
    sink.send(lines.as_bytes()).await?;
    ensure!(sink.finish().await? == 50_000);
    let mut sink = c.copy_in_raw("copy copied from stdin").await?;
    sink.send(b"no number\n".as_slice()).await?;
    ensure!(refused(sink.finish()).await? == "22P02");
    let sink = c.copy_in_raw("copy copied from stdin").await?;
    sink.abort("given up").await?;
    let parts: Vec<_> = c.copy_out_raw("copy (select a from copied order by a) to stdout").await?.try_collect().await?;
    ensure!(parts.concat() == lines.as_bytes(), "not what was sent");
    Ok(())
}

async fn results_not_read_to_the_end() -> Result<()> {
    let mut c = connect().await?;
    for i in 0..10 {
        let first = query("select $1 from generate_series(1, 1000)").bind(i).fetch(&mut c).try_next().await?;
        ensure!(first.context("no row")?.try_get::<i32, _>(0)? == i);
    }
    ensure!(numbers(&mut c, "select 1").await? == [1]);
    Ok(())
}

async fn prepared_statements() -> Result<()> {
    let (mut a, mut b) = (connect().await?, connect().await?);
    for i in 0..20 {
        let mut transaction = a.begin().await?;
        let left = query("select $1 + 1").bind(i).fetch_one(&mut *transaction).await?;
        let right = query("select 'b' || $1").bind(i.to_string()).fetch_one(&mut b).await?;
        transaction.commit().await?;
        ensure!(left.try_get::<i32, _>(0)? == i + 1);
        ensure!(right.try_get::<&str, _>(0)? == format!("b{i}"));
        let again = query("select $1 + 1").bind(i).fetch_one(&mut a).await?;
        ensure!(again.try_get::<i32, _>(0)? == i + 1);
    }
    ensure!(refused(query("select 1 / $1").bind(0).execute(&mut a)).await? == "22012");
    query("select 1 / $1").bind(1).execute(&mut a).await?;
    Ok(())
}

/// A small cache closes what falls out of it.
async fn closed_statements() -> Result<()> {
    let mut c = PgConnection::connect_with(&PgConnectOptions::new().statement_cache_capacity(3)).await?;
    for i in 0..200 {
        let sql = AssertSqlSafe(format!("select $1 || '/{}'", i % 10));
        let row = sqlx::query(sql).bind(i.to_string()).fetch_one(&mut c).await?;
        ensure!(row.try_get::<&str, _>(0)? == format!("{i}/{}", i % 10));
    }
    Ok(())
}

async fn statement_timeout() -> Result<()> {
    let mut c = connect().await?;
    let mut transaction = c.begin().await?;
    transaction.execute("set local statement_timeout = '50ms'").await?;
    ensure!(refused(query("select pg_sleep(60)").execute(&mut *transaction)).await? == "57014");
    transaction.rollback().await?;
    ensure!(numbers(&mut c, "select 1").await? == [1]);
    Ok(())
}

async fn many_connections() -> Result<()> {
    let together = Arc::new(Barrier::new(50));
    let tasks = (0..50).map(|_| tokio::spawn(ask_for_token(Arc::clone(&together))));
    for outcome in try_join_all(tasks).await? {
        outcome?;
    }
    Ok(())
}

async fn ask_for_token(together: Arc<Barrier>) -> Result<()> {
    let (mut c, token) = (connect().await?, Uuid::new_v4().to_string());
    together.wait().await;
    for i in 0..30_u16 {
        let mut transaction = c.begin().await?;
        let repeat = query("select repeat($1, $2)").bind(&token).bind(i32::from(i));
        let row = repeat.fetch_one(&mut *transaction).await?;
        ensure!(row.try_get::<&str, _>(0)? == token.repeat(i.into()));
        transaction.commit().await?;
        if have("--prepared") {
            let row = query("select 'again ' || $1").bind(&token).fetch_one(&mut c).await?;
            ensure!(row.try_get::<&str, _>(0)? == format!("again {token}"));
        }
    }
    Ok(())
}

async fn pool() -> Result<()> {
    let pool = PgPoolOptions::new().max_connections(10).connect_with(PgConnectOptions::new()).await?;
    try_join_all((0..500).map(|i| ask_pool(&pool, i))).await?;
    pool.close().await;
    Ok(())
}

async fn ask_pool(pool: &PgPool, number: i32) -> Result<()> {
    let mut transaction = pool.begin().await?;
    let row = query("select $1").bind(number).fetch_one(&mut *transaction).await?;
    ensure!(row.try_get::<i32, _>(0)? == number);
    transaction.commit().await?;
    Ok(())
}

async fn reconnects() -> Result<()> {
    for i in 0..50 {
        let mut c = connect().await?;
        let row = query("select $1").bind(i).fetch_one(&mut c).await?;
        ensure!(row.try_get::<i32, _>(0)? == i);
        c.close().await?;
    }
    let mut c = connect().await?;
    let ended = c.execute("select pg_terminate_backend(pg_backend_pid())").await;
    ensure!(ended.is_err() && c.ping().await.is_err());
    ensure!(numbers(&mut connect().await?, "select 1").await? == [1]);
    Ok(())
}

async fn settings_stay_with_their_client() -> Result<()> {
    let mut c = PgConnection::connect_with(&PgConnectOptions::new().application_name("one")).await?;
    let mut other = connect().await?;
    c.execute("set timezone = 'Asia/Tokyo'").await?;
    other
        .execute("set timezone = 'America/New_York'; set datestyle = 'SQL, DMY'; set application_name = 'two'")
        .await?;
    for _ in 0..20 {
        let mut transaction = c.begin().await?;
        ensure!(settings(&mut transaction).await? == "2024-02-29 21:00:00+09 one");
        ensure!(settings(&mut other).await? == "29/02/2024 07:00:00 EST two");
        transaction.commit().await?;
        ensure!(settings(&mut c).await? == "2024-02-29 21:00:00+09 one");
    }
    Ok(())
}

async fn settings(connection: &mut PgConnection) -> Result<String> {
    let sql = "select '2024-02-29 12:00+00'::timestamptz::text || ' ' || current_setting('application_name')";
    Ok(sqlx::raw_sql(sql).fetch_one(connection).await?.try_get(0)?)
}

async fn listen_and_notify() -> Result<()> {
    let pool = PgPoolOptions::new().max_connections(2).connect_with(PgConnectOptions::new()).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen("ears").await?;
    for i in 0..20 {
        query("select pg_notify('ears', $1)").bind(format!("ü{i}")).execute(&pool).await?;
        ensure!(listener.recv().await?.payload() == format!("ü{i}"));
    }
    Ok(())
}
