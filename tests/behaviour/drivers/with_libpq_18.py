# psycopg with the libpq that it brings, which has to be 18: arguments are the port, the user and the password.
import sys

import psycopg

port, user, password = sys.argv[1:]
assert psycopg.pq.__impl__ == "binary" and psycopg.pq.version() >= 180000, (psycopg.pq.__impl__, psycopg.pq.version())
base = {"host": "127.0.0.1", "port": port, "user": user, "password": password, "dbname": "postgres"}
for more in [{"sslmode": "disable"}, {"sslmode": "prefer"}, {"max_protocol_version": "latest"}]:
    with psycopg.connect(**base, **more) as connection:
        print(connection.execute("select 6 * %s", (7,)).fetchone()[0])
        # A cancel by the new API, which asks for encryption as the session did.
        connection.cancel_safe()
