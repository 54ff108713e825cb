import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.util.Properties;

/** pgjdbc with default settings, whose user and password are nobody's: JdbcSignedIn.java URL. */
class JdbcSignedIn {
    public static void main(String[] arguments) throws Exception {
        String[][] logins = {{null, null}, {"anybody", null}, {"anybody", ""}, {"anybody", "placeholder"}};
        for (String[] login : logins) {
            Properties properties = new Properties();
            if (login[0] != null) {
                properties.setProperty("user", login[0]);
            }
            if (login[1] != null) {
                properties.setProperty("password", login[1]);
            }
            try (Connection connection = DriverManager.getConnection(arguments[0], properties);
                    ResultSet row = connection.createStatement().executeQuery("select current_user, current_database()")) {
                row.next();
                System.out.println(row.getString(1) + " " + row.getString(2));
            }
        }
        System.out.println("JDBC is content");
    }
}
