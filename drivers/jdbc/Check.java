// Tries PostgreSQL's JDBC driver: see drivers/README.md. Java starts this file as it is, without a build.

import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.*;
import java.time.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.*;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;
import org.postgresql.util.PGobject;
import org.postgresql.util.PSQLException;

public class Check {
  interface Body {
    void run() throws Exception;
  }

  static Set<String> have;
  static boolean failed;

  public static void main(String[] args) {
    have = Set.of(args);
    check("simple queries", Check::simpleQueries);
    check("parameters of many types", Check::parametersOfManyTypes);
    check("binary results", Check::binaryResults, "--prepared");
    check("big values", Check::bigValues);
    check("commit, rollback and savepoints", Check::commitRollbackAndSavepoints);
    check("autosave", Check::autosave);
    check("errors and their fields", Check::errorsAndTheirFields);
    check("copy in and out", Check::copyInAndOut);
    check("batches", Check::batches);
    check("generated keys", Check::generatedKeys);
    check("query modes", Check::queryModes);
    check("prepared statements", Check::preparedStatements, "--prepared");
    check("prepared statements that are closed", Check::preparedStatementsThatAreClosed, "--prepared");
    check("fetch size", Check::fetchSize);
    check("fetch size of prepared statements", Check::fetchSizeOfPreparedStatements, "--prepared");
    check("cancel", Check::cancel);
    check("query timeout", Check::queryTimeout);
    check("many connections", Check::manyConnections);
    check("reconnects", Check::reconnects);
    check("settings stay with their client", Check::settingsStayWithTheirClient);
    check("notices", Check::notices);
    check("listen and notify", Check::listenAndNotify, "--listen");
    System.exit(failed ? 1 : 0);
  }

  static void check(String name, Body body, String... needs) {
    var lacking = Stream.of(needs).filter(need -> !have.contains(need)).collect(Collectors.joining(" "));
    if (!lacking.isEmpty()) {
      System.out.println("skipped " + name + ": it needs " + lacking);
      return;
    }
    try {
      body.run();
      System.out.println("ok " + name);
    } catch (Exception | AssertionError error) {
      failed = true;
      System.out.println("FAILED " + name + ": " + String.valueOf(error.getMessage()).lines().findFirst().orElse(""));
      error.printStackTrace();
    }
  }

  // Properties as in a URL: `name=value`. A prepareThreshold of 0 is the driver's way to prepare nothing by name. With a
  // time limit the driver's sockets do not block, and only such ones may use the kernel path.
  static Connection connect(String... more) throws SQLException {
    var properties = new Properties();
    properties.setProperty("user", System.getenv("PGUSER"));
    properties.setProperty("password", System.getenv("PGPASSWORD"));
    properties.setProperty("socketTimeout", "60");
    if (!have.contains("--prepared")) properties.setProperty("prepareThreshold", "0");
    for (var property : more) {
      var parts = property.split("=", 2);
      properties.setProperty(parts[0], parts[1]);
    }
    var place = System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE");
    return DriverManager.getConnection("jdbc:postgresql://" + place, properties);
  }

  static void execute(Connection connection, String sql) throws SQLException {
    try (var statement = connection.createStatement()) {
      statement.execute(sql);
    }
  }

  // The first column of all rows.
  static List<Object> column(Connection connection, String sql, Object... parameters) throws SQLException {
    try (var statement = connection.prepareStatement(sql)) {
      for (int i = 0; i < parameters.length; i++) statement.setObject(i + 1, parameters[i]);
      var values = new ArrayList<>();
      try (var rows = statement.executeQuery()) {
        while (rows.next()) values.add(rows.getObject(1));
      }
      return values;
    }
  }

  static Object one(Connection connection, String sql, Object... parameters) throws SQLException {
    return column(connection, sql, parameters).get(0);
  }

  static void equal(Object expected, Object actual) {
    if (!Objects.deepEquals(expected, actual)) throw new AssertionError("expected " + expected + ", got " + actual);
  }

  // Runs what must fail with this SQLSTATE, and gives the error.
  static PSQLException refused(String state, Body body) throws Exception {
    try {
      body.run();
    } catch (PSQLException error) {
      equal(state, error.getSQLState());
      return error;
    }
    throw new AssertionError("no error " + state);
  }

  static void simpleQueries() throws Exception {
    try (var c = connect(); var statement = c.createStatement()) {
      equal(true, statement.execute("select 1; select 'ü', null; create temp table t(a int)"));
      equal(true, statement.getMoreResults());
      var row = statement.getResultSet();
      equal(true, row.next());
      equal("ü", row.getString(1));
      equal(null, row.getString(2));
      equal(false, statement.getMoreResults());
    }
  }

  static void parametersOfManyTypes() throws Exception {
    try (var c = connect()) {
      var bytes = new byte[256];
      for (int i = 0; i < 256; i++) bytes[i] = (byte) i;
      for (var value : List.of(42, -(1L << 60), 1.5, true, "it's \\ ü € 🐯", bytes, new UUID(1, 2),
          new BigDecimal("12345678901234567890.000000001"))) {
        equal(value, one(c, "select ?", value));
      }
      try (var statement = c.prepareStatement("select ?::int, ?::date, ?::timestamptz, ?::jsonb, ?::int[], ?::text[]")) {
        var day = LocalDate.of(2024, 2, 29);
        var time = OffsetDateTime.of(2024, 2, 29, 1, 2, 3, 4000, ZoneOffset.UTC);
        var json = new PGobject();
        json.setType("jsonb");
        json.setValue("{\"a\": [1, null, \"ü\"]}");
        statement.setNull(1, Types.INTEGER);
        statement.setObject(2, day);
        statement.setObject(3, time);
        statement.setObject(4, json);
        statement.setArray(5, c.createArrayOf("int4", new Integer[] {1, null, 3}));
        statement.setArray(6, c.createArrayOf("text", new String[] {"a,b", "\"", "", null, "ü"}));
        for (int i = 0; i < 10; i++) {
          try (var row = statement.executeQuery()) {
            equal(true, row.next());
            row.getInt(1);
            equal(true, row.wasNull());
            equal(day, row.getObject(2, LocalDate.class));
            equal(time.toInstant(), row.getObject(3, OffsetDateTime.class).toInstant());
            equal(json, row.getObject(4));
            equal(new Integer[] {1, null, 3}, row.getArray(5).getArray());
            equal(new String[] {"a,b", "\"", "", null, "ü"}, row.getArray(6).getArray());
          }
        }
      }
    }
  }

  // The driver asks for binary results only of statements that it has prepared by name.
  static void binaryResults() throws Exception {
    try (var c = connect("prepareThreshold=-1")) {
      for (int i = 0; i < 10; i++) {
        equal(i, one(c, "select ?::int", i));
        equal(i / 2.0, one(c, "select ?::float8 / 2", (double) i));
        equal(new byte[] {0, 1, (byte) i}, one(c, "select ?::bytea", (Object) new byte[] {0, 1, (byte) i}));
      }
    }
  }

  static void bigValues() throws Exception {
    try (var c = connect()) {
      var text = "ü".repeat(500_000);
      equal(text, one(c, "select ?", text));
      var bytes = new byte[1 << 20];
      new Random(1).nextBytes(bytes);
      equal(bytes, one(c, "select ?", (Object) bytes));
      equal(5000, column(c, "select repeat('x', 1000) from generate_series(1, 5000)").size());
    }
  }

  static void commitRollbackAndSavepoints() throws Exception {
    try (var c = connect(); var other = connect()) {
      execute(c, "create table transactions(a int)");
      c.setAutoCommit(false);
      c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
      execute(c, "insert into transactions values (1)");
      equal(List.of(), column(other, "select a from transactions"));
      var savepoint = c.setSavepoint();
      execute(c, "insert into transactions values (2)");
      refused("22012", () -> one(c, "select 1 / ?", 0));
      refused("25P02", () -> one(c, "select 1"));
      c.rollback(savepoint);
      execute(c, "insert into transactions values (3)");
      c.commit();
      execute(c, "insert into transactions values (4)");
      c.rollback();
      equal(List.of(1, 3), column(other, "select a from transactions order by a"));
    }
  }

  // With it the driver sets a savepoint before each statement, in the same packet.
  static void autosave() throws Exception {
    try (var c = connect("autosave=always")) {
      c.setAutoCommit(false);
      for (int i = 0; i < 10; i++) {
        refused("22012", () -> one(c, "select 1 / ?", 0));
        equal(i, one(c, "select ?::int", i));
      }
      c.commit();
    }
  }

  static void errorsAndTheirFields() throws Exception {
    try (var c = connect()) {
      execute(c, "create table errors(a int constraint only_one unique check (a > 0)); insert into errors values (1)");
      refused("42601", () -> execute(c, "selec 1"));
      refused("42P01", () -> execute(c, "select * from nowhere"));
      refused("22P02", () -> one(c, "select ?::text::int", "x"));
      refused("23514", () -> execute(c, "insert into errors values (-1)"));
      refused("P0001", () -> execute(c, "do $$ begin raise 'ü'; end $$"));
      var error = refused("23505", () -> execute(c, "insert into errors values (1)"));
      equal("only_one", error.getServerErrorMessage().getConstraint());
      equal(1, one(c, "select 1"));
    }
  }

  static void copyInAndOut() throws Exception {
    try (var c = connect()) {
      execute(c, "create table copied(a int, b text)");
      var copy = new CopyManager(c.unwrap(org.postgresql.core.BaseConnection.class));
      var lines = IntStream.range(0, 20_000).mapToObj(i -> i + "\tü" + i + "\n").collect(Collectors.joining());
      equal(20_000L, copy.copyIn("copy copied from stdin", new StringReader(lines)));
      var out = new StringWriter();
      copy.copyOut("copy (select * from copied order by a) to stdout", out);
      equal(lines, out.toString());
      var bad = new StringReader("no number\tx\n" + lines);
      refused("22P02", () -> copy.copyIn("copy copied from stdin", bad));
      var givenUp = copy.copyIn("copy copied from stdin");
      givenUp.cancelCopy();
      equal(20_000L, one(c, "select count(*) from copied"));
    }
  }

  static void batches() throws Exception {
    for (var rewrite : List.of("false", "true")) {
      try (var c = connect("reWriteBatchedInserts=" + rewrite)) {
        execute(c, "drop table if exists batches; create table batches(a int, b text)");
        try (var insert = c.prepareStatement("insert into batches values (?, ?)")) {
          for (int i = 0; i < 2000; i++) {
            insert.setInt(1, i);
            insert.setString(2, "ü" + i);
            insert.addBatch();
          }
          equal(2000, insert.executeBatch().length);
        }
        equal(1_999_000L, one(c, "select sum(a) from batches"));
        try (var divide = c.prepareStatement("insert into batches values (1 / ?, '')")) {
          for (int i : List.of(1, 0, 1)) {
            divide.setInt(1, i);
            divide.addBatch();
          }
          equal("22012", assertBatchFails(divide).getSQLState());
        }
        equal(2000L, one(c, "select count(*) from batches"));
      }
    }
  }

  static BatchUpdateException assertBatchFails(PreparedStatement statement) throws SQLException {
    try {
      statement.executeBatch();
    } catch (BatchUpdateException error) {
      return error;
    }
    throw new AssertionError("the batch did not fail");
  }

  static void generatedKeys() throws Exception {
    try (var c = connect()) {
      execute(c, "create table keys(id serial, a text)");
      try (var insert = c.prepareStatement("insert into keys(a) values (?)", Statement.RETURN_GENERATED_KEYS)) {
        for (int i = 1; i <= 10; i++) {
          insert.setString(1, "x");
          equal(1, insert.executeUpdate());
          var keys = insert.getGeneratedKeys();
          equal(true, keys.next());
          equal(i, keys.getInt(1));
        }
      }
    }
  }

  // How the driver sends a query; `extended` ones are the default, so all the others.
  static void queryModes() throws Exception {
    for (var mode : List.of("simple", "extendedForPrepared")) {
      try (var c = connect("preferQueryMode=" + mode)) {
        for (int i = 0; i < 10; i++) {
          equal(i, one(c, "select ?::int", i));
          equal("it's", one(c, "select ?::text", "it's"));
        }
      }
    }
  }

  static void preparedStatements() throws Exception {
    for (var threshold : List.of("1", "5")) {
      try (var a = connect("prepareThreshold=" + threshold); var b = connect("prepareThreshold=" + threshold)) {
        try (var add = a.prepareStatement("select ?::int + 1"); var join = b.prepareStatement("select 'b' || ?")) {
          for (int i = 0; i < 20; i++) {
            a.setAutoCommit(i % 2 == 0);
            add.setInt(1, i);
            join.setString(1, "" + i);
            try (var left = add.executeQuery(); var right = join.executeQuery()) {
              equal(true, left.next() && right.next());
              equal(i + 1, left.getInt(1));
              equal("b" + i, right.getString(1));
            }
            if (!a.getAutoCommit()) a.commit();
          }
        }
        a.setAutoCommit(true);
        refused("22012", () -> one(a, "select 1 / ?", 0));
        equal(1, one(a, "select 1 / ?", 1));
      }
    }
  }

  // A small cache closes what falls out of it.
  static void preparedStatementsThatAreClosed() throws Exception {
    try (var c = connect("prepareThreshold=1", "preparedStatementCacheQueries=3")) {
      for (int i = 0; i < 200; i++) {
        equal(i + "/" + i % 10, one(c, "select ? || '/" + i % 10 + "'", "" + i));
      }
    }
  }

  static void fetchSize() throws Exception {
    readInParts("prepareThreshold=0");
  }

  static void fetchSizeOfPreparedStatements() throws Exception {
    readInParts("prepareThreshold=1");
  }

  static void readInParts(String threshold) throws Exception {
    try (var c = connect(threshold)) {
      c.setAutoCommit(false); // A portal ends with its transaction.
      try (var statement = c.prepareStatement("select * from generate_series(1, ?)")) {
        statement.setInt(1, 2500);
        statement.setFetchSize(100);
        for (int round = 0; round < 3; round++) {
          try (var rows = statement.executeQuery()) {
            for (int i = 1; i <= 2500; i++) {
              equal(true, rows.next());
              equal(i, rows.getInt(1));
              if (i == 150) equal(1, one(c, "select 1")); // Something else between two parts.
            }
            equal(false, rows.next());
          }
        }
      }
      c.commit();
    }
  }

  static void cancel() throws Exception {
    var executor = Executors.newSingleThreadExecutor();
    try (var c = connect(); var watcher = connect(); var statement = c.createStatement()) {
      for (int i = 0; i < 3; i++) {
        var token = UUID.randomUUID().toString();
        var query = executor.submit(() -> refused("57014", () -> statement.execute("select pg_sleep(60) /* " + token + " */")));
        var count = "select count(*) from pg_stat_activity where state = 'active' and query like ?";
        while (one(watcher, count, "%" + token + "%").equals(0L));
        statement.cancel();
        query.get();
        equal(1, one(c, "select 1"));
      }
    } finally {
      executor.shutdownNow();
    }
  }

  static void queryTimeout() throws Exception {
    try (var c = connect(); var statement = c.createStatement()) {
      statement.setQueryTimeout(1);
      refused("57014", () -> statement.execute("select pg_sleep(60)"));
      equal(true, statement.execute("select 1"));
    }
  }

  static void manyConnections() throws Exception {
    var together = new CyclicBarrier(50);
    var executor = Executors.newFixedThreadPool(50);
    try {
      Callable<Void> ask = () -> askForToken(together);
      for (var done : executor.invokeAll(Collections.nCopies(50, ask))) done.get();
    } finally {
      executor.shutdownNow();
    }
  }

  static Void askForToken(CyclicBarrier together) throws Exception {
    var token = UUID.randomUUID().toString();
    try (var c = connect()) {
      together.await();
      for (int i = 0; i < 30; i++) {
        c.setAutoCommit(false);
        equal(token.repeat(i), one(c, "select repeat(?, ?)", token, i));
        c.commit();
        c.setAutoCommit(true);
        equal("again " + token, one(c, "select 'again ' || ?", token));
      }
    }
    return null;
  }

  static void reconnects() throws Exception {
    for (int i = 0; i < 50; i++) {
      try (var c = connect()) {
        equal(i, one(c, "select ?::int", i));
      }
    }
    try (var c = connect()) {
      refused("57P01", () -> execute(c, "select pg_terminate_backend(pg_backend_pid())"));
      equal(false, c.isValid(60));
    }
    try (var c = connect()) {
      equal(true, c.isValid(60));
    }
  }

  static void settingsStayWithTheirClient() throws Exception {
    var query = "select '2024-02-29 12:00+00'::timestamptz::text || ' ' || current_setting('application_name')";
    try (var c = connect("ApplicationName=one"); var other = connect("ApplicationName=at login")) {
      execute(c, "set timezone = 'Asia/Tokyo'");
      execute(other, "set timezone = 'America/New_York'");
      other.setClientInfo("ApplicationName", "two");
      for (int i = 0; i < 20; i++) {
        c.setAutoCommit(i % 2 == 0);
        equal("2024-02-29 21:00:00+09 one", one(c, query));
        equal("2024-02-29 07:00:00-05 two", one(other, query));
        if (!c.getAutoCommit()) c.commit();
      }
    }
  }

  static void notices() throws Exception {
    try (var c = connect(); var statement = c.createStatement()) {
      statement.execute("do $$ begin for i in 1..500 loop raise notice 'ü%', i; end loop; end $$");
      int i = 0;
      for (var notice = statement.getWarnings(); notice != null; notice = notice.getNextWarning()) {
        equal("ü" + ++i, notice.getMessage());
      }
      equal(500, i);
    }
  }

  static void listenAndNotify() throws Exception {
    try (var listener = connect(); var notifier = connect()) {
      execute(listener, "listen ears");
      for (int i = 0; i < 20; i++) one(notifier, "select pg_notify('ears', ?)", "ü" + i);
      var heard = new ArrayList<String>();
      while (heard.size() < 20) {
        for (var notification : listener.unwrap(PGConnection.class).getNotifications(0)) {
          heard.add(notification.getParameter());
        }
      }
      equal(IntStream.range(0, 20).mapToObj(i -> "ü" + i).toList(), heard);
    }
  }
}
