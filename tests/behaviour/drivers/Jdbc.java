import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;

/** What an application does with pgjdbc, through a plaintext port: arguments are the URL, the user, the password, and a URL that refuses. */
class Jdbc {
    public static void main(String[] arguments) throws Exception {
        try (Connection connection = DriverManager.getConnection(arguments[0], arguments[1], arguments[2])) {
            batch(connection);
            cancel(connection);
        }
        try (Connection refused = DriverManager.getConnection(arguments[3], arguments[1], arguments[2])) {
            throw new IllegalStateException("nobody refused");
        } catch (SQLException refusal) {
            System.out.println(refusal.getSQLState() + " " + refusal.getMessage());
        }
        System.out.println("JDBC is content");
    }

    private static void batch(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        try (Statement statement = connection.createStatement()) {
            statement.execute("create temp table t (n int, s text)");
        }
        try (PreparedStatement insert = connection.prepareStatement("insert into t values (?, ?)")) {
            for (int n = 0; n < 1000; n++) {
                insert.setInt(1, n);
                insert.setString(2, "row " + n);
                insert.addBatch();
            }
            insert.executeBatch();
        }
        connection.commit();
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(100);
            long sum = 0;
            try (ResultSet rows = statement.executeQuery("select n from t")) {
                while (rows.next()) {
                    sum += rows.getInt(1);
                }
            }
            if (sum != 499500) {
                throw new IllegalStateException("the sum is " + sum);
            }
        }
        connection.commit();
        connection.setAutoCommit(true);
    }

    /** A cancel is a connection of its own; the driver waits for its end before it goes on. */
    private static void cancel(Connection connection) throws Exception {
        ScheduledExecutorService later = Executors.newSingleThreadScheduledExecutor();
        try (Statement statement = connection.createStatement()) {
            later.schedule(() -> {
                statement.cancel();
                return null;
            }, 500, TimeUnit.MILLISECONDS);
            statement.execute("select pg_sleep(60)");
            throw new IllegalStateException("the query was not cancelled");
        } catch (SQLException cancelled) {
            if (!"57014".equals(cancelled.getSQLState())) {
                throw cancelled;
            }
        } finally {
            later.shutdownNow();
        }
        try (Statement statement = connection.createStatement(); ResultSet row = statement.executeQuery("select 1")) {
            row.next();
        }
    }
}
