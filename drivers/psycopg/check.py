"""Tries psycopg 3: see drivers/README.md. It connects with libpq, so with the PG* environment variables."""

import asyncio
import datetime as dt
import decimal
import sys
import threading
import traceback
import uuid

import psycopg
from psycopg import errors, pq, sql
from psycopg.types.json import Jsonb

HAVE = set(sys.argv[1:])
CHECKS = []


def check(*needs):
    """Makes a function a check that runs only if the arguments have all that it needs."""

    def register(function):
        CHECKS.append((function, set(needs)))
        return function

    return register


def connect(conninfo="", **options):
    """A connection in autocommit mode. `None` as the threshold is psycopg's way to prepare nothing by name."""
    options.setdefault("prepare_threshold", 5 if "--prepared" in HAVE else None)
    return psycopg.connect(conninfo, autocommit=True, connect_timeout=60, **options)


def one(connection, query, *parameters, **options):
    """The only row of a query: its value, or a tuple if it has several."""
    row = connection.execute(query, parameters or None, **options).fetchone()
    return row[0] if len(row) == 1 else row


def refused(error, function, *arguments):
    """Calls what must fail with this error, and gives that."""
    try:
        function(*arguments)
    except error as caught:
        return caught
    raise AssertionError(f"no {error.__name__}")


def rows(connection, table):
    return connection.execute(sql.SQL("select * from {} order by 1").format(sql.Identifier(table))).fetchall()


@check()
def simple_queries():
    with connect() as c:
        assert one(c, "select 42, 'ü', null") == (42, "ü", None)
        cursor = c.execute("select 1; select 'two'; create temp table t(a int); select generate_series(1, 3)")
        results = []
        while True:
            results.append(cursor.fetchall() if cursor.description else cursor.statusmessage)
            if not cursor.nextset():
                break
        assert results == [[(1,)], [("two",)], "CREATE TABLE", [(1,), (2,), (3,)]], results
        assert c.execute("").statusmessage is None


@check()
def parameters_of_many_types_in_text_and_binary():
    values = [
        (42, "int4"),
        (-(2**60), "int8"),
        (1.5, "float8"),
        (decimal.Decimal("12345678901234567890.000000001"), "numeric"),
        (True, "bool"),
        ("it's \\ ü € 🐯", "text"),
        (bytes(range(256)), "bytea"),
        (uuid.UUID(int=2**100), "uuid"),
        (dt.date(2024, 2, 29), "date"),
        (dt.time(1, 2, 3, 4), "time"),
        (dt.datetime(2024, 2, 29, 1, 2, 3, 4), "timestamp"),
        (dt.datetime(2024, 2, 29, 1, 2, 3, 4, dt.timezone.utc), "timestamptz"),
        (dt.timedelta(days=3, seconds=4, microseconds=5), "interval"),
        ({"a": [1, None, "ü"]}, "jsonb"),
        ([1, None, 3], "int4[]"),
        (["a,b", '"', "", None, "ü"], "text[]"),
        ([[1.5, 2.5], [3.5, 4.5]], "float8[]"),
    ]
    with connect() as c:
        for binary in False, True:
            for value, name in values:
                sent = Jsonb(value) if name == "jsonb" else value
                placeholder = sql.SQL("%b" if binary and name != "numeric" else "%s")
                query = sql.SQL("select {}::{}").format(placeholder, sql.SQL(name))
                assert one(c, query, sent, binary=binary) == value, (name, binary)
                assert one(c, query, None, binary=binary) is None, (name, binary)


@check()
def big_values():
    text, data = "ü" * 500_000, bytes(range(256)) * 4096
    with connect() as c:
        for binary in False, True:
            assert one(c, "select %s::text, %s::bytea", text, data, binary=binary) == (text, data)
        assert sum(len(row[0]) for row in c.execute("select repeat('x', 1000) from generate_series(1, 5000)")) == 5_000_000


@check()
def commit_and_rollback():
    with connect() as c, connect() as other:
        c.execute("create table commit_and_rollback(a int)")
        with c.transaction():
            c.execute("insert into commit_and_rollback values (1)")
            assert rows(other, "commit_and_rollback") == []
        assert rows(other, "commit_and_rollback") == [(1,)]
        with c.transaction():
            c.execute("insert into commit_and_rollback values (2)")
            raise psycopg.Rollback
        assert rows(c, "commit_and_rollback") == [(1,)]
        c.autocommit = False
        c.execute("insert into commit_and_rollback values (3)")
        assert c.info.transaction_status == pq.TransactionStatus.INTRANS
        c.commit()
        c.execute("insert into commit_and_rollback values (4)")
        c.rollback()
        assert rows(other, "commit_and_rollback") == [(1,), (3,)]


@check()
def an_error_in_a_transaction():
    with connect() as c:
        c.execute("create table an_error(a int)")
        c.execute("begin")
        c.execute("insert into an_error values (1)")
        refused(errors.DivisionByZero, c.execute, "select 1/0")
        assert c.info.transaction_status == pq.TransactionStatus.INERROR
        refused(errors.InFailedSqlTransaction, c.execute, "select 1")
        assert c.execute("commit").statusmessage == "ROLLBACK"
        assert rows(c, "an_error") == []


@check()
def savepoints():
    with connect() as c:
        c.execute("create table savepoints(a int)")
        with c.transaction():
            c.execute("insert into savepoints values (1)")
            with refused_block(errors.DivisionByZero), c.transaction():
                c.execute("insert into savepoints values (2)")
                c.execute("select 1/0")
            with c.transaction("named"):
                c.execute("insert into savepoints values (3)")
        assert rows(c, "savepoints") == [(1,), (3,)]


class refused_block:
    """A block that must end with this error."""

    def __init__(self, error):
        self.error = error

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        assert kind is not None and issubclass(kind, self.error), f"no {self.error.__name__}"
        return True


@check()
def errors_and_their_fields():
    with connect() as c:
        c.execute("create table errors(a int constraint only_one unique check (a > 0))")
        c.execute("insert into errors values (1)")
        for state, query, parameters in [
            ("42601", "selec 1", None),
            ("42P01", "select * from nowhere", None),
            ("22012", "select 1/%s::int", (0,)),
            ("22P02", "select %s::int", ("x",)),
            ("23505", "insert into errors values (%s)", (1,)),
            ("23514", "insert into errors values (%s)", (-1,)),
            ("P0001", "do $$ begin raise 'ü'; end $$", None),
        ]:
            error = refused(psycopg.Error, c.execute, query, parameters)
            assert error.sqlstate == state, (query, error.sqlstate)
            if state == "23505":
                assert (error.diag.constraint_name, error.diag.table_name) == ("only_one", "errors")
            assert one(c, "select 1") == 1


@check()
def copy_in_and_out():
    table = [(i, None if i % 7 == 0 else f"row\t{i}\n\\ü") for i in range(20_000)]
    with connect() as c:
        c.execute("create table copied(a int, b text)")
        for style in "", " (format binary)":
            with c.cursor() as cursor:
                with cursor.copy("copy copied from stdin" + style) as copy:
                    if style:
                        copy.set_types(["int4", "text"])
                    for row in table:
                        copy.write_row(row)
                assert cursor.rowcount == len(table)
                with cursor.copy("copy (select * from copied order by a) to stdout" + style) as copy:
                    copy.set_types(["int4", "text"])
                    assert list(copy.rows()) == table
            c.execute("truncate copied")


@check()
def copy_that_fails():
    def fail(c, line):
        with c.cursor().copy("copy copy_fails from stdin") as copy:
            copy.write("1\n" + line)
            copy.write("2\n" * 500_000)

    def give_up(c):
        with c.cursor().copy("copy copy_fails from stdin") as copy:
            copy.write("1\n")
            raise ZeroDivisionError

    def leave_early():
        c = connect()
        with c.cursor().copy("copy (select generate_series(1, 1000000)) to stdout") as copy:
            copy.read()
            c.close()

    with connect() as c:
        c.execute("create table copy_fails(a int)")
        refused(errors.InvalidTextRepresentation, fail, c, "no number\n")
        refused(ZeroDivisionError, give_up, c)
        for _ in range(10):
            leave_early()
        assert rows(c, "copy_fails") == []


@check()
def executemany():
    with connect() as c:
        c.execute("create table executemany(a int, b text)")
        with c.cursor() as cursor:
            cursor.executemany("insert into executemany values (%s, %s)", [(i, f"ü{i}") for i in range(2000)])
            assert cursor.rowcount == 2000
            cursor.executemany("select %s::int * 2", [(i,) for i in range(300)], returning=True)
            assert [cursor.fetchone() for _ in cursor.results()] == [(i * 2,) for i in range(300)]
            # All or nothing.
            values = [(5000,), (0,), (5001,)]
            refused(errors.DivisionByZero, cursor.executemany, "insert into executemany values (1/%s)", values)
        assert one(c, "select count(*), sum(a) from executemany") == (2000, 1_999_000)


@check()
def pipelines():
    with connect() as c:
        with c.pipeline() as pipeline:
            cursors = [c.execute("select %s::int, repeat('x', %s)", (i, i)) for i in range(500)]
            pipeline.sync()
            assert [cursor.fetchone() for cursor in cursors] == [(i, "x" * i) for i in range(500)]
        with c.pipeline() as pipeline:
            good = c.execute("select %s", ("good",))
            pipeline.sync()
            c.execute("select 1/%s", (0,))
            refused(errors.DivisionByZero, pipeline.sync)
            assert good.fetchone() == ("good",)
            assert one(c, "select 'after'") == "after"
        with c.pipeline(), c.transaction():
            cursors = [c.execute("select %s::int", (i,)) for i in range(100)]
        assert [cursor.fetchone() for cursor in cursors] == [(i,) for i in range(100)]


def count_prepared(connection):
    return one(connection, "select count(*) from pg_prepared_statements", prepare=False)


@check("--prepared")
def prepared_statements():
    for threshold in 0, 1:
        with connect(prepare_threshold=threshold) as a, connect(prepare_threshold=threshold) as b:
            for i in range(20):
                # Both give their statements the same names.
                assert one(a, "select %s::int + 1", i) == i + 1
                assert one(b, "select 'b' || %s", str(i)) == f"b{i}"
                with a.transaction():
                    assert one(a, "select %s::int + 1", i) == i + 1
                    assert one(b, "select 'b' || %s", str(i)) == f"b{i}"
            refused(errors.DivisionByZero, a.execute, "select 1/%s::int", (0,))
            assert one(a, "select 1/%s::int", 1) == 1


@check("--prepared")
def prepared_statements_that_are_closed():
    with connect(prepare_threshold=0) as c:
        c.prepared_max = 3
        for i in range(200):
            assert one(c, f"select %s || '/{i % 10}'", str(i)) == f"{i}/{i % 10}"


@check("--prepared")
def prepared_statements_in_a_pipeline():
    with connect(prepare_threshold=0) as c, c.pipeline():
        cursors = [c.execute(f"select %s::int + {i % 5}", (i,)) for i in range(200)]
        assert [cursor.fetchone() for cursor in cursors] == [(i + i % 5,) for i in range(200)]


@check("--prepared")
def prepared_statements_that_their_table_has_outgrown():
    query = "select * from outgrown where a = %s"
    with connect(prepare_threshold=0) as a, connect(prepare_threshold=None) as b:
        b.execute("drop table if exists outgrown")
        b.execute("create table outgrown as select 1 as a")
        for i in range(5):
            assert len(a.execute(query, (1,)).fetchone()) == i + 1
            b.execute(f"alter table outgrown add c{i} int")
            if "--session" in HAVE:
                # A server of one's own says so, each time until it is prepared again.
                refused(errors.FeatureNotSupported, a.execute, query, (1,))
                a.execute("deallocate all", prepare=False)
        b.execute("drop table outgrown")


@check("--prepared", "--session")
def prepared_statements_are_on_the_server():
    with connect(prepare_threshold=1) as c:
        for _ in range(3):
            one(c, "select %s::int", 1)
        assert count_prepared(c) == 1


@check()
def server_side_cursors():
    with connect() as c:
        with c.transaction(), c.cursor("ü", scrollable=True) as cursor:
            cursor.itersize = 100
            cursor.execute("select g, repeat('x', 100) from generate_series(1, %s) g", (2500,))
            assert [row[0] for row in cursor] == list(range(1, 2501))
            cursor.scroll(0, "absolute")
            assert len(cursor.fetchmany(7)) == 7


def cancel_when_active(connection, cancel):
    """Calls `cancel` from another thread as soon as the connection's query runs."""
    token = str(uuid.uuid4())

    def watch():
        with connect() as other:
            count = "select count(*) from pg_stat_activity where state = 'active' and query like %s"
            while one(other, count, f"%{token}%") == 0:
                pass
        cancel()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        return refused(errors.QueryCanceled, connection.execute, f"select pg_sleep(60) /* {token} */")
    finally:
        thread.join()


@check()
def cancel():
    with connect() as c:
        for _ in range(3):
            assert cancel_when_active(c, c.cancel).sqlstate == "57014"
            assert one(c, "select 1") == 1
            assert cancel_when_active(c, c.cancel_safe).sqlstate == "57014"
            with c.transaction():
                with c.transaction():
                    cancel_when_active(c, c.cancel)
                    raise psycopg.Rollback
                assert one(c, "select 2") == 2


@check()
def cancel_of_nothing():
    with connect() as c:
        c.cancel_safe()
        assert one(c, "select 1") == 1


@check()
def statement_timeout():
    with connect() as c:
        with refused_block(errors.QueryCanceled), c.transaction():
            c.execute("set local statement_timeout = '50ms'")
            c.execute("select pg_sleep(60)")
        assert one(c, "select 1") == 1


async def ask_for_token(token, connected):
    threshold = 1 if "--prepared" in HAVE else None
    async with await psycopg.AsyncConnection.connect(autocommit=True, prepare_threshold=threshold) as c:
        connected.append(c)
        while len(connected) < 50:  # Till all are there.
            await asyncio.sleep(0)
        for i in range(30):
            async with c.transaction():
                cursor = await c.execute("select %s, %s::int, repeat(%s, %s)", (token, i, token[:1], i * 100))
                assert await cursor.fetchone() == (token, i, token[:1] * i * 100)
            cursor = await c.execute("select 'again ' || %s", (token,))
            assert await cursor.fetchone() == (f"again {token}",)


@check()
def many_connections():
    async def all_at_once():
        connected = []
        await asyncio.gather(*(ask_for_token(str(uuid.uuid4()), connected) for _ in range(50)))

    asyncio.run(all_at_once())


@check()
def reconnects():
    for i in range(50):
        with connect() as c:
            assert one(c, "select %s::int", i) == i
    with connect() as c:
        refused(psycopg.OperationalError, c.execute, "select pg_terminate_backend(pg_backend_pid())")
        assert c.broken
    with connect() as c:
        assert one(c, "select 1") == 1


@check()
def newest_protocol():
    if pq.version() >= 180000:
        with connect(max_protocol_version="latest") as c:
            assert one(c, "select 1") == 1


@check()
def settings_stay_with_their_client():
    def client(zone, style, name, encoding):
        c = connect(application_name="at login", client_encoding=encoding)
        c.execute(f"set timezone = '{zone}'; set datestyle = '{style}'")
        assert one(c, "select current_setting('application_name')") == "at login"
        c.execute("select set_config('application_name', %s, false)", (name,))
        return c

    query = """select '2024-02-29 12:00+00'::timestamptz::text, current_setting('application_name'),
        current_setting('client_encoding'), 'ü'"""
    with (
        client("Asia/Tokyo", "ISO, YMD", "one", "UTF8") as one_client,
        client("America/New_York", "SQL, DMY", "two", "LATIN1") as other,
    ):
        assert other.info.timezone.key == "America/New_York"
        for _ in range(20):
            with one_client.transaction():
                assert one(one_client, query) == ("2024-02-29 21:00:00+09", "one", "UTF8", "ü")
                assert one(other, query) == ("29/02/2024 07:00:00 EST", "two", "LATIN1", "ü")
            assert one(one_client, query) == ("2024-02-29 21:00:00+09", "one", "UTF8", "ü")


@check()
def notices():
    seen = []
    with connect() as c:
        c.add_notice_handler(lambda notice: seen.append((notice.severity, notice.message_primary)))
        c.execute("do $$ begin for i in 1..500 loop raise notice 'ü%', i; end loop; raise warning 'end'; end $$")
    assert seen == [("NOTICE", f"ü{i}") for i in range(1, 501)] + [("WARNING", "end")]


@check("--listen")
def listen_and_notify():
    with connect() as listener, connect() as notifier:
        listener.execute("listen ears")
        for i in range(20):
            notifier.execute("select pg_notify('ears', %s)", (f"ü{i}",))
        heard = listener.notifies(timeout=60, stop_after=20)
        assert [notify.payload for notify in heard] == [f"ü{i}" for i in range(20)]


@check("--session")
def what_a_session_keeps():
    with connect() as c:
        c.execute("create temp table kept(a int); insert into kept values (1); set work_mem = '5MB'")
        c.execute("declare held cursor with hold for select generate_series(1, 10)")
        for _ in range(5):
            assert one(c, "select a, current_setting('work_mem') from kept") == (1, "5MB")
            assert one(c, "fetch held") > 0


def run(function):
    try:
        function()
        print(f"ok {function.__name__}", flush=True)
        return True
    except Exception as error:
        print(f"FAILED {function.__name__}: {error!r}", flush=True)
        traceback.print_exc()
        return False


def main():
    failed = 0
    for function, needs in CHECKS:
        if needs <= HAVE:
            failed += not run(function)
        else:
            print(f"skipped {function.__name__}: it needs {' '.join(sorted(needs - HAVE))}", flush=True)
    sys.exit(failed > 0)


main()
