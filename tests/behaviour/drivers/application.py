"""What an application does with psycopg 3, through a plaintext port: argument 1 is a libpq connection string."""

import sys

import psycopg

conninfo = sys.argv[1]

with psycopg.connect(conninfo) as connection:
    with connection.cursor() as cursor:
        cursor.execute("create temp table t (n int, s text)")
        with cursor.copy("copy t from stdin") as copy:
            for n in range(1000):
                copy.write_row((n, "row %d" % n))
        cursor.execute("select count(*), sum(n) from t")
        assert cursor.fetchone() == (1000, 499500)
        cursor.execute("select %s::int + 1", (41,), prepare=True)
        assert cursor.fetchone() == (42,)
        cursor.execute("select repeat('x', 5000000)")
        assert len(cursor.fetchone()[0]) == 5000000
    with connection.cursor("named") as cursor:
        cursor.itersize = 100
        cursor.execute("select n from t order by n")
        assert [row[0] for row in cursor] == list(range(1000))
    try:
        connection.execute("select 1/0")
    except psycopg.errors.DivisionByZero:
        connection.rollback()
    assert connection.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone() == (True,)

with psycopg.connect(conninfo, autocommit=True) as listener, psycopg.connect(conninfo, autocommit=True) as talker:
    listener.execute("listen news")
    talker.execute("notify news, 'hello'")
    assert next(listener.notifies()).payload == "hello"

print("psycopg is content")
