"""pg8000, which is Python through and through: arguments are the port, the user and the password."""

import sys

import pg8000

try:
    connection = pg8000.connect(host="127.0.0.1", port=int(sys.argv[1]), user=sys.argv[2], password=sys.argv[3],
                                database="postgres")
    cursor = connection.cursor()
    cursor.execute("select 6 * %s", (7,))
    print(cursor.fetchone()[0])
    connection.close()
except Exception as error:
    sys.exit("%s: %s" % (type(error).__name__, error))
