"""asyncpg, which has no line of libpq: arguments are the port, the user and the password."""

import asyncio
import sys

import asyncpg


async def main():
    connection = await asyncpg.connect(host="127.0.0.1", port=int(sys.argv[1]), user=sys.argv[2], password=sys.argv[3],
                                       database="postgres")
    print(await connection.fetchval("select 6 * $1::int", 7))
    try:
        # It cancels on a connection of its own.
        await connection.execute("select pg_sleep(60)", timeout=0.1)
    except asyncio.TimeoutError:
        print(await connection.fetchval("select 'cancelled'"))
    await connection.close()


try:
    asyncio.run(main())
except Exception as error:
    sys.exit("%s: %s" % (type(error).__name__, error))
