# PyMySQL: arguments are the port, the user and the password.
import sys

import pymysql

port, user, password = sys.argv[1:]
connection = pymysql.connect(host="127.0.0.1", port=int(port), user=user, password=password, database="shop")
with connection.cursor() as cursor:
    cursor.execute("select 6 * %s", (7,))
    print(cursor.fetchone()[0])
connection.close()
