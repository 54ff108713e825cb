import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;

/** What an application does with MariaDB Connector/J: ConnectorJ.java URL USER [PASSWORD]. */
public class ConnectorJ {
    public static void main(String[] arguments) throws Exception {
        Class.forName("org.mariadb.jdbc.Driver");
        String password = arguments.length > 2 ? arguments[2] : null;
        try (Connection connection = DriverManager.getConnection(arguments[0], arguments[1], password)) {
            try (PreparedStatement statement = connection.prepareStatement("select ? + 1, repeat('x', 100000)")) {
                statement.setInt(1, 41);
                ResultSet result = statement.executeQuery();
                result.next();
                if (result.getInt(1) != 42 || result.getString(2).length() != 100000) {
                    throw new AssertionError("a wrong answer");
                }
            }
        }
        System.out.println("Connector/J is content");
    }
}
