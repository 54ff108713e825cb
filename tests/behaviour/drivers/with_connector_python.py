# mysql-connector-python, the implementation in Python: arguments are the port, the user and the password.
import sys

import mysql.connector

port, user, password = sys.argv[1:]
connection = mysql.connector.connect(
    host="127.0.0.1", port=int(port), user=user, password=password, database="shop", use_pure=True, ssl_disabled=True
)
cursor = connection.cursor()
cursor.execute("select 6 * %s", (7,))
print(cursor.fetchone()[0])
connection.close()
