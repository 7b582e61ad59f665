"""Tries asyncpg: see drivers/README.md. It takes the PG* environment variables by itself."""

import asyncio
import datetime as dt
import decimal
import json
import sys
import traceback
import uuid

import asyncpg

HAVE = set(sys.argv[1:])
CHECKS = []


def check(*needs):
    """Makes a function a check that runs only if the arguments have all that it needs."""

    def register(function):
        CHECKS.append((function, set(needs)))
        return function

    return register


def options():
    """Without its cache, asyncpg prepares without a name, and ends that with Flush: it keeps its server until it has
    executed the statement."""
    return {} if "--prepared" in HAVE else {"statement_cache_size": 0}


class connect:
    """A connection for the length of a block."""

    def __init__(self, **more):
        self.options = {**options(), **more}

    async def __aenter__(self):
        self.connection = await asyncpg.connect(**self.options)
        return self.connection

    async def __aexit__(self, *_):
        await self.connection.close()


async def refused(error, awaitable):
    """Awaits what must fail with this error, and gives that."""
    try:
        await awaitable
    except error as caught:
        return caught
    raise AssertionError(f"no {error.__name__}")


async def column(connection, query, *parameters):
    return [row[0] for row in await connection.fetch(query, *parameters)]


@check()
async def simple_queries():
    async with connect() as c:
        assert await c.execute("select 1; create temp table t(a int); insert into t values (1), (2)") == "INSERT 0 2"
        assert await c.fetch("") == []


@check()
async def parameters_of_many_types():
    utc = dt.timezone.utc
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
        (dt.datetime(2024, 2, 29, 1, 2, 3, 4, utc), "timestamptz"),
        (dt.timedelta(days=3, seconds=4, microseconds=5), "interval"),
        ('{"a": [1, null, "ü"]}', "jsonb"),
        ([1, None, 3], "int4[]"),
        (["a,b", '"', "", None, "ü"], "text[]"),
        ([[1.5, 2.5], [3.5, 4.5]], "float8[]"),
        (asyncpg.Range(1, 5), "int4range"),
    ]
    async with connect() as c:
        for value, name in values:
            assert await c.fetchval(f"select $1::{name}", value) == value, name
            assert await c.fetchval(f"select $1::{name}", None) is None, name


@check()
async def types_it_must_ask_for():
    async with connect() as c:
        await c.execute("create type mood as enum ('sad', 'happy'); create type pair as (a int, b mood)")
        assert await c.fetchval("select $1::mood", "happy") == "happy"
        assert tuple(await c.fetchval("select $1::pair", (1, "sad"))) == (1, "sad")
        assert await c.fetchval("select array['sad', null]::mood[]") == ["sad", None]
        await c.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        assert await c.fetchval("select $1::jsonb", {"a": [1, None, "ü"]}) == {"a": [1, None, "ü"]}


@check()
async def big_values():
    text, data = "ü" * 500_000, bytes(range(256)) * 4096
    async with connect() as c:
        assert tuple(await c.fetchrow("select $1::text, $2::bytea", text, data)) == (text, data)
        assert sum(map(len, await column(c, "select repeat('x', 1000) from generate_series(1, 5000)"))) == 5_000_000


@check()
async def commit_rollback_and_savepoints():
    async with connect() as c:
        await c.execute("create table transactions(a int)")
        async with c.transaction():
            await c.execute("insert into transactions values ($1)", 1)
            for value, divisor in (2, 0), (3, 1):
                try:
                    async with c.transaction():  # A savepoint.
                        await c.execute("insert into transactions values ($1)", value)
                        await c.fetchval("select 1 / $1::int", divisor)
                except asyncpg.DivisionByZeroError:
                    assert divisor == 0
        assert await column(c, "select * from transactions order by 1") == [1, 3]
        transaction = c.transaction(isolation="serializable")
        await transaction.start()
        await c.execute("insert into transactions values ($1)", 4)
        await transaction.rollback()
        assert await column(c, "select * from transactions order by 1") == [1, 3]


@check()
async def an_error_in_a_transaction():
    async with connect() as c:
        await c.execute("begin")
        await refused(asyncpg.DivisionByZeroError, c.execute("select 1/0"))
        await refused(asyncpg.InFailedSQLTransactionError, c.fetchval("select 1"))
        assert await c.execute("commit") == "ROLLBACK"
        assert await c.fetchval("select 1") == 1


@check()
async def errors_and_their_fields():
    async with connect() as c:
        await c.execute("create table errors(a int constraint only_one unique check (a > 0))")
        await c.execute("insert into errors values (1)")
        for state, query, *parameters in [
            ("42601", "selec 1"),
            ("42P01", "select * from nowhere"),
            ("22012", "select 1/$1::int", 0),
            ("22P02", "select $1::text::int", "x"),
            ("23505", "insert into errors values ($1)", 1),
            ("23514", "insert into errors values ($1)", -1),
            ("P0001", "do $$ begin raise 'ü'; end $$"),
        ]:
            error = await refused(asyncpg.PostgresError, c.fetch(query, *parameters))
            assert error.sqlstate == state, (query, error.sqlstate)
            if state == "23505":
                assert (error.constraint_name, error.table_name) == ("only_one", "errors")
            assert await c.fetchval("select 1") == 1


@check()
async def copy_in_and_out():
    table = [(i, None if i % 7 == 0 else f"row\t{i}\n\\ü") for i in range(20_000)]
    async with connect() as c, c.transaction():
        await c.execute("create table copied(a int, b text)")
        assert await c.copy_records_to_table("copied", records=table) == "COPY 20000"
        assert list(map(tuple, await c.fetch("select * from copied order by a"))) == table
        parts = []

        async def keep(part):
            parts.append(part)

        async def give_back():
            for part in parts:
                yield part

        assert await c.copy_from_query("select * from copied where a < $1", 10_000, output=keep) == "COPY 10000"
        assert await c.copy_to_table("copied", source=give_back()) == "COPY 10000"
        assert await c.fetchval("select count(*) from copied") == 30_000


@check()
async def copy_that_fails():
    async def bad_lines():
        yield b"1\nno number\n"
        for _ in range(100):
            yield b"2\n" * 10_000

    async def gives_up():
        yield b"1\n"
        raise ZeroDivisionError

    async with connect() as c:
        await c.execute("create table copy_fails(a int)")
        await refused(asyncpg.InvalidTextRepresentationError, c.copy_to_table("copy_fails", source=bad_lines()))
        await refused(ZeroDivisionError, c.copy_to_table("copy_fails", source=gives_up()))
        assert await column(c, "select * from copy_fails") == []


@check()
async def executemany():
    async with connect() as c:
        await c.execute("create table executemany(a int, b text)")
        async with c.transaction():
            await c.executemany("insert into executemany values ($1, $2)", [(i, f"ü{i}") for i in range(5000)])
        # All or nothing.
        many = c.executemany("insert into executemany values (1 / $1::int, '')", [(1,), (0,), (1,)])
        await refused(asyncpg.DivisionByZeroError, many)
        assert tuple(await c.fetchrow("select count(*), sum(a) from executemany")) == (5000, 12_497_500)
        if hasattr(c, "fetchmany"):
            doubled = await c.fetchmany("select $1::int * 2", [(i,) for i in range(300)])
            assert [row[0] for row in doubled] == [i * 2 for i in range(300)]


@check("--prepared")
async def prepared_statements():
    async with connect() as a, connect() as b:
        add = await a.prepare("select $1::int + 1")
        join = await b.prepare("select 'b' || $1")
        for i in range(20):
            assert (await add.fetchval(i), await join.fetchval(str(i))) == (i + 1, f"b{i}")
            async with a.transaction():
                assert (await add.fetchval(i), await join.fetchval(str(i))) == (i + 1, f"b{i}")
        assert [parameter.name for parameter in add.get_parameters()] == ["int4"]
        await refused(asyncpg.DivisionByZeroError, a.fetchval("select 1 / $1::int", 0))
        assert await a.fetchval("select 1 / $1::int", 1) == 1


@check("--prepared")
async def prepared_statements_that_are_closed():
    # A small cache closes what falls out of it.
    async with connect(statement_cache_size=3) as c:
        for i in range(200):
            assert await c.fetchval(f"select $1 || '/{i % 10}'", str(i)) == f"{i}/{i % 10}"


@check("--prepared")
async def prepared_statements_after_a_change_of_the_table():
    async with connect() as c, connect() as other:
        await c.execute("create table changes(a int)")
        for type_name, value in ("int", 1), ("text", "1"), ("bigint", 1):
            await other.execute(f"drop table changes; create table changes(a {type_name}); insert into changes values (1)")
            # asyncpg prepares again when the server says that the cached plan is no more.
            assert await c.fetchval("select a from changes") == value


@check()
async def cursors():
    async with connect() as c, c.transaction():
        query = "select g, repeat('x', 100) from generate_series(1, $1::int) g"
        assert [row["g"] async for row in c.cursor(query, 2500, prefetch=100)] == list(range(1, 2501))
        cursor = await c.cursor(query, 100)
        assert await cursor.forward(40) == 40
        assert [row["g"] for row in await cursor.fetch(5)] == [41, 42, 43, 44, 45]


@check()
async def timeout_cancels():
    # The client only says that it waited too long. So the server notes why the query ended.
    query = """do $$ begin insert into canceled values (null); perform pg_sleep(60);
        exception when query_canceled then insert into canceled values (sqlstate); end $$"""
    async with connect() as c:
        await c.execute("create table canceled(state text)")
        for i in range(1, 4):
            await refused(asyncio.TimeoutError, c.execute(query, timeout=0.05))
            assert await column(c, "select state from canceled") == ["57014"] * i
        # asyncpg hides the error of the query that it cancels, but leaves the transaction failed.
        transaction = c.transaction()
        await transaction.start()
        await refused(asyncio.TimeoutError, c.fetchval("select pg_sleep(60)", timeout=0.05))
        await refused(asyncpg.InFailedSQLTransactionError, c.fetchval("select 1"))
        await transaction.rollback()
        assert await c.fetchval("select 1") == 1


@check()
async def statement_timeout():
    async with connect() as c:
        transaction = c.transaction()
        await transaction.start()
        await c.execute("set local statement_timeout = '50ms'")
        error = await refused(asyncpg.QueryCanceledError, c.fetchval("select pg_sleep(60)"))
        assert error.sqlstate == "57014"
        await transaction.rollback()
        assert await c.fetchval("select 1") == 1


async def ask_for_token(pool, together):
    token = str(uuid.uuid4())
    async with pool.acquire() as c:
        together.append(c)
        while len(together) < 50:  # Till all are there.
            await asyncio.sleep(0)
        for i in range(30):
            async with c.transaction():
                row = await c.fetchrow("select $1::text, $2::int, repeat($3, $2)", token, i, token)
                assert tuple(row) == (token, i, token * i)
            assert await c.fetchval("select 'again ' || $1", token) == f"again {token}"


@check()
async def many_connections():
    async with asyncpg.create_pool(min_size=50, max_size=50, **options()) as pool:
        # The second time over connections that the pool has reset.
        for _ in range(2):
            together = []
            await asyncio.gather(*(ask_for_token(pool, together) for _ in range(50)))


@check()
async def reconnects():
    for i in range(50):
        async with connect() as c:
            assert await c.fetchval("select $1::int", i) == i
    async with connect() as c:
        # What it raises is its own view of the matter, with the server's error as the cause.
        await refused(asyncpg.PostgresConnectionError, c.execute("select pg_terminate_backend(pg_backend_pid())"))
    async with connect() as c:
        assert await c.fetchval("select 1") == 1


@check()
async def settings_stay_with_their_client():
    query = """select '2024-02-29 12:00+00'::timestamptz::text, current_setting('application_name'),
        current_setting('TimeZone')"""
    at_login = {"application_name": "one", "TimeZone": "Asia/Tokyo"}
    async with connect(server_settings=at_login) as one, connect() as other:
        await other.execute("set timezone = 'America/New_York'; set application_name = 'two'; set datestyle = 'SQL, DMY'")
        for _ in range(20):
            for c in one, other:
                async with c.transaction():
                    row = tuple(await c.fetchrow(query))
                if c is one:
                    assert row == ("2024-02-29 21:00:00+09", "one", "Asia/Tokyo"), row
                else:
                    assert row == ("29/02/2024 07:00:00 EST", "two", "America/New_York"), row
        assert other.get_settings().TimeZone == "America/New_York"


@check()
async def notices():
    seen = []
    async with connect() as c:
        c.add_log_listener(lambda _, message: seen.append(message.message))
        await c.execute("do $$ begin for i in 1..500 loop raise notice 'ü%', i; end loop; end $$")
        await c.fetchval("select 1")  # Listeners are called in the loop's next turn.
    assert seen == [f"ü{i}" for i in range(1, 501)]


@check("--listen")
async def listen_and_notify():
    heard = asyncio.Queue()
    async with connect() as listener, connect() as notifier:
        await listener.add_listener("ears", lambda _c, _pid, _channel, payload: heard.put_nowait(payload))
        for i in range(20):
            await notifier.execute("select pg_notify('ears', $1)", f"ü{i}")
        assert [await heard.get() for _ in range(20)] == [f"ü{i}" for i in range(20)]


async def run(function):
    try:
        await asyncio.wait_for(function(), 60)
        print(f"ok {function.__name__}", flush=True)
        return True
    except Exception as error:
        print(f"FAILED {function.__name__}: {error!r}", flush=True)
        traceback.print_exc()
        return False


async def main():
    failed = 0
    for function, needs in CHECKS:
        if needs <= HAVE:
            failed += not await run(function)
        else:
            print(f"skipped {function.__name__}: it needs {' '.join(sorted(needs - HAVE))}", flush=True)
    return failed > 0


sys.exit(asyncio.run(main()))
