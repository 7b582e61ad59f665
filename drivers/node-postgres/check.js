// Tries node-postgres (pg): see drivers/README.md. It takes the PG* environment variables by itself.
'use strict'

const assert = require('node:assert/strict')
const { randomUUID } = require('node:crypto')
const { Client, Pool } = require('pg')

// The driver's queue and `activeQuery` are to go in its next major version; until then they are used and so tried.
process.noDeprecation = true

const have = process.argv.slice(2)
const checks = []

// Adds a check that runs only if the arguments have all that it needs.
function check(name, needs, run) {
  checks.push({ name, needs, run })
}

// Runs a function with so many connections, and closes them.
async function connected(run, count = 1, options = {}) {
  const clients = Array.from({ length: count }, () => new Client(options))
  // A connection that breaks says so in an event, too, which nobody else takes.
  clients.forEach((client) => client.on('error', () => {}))
  try {
    await Promise.all(clients.map((client) => client.connect()))
    return await run(...clients)
  } finally {
    await Promise.all(clients.map((client) => client.end()))
  }
}

// The only value of a query.
async function one(client, query, parameters) {
  const { rows } = await client.query({ text: query, values: parameters, rowMode: 'array' })
  return rows[0][0]
}

function refused(state, promise) {
  return assert.rejects(promise, { code: state })
}

check('simple queries', [], () =>
  connected(async (c) => {
    const results = await c.query("select 1 as a; select 'ü' as b, null as c; create temp table t(a int)")
    assert.deepEqual(
      results.map((result) => result.rows),
      [[{ a: 1 }], [{ b: 'ü', c: null }], []]
    )
    assert.equal((await c.query('')).command, null)
  })
)

check('parameters of many types', [], () =>
  connected(async (c) => {
    const values = [
      [42, 'int4'],
      [String(-(2n ** 60n)), 'int8'],
      [1.5, 'float8'],
      ['12345678901234567890.000000001', 'numeric'],
      [true, 'bool'],
      ["it's \\ ü € 🐯", 'text'],
      [Buffer.from(Array.from({ length: 256 }, (_, i) => i)), 'bytea'],
      [randomUUID(), 'uuid'],
      [new Date(Date.UTC(2024, 1, 29, 1, 2, 3, 4)), 'timestamptz'],
      [{ a: [1, null, 'ü'] }, 'jsonb'],
      [[1, null, 3], 'int4[]'],
      [['a,b', '"', '', null, 'ü'], 'text[]'],
      [[[1.5, 2.5], [3.5, 4.5]], 'float8[]'],
    ]
    for (const [value, type] of values) {
      assert.deepEqual(await one(c, `select $1::${type}`, [value]), value, type)
      assert.equal(await one(c, `select $1::${type}`, [null]), null, type)
    }
  })
)

check('binary results', [], () =>
  connected(async (c) => {
    const values = [
      [42, 'int4'],
      [true, 'bool'],
      ['ü', 'text'],
    ]
    for (const [value, type] of values) {
      const { rows } = await c.query({ text: `select $1::${type} as a`, values: [value], binary: true })
      assert.deepEqual(rows, [{ a: value }])
    }
  })
)

check('big values', [], () =>
  connected(async (c) => {
    const text = 'ü'.repeat(500_000)
    const data = Buffer.alloc(1 << 20, 'bytes')
    const { rows } = await c.query('select $1::text as text, $2::bytea as data', [text, data])
    assert.ok(rows[0].text === text && rows[0].data.equals(data))
    const many = await c.query("select repeat('x', 1000) as x from generate_series(1, 5000)")
    assert.ok(many.rows.length === 5000 && many.rows.every((row) => row.x.length === 1000))
  })
)

check('commit, rollback and savepoints', [], () =>
  connected(async (c, other) => {
    const seen = (client) => one(client, 'select array(select a from transactions order by a)')
    await c.query('create table transactions(a int)')
    await c.query('begin')
    await c.query('insert into transactions values ($1)', [1])
    assert.deepEqual(await seen(other), [])
    await c.query('savepoint s')
    await c.query('insert into transactions values ($1)', [2])
    await refused('22012', c.query('select 1/$1::int', [0]))
    await refused('25P02', c.query('select 1'))
    await c.query('rollback to s')
    await c.query('insert into transactions values ($1)', [3])
    await c.query('commit')
    assert.deepEqual(await seen(other), [1, 3])
    await c.query('begin')
    await c.query('insert into transactions values ($1)', [4])
    await refused('22012', c.query('select 1/0'))
    assert.equal((await c.query('commit')).command, 'ROLLBACK')
    assert.deepEqual(await seen(c), [1, 3])
  }, 2)
)

check('errors and their fields', [], () =>
  connected(async (c) => {
    await c.query('create table errors(a int constraint only_one unique check (a > 0))')
    await c.query('insert into errors values (1)')
    await refused('42601', c.query('selec 1'))
    await refused('42P01', c.query('select * from nowhere'))
    await refused('22P02', c.query('select $1::int', ['x']))
    await refused('23514', c.query('insert into errors values ($1)', [-1]))
    await refused('P0001', c.query("do $$ begin raise 'ü'; end $$"))
    const unique = { code: '23505', constraint: 'only_one', table: 'errors' }
    await assert.rejects(c.query('insert into errors values ($1)', [1]), unique)
    assert.equal(await one(c, 'select 1'), 1)
  })
)

check('queries queued by the driver', [], () =>
  connected(async (c) => {
    const queries = Array.from({ length: 300 }, (_, i) => one(c, 'select $1::int', [i]))
    assert.deepEqual(await Promise.all(queries), Array.from({ length: 300 }, (_, i) => i))
  })
)

check('pipelined queries', [], () =>
  connected(
    async (c) => {
      const queries = Array.from({ length: 500 }, (_, i) => one(c, 'select 700 / ($1::int % 7), repeat($2, $1)', [i, 'x']))
      const results = await Promise.allSettled(queries)
      results.forEach((result, i) => {
        if (i % 7 === 0) assert.equal(result.reason.code, '22012')
        else assert.equal(result.value, Math.trunc(700 / (i % 7)))
      })
    },
    1,
    { pipeline: true }
  )
)

check('prepared statements', ['--prepared'], () =>
  connected(async (a, b) => {
    const named = async (client, text, value) => (await client.query({ name: 'same', text, values: [value] })).rows[0].x
    const add = (i) => named(a, 'select $1::int + 1 as x', i)
    const join = (i) => named(b, "select 'b' || $1 as x", i)
    for (let i = 0; i < 20; i++) {
      assert.deepEqual(await Promise.all([add(i), join(i)]), [i + 1, `b${i}`])
      await a.query('begin')
      assert.deepEqual(await Promise.all([add(i), join(i)]), [i + 1, `b${i}`])
      await a.query('commit')
    }
    const divide = (by) => a.query({ name: 'divide', text: 'select 1 / $1::int', values: [by] })
    await refused('22012', divide(0))
    await divide(1)
    const wrong = () => a.query({ name: 'wrong', text: 'select * from nowhere' })
    await refused('42P01', wrong())
    await refused('42P01', wrong())
  }, 2)
)

check('prepared statements that their table has outgrown', ['--prepared'], () =>
  connected(async (a, b) => {
    await b.query('drop table if exists outgrown')
    await b.query('create table outgrown as select 1 as a')
    const ask = (name) => a.query({ name, text: 'select * from outgrown where a = $1', values: [1] })
    for (let i = 0; i < 5; i++) {
      // A server of one's own refuses it, and so each time another is prepared.
      const name = have.includes('--session') ? `outgrown${i}` : 'outgrown'
      assert.equal((await ask(name)).fields.length, i + 1)
      await b.query(`alter table outgrown add c${i} int`)
      if (have.includes('--session')) await refused('0A000', ask(name))
    }
    await b.query('drop table outgrown')
  }, 2)
)

check('prepared statements in a pipeline', ['--prepared'], () =>
  connected(
    async (c) => {
      const ask = (i) => c.query({ name: `p${i % 5}`, text: `select $1::int + ${i % 5} as x`, values: [i] })
      const results = await Promise.all(Array.from({ length: 200 }, (_, i) => ask(i)))
      results.forEach((result, i) => assert.equal(result.rows[0].x, i + (i % 5)))
    },
    1,
    { pipeline: true }
  )
)

check('portals read in parts', [], () =>
  connected(async (c) => {
    await c.query('begin')
    const { rows } = await c.query({ text: 'select * from generate_series(1, $1::int) g', values: [2500], rows: 100 })
    assert.deepEqual(rows.map((row) => row.g), Array.from({ length: 2500 }, (_, i) => i + 1))
    await c.query('commit')
  })
)

check('cancel', [], () =>
  connected(async (c, watcher) => {
    for (let i = 0; i < 3; i++) {
      const token = randomUUID()
      const count = "select count(*)::int from pg_stat_activity where state = 'active' and query like $1"
      const query = c.query(`select pg_sleep(60) /* ${token} */`)
      const canceled = refused('57014', query)
      while ((await one(watcher, count, [`%${token}%`])) === 0);
      const canceler = new Client()
      canceler.connection.on('error', () => {})
      // PostgreSQL closes it when the signal is sent; before that, it could hit the next query.
      const sent = new Promise((resolve) => canceler.connection.once('end', resolve))
      canceler.cancel(c, c.activeQuery)
      await Promise.all([canceled, sent])
      assert.equal(await one(c, 'select 1'), 1)
    }
  }, 2)
)

check('statement timeout', [], () =>
  connected(async (c) => {
    await c.query("begin; set local statement_timeout = '50ms'")
    await refused('57014', c.query('select pg_sleep($1)', [60]))
    await c.query('rollback')
    assert.equal(await one(c, 'select 1'), 1)
  })
)

check('many connections', [], () =>
  connected(async (...clients) => {
    const ask = async (client, nth) => {
      const token = randomUUID()
      const name = have.includes('--prepared') ? 'again' : undefined
      for (let i = 0; i < 30; i++) {
        await client.query('begin')
        assert.equal(await one(client, 'select $1 || repeat($2, $3)', [token, 'x', i * 100]), token + 'x'.repeat(i * 100))
        await client.query('commit')
        const { rows } = await client.query({ name, text: `select $1 || '/${nth}' as x`, values: [token] })
        assert.equal(rows[0].x, `${token}/${nth}`)
      }
    }
    await Promise.all(clients.map(ask))
  }, 50)
)

check('pool', [], async () => {
  const pool = new Pool({ max: 10 })
  const ask = (i) => one(pool, 'select $1::int', [i])
  assert.deepEqual(await Promise.all([...Array(500).keys()].map(ask)), [...Array(500).keys()])
  await pool.end()
})

check('reconnects', [], async () => {
  for (let i = 0; i < 50; i++) await connected(async (c) => assert.equal(await one(c, 'select $1::int', [i]), i))
  await connected(async (c) => {
    const ended = new Promise((resolve) => c.once('end', resolve))
    await assert.rejects(c.query('select pg_terminate_backend(pg_backend_pid())'))
    await ended
  })
  await connected(async (c) => assert.equal(await one(c, 'select 1'), 1))
})

check('settings stay with their client', [], () =>
  connected(async (other) => {
    const settings = { application_name: 'one' }
    await other.query("set timezone = 'America/New_York'; set datestyle = 'SQL, DMY'; set application_name = 'two'")
    await connected(
      async (c) => {
        await c.query("set timezone = 'Asia/Tokyo'")
        const query = "select '2024-02-29 12:00+00'::timestamptz::text || ' ' || current_setting('application_name')"
        for (let i = 0; i < 20; i++) {
          await c.query('begin')
          assert.equal(await one(c, query), '2024-02-29 21:00:00+09 one')
          assert.equal(await one(other, query), '29/02/2024 07:00:00 EST two')
          await c.query('commit')
          assert.equal(await one(c, query), '2024-02-29 21:00:00+09 one')
        }
      },
      1,
      settings
    )
  })
)

check('notices', [], () =>
  connected(async (c) => {
    const seen = []
    c.on('notice', (notice) => seen.push(notice.message))
    await c.query("do $$ begin for i in 1..500 loop raise notice 'ü%', i; end loop; end $$")
    assert.deepEqual(seen, Array.from({ length: 500 }, (_, i) => `ü${i + 1}`))
  })
)

check('listen and notify', ['--listen'], () =>
  connected(async (listener, notifier) => {
    const heard = []
    const all = new Promise((resolve) =>
      listener.on('notification', ({ payload }) => heard.push(payload) === 20 && resolve())
    )
    await listener.query('listen ears')
    for (let i = 0; i < 20; i++) await notifier.query('select pg_notify($1, $2)', ['ears', `ü${i}`])
    await all
    assert.deepEqual(heard, Array.from({ length: 20 }, (_, i) => `ü${i}`))
  }, 2)
)

async function main() {
  for (const { name, needs, run } of checks) {
    const lacking = needs.filter((need) => !have.includes(need))
    if (lacking.length > 0) {
      console.log(`skipped ${name}: it needs ${lacking.join(' ')}`)
      continue
    }
    try {
      await run()
      console.log(`ok ${name}`)
    } catch (error) {
      console.log(`FAILED ${name}: ${error.message.split('\n')[0]}`)
      console.error(error)
      process.exitCode = 1
    }
  }
}

main()
