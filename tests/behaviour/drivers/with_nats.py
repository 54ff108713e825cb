# nats-py: arguments are the port, the user and the password.
import asyncio
import sys

import nats

port, user, password = sys.argv[1:]


async def main():
    url = f"nats://127.0.0.1:{port}"
    options = {"user": user, "password": password, "allow_reconnect": False}
    one, two = await nats.connect(url, **options), await nats.connect(url, **options)
    assert one.connected_url.port == int(port) and not one.discovered_servers, one.discovered_servers
    inbox = await two.subscribe("news")
    await two.flush()
    # The two are on different servers; the subscription has to reach both.
    for _ in range(200):
        await one.publish("news", b"x" * 100000)
        await one.flush()
        try:
            message = await inbox.next_msg(timeout=0.1)
            break
        except nats.errors.TimeoutError:
            continue
    assert message.data == b"x" * 100000
    assert not one.discovered_servers and not two.discovered_servers, one.discovered_servers
    await one.close()
    await two.close()
    print("nats-py is content")


asyncio.run(main())
