"""Queries on several connections, each cancelled by psycopg (PQcancel): argument 1 is a libpq connection string.

Prints the ports of the servers that these connections led to."""

import sys
import threading

import psycopg

connections = [psycopg.connect(sys.argv[1], autocommit=True) for _ in range(4)]
ports = {connection.execute("select inet_server_port()").fetchone()[0] for connection in connections}


def sleep(connection):
    try:
        connection.execute("select pg_sleep(60)")
    except psycopg.errors.QueryCanceled:
        return
    raise AssertionError("the query was not cancelled")


for connection in connections:
    later = threading.Timer(0.1, connection.cancel)
    later.start()
    sleep(connection)
    later.join()
    assert connection.execute("select 1").fetchone() == (1,)
print(*sorted(ports))
