"""Connects as whoever runs it. Arguments: HOST:PORT or the path of a unix socket, then in any order:

  from=PORT   bind to that port of 127.0.0.1 first
  mapped      write the IPv4 address as an IPv6 one
  device=NAME bind to that interface
  become=UID  make the socket, then become that user, then connect
  after=UID   make the socket, connect, then become that user
  hand=UID    connect in a process that ends, and go on in a child of it that is that user; print `handed` before
  owned=UID   make the socket, give it to that user by fchown, then connect
  reset       say `hello` and reset the connection at once
  say=HEX     say these bytes instead of `hello`
  flood=N     make N connections, one after the other, keep those that are served, and print how many `served N`
  storm       make connections in eight threads and close them again until stdin ends; print `storm` once they have begun
  crowd=N     make N connections at once, print `crowd`, and close each when it has been served
  again       whoever of the crowd was served comes again, until stdin ends
  word=TEXT   what each of them says instead of `hello`
  hold=MS     and keeps its connection so long first

Prints `got TEXT` for what came back, `end` or `reset`; then keeps the connection until its stdin ends."""

import os
import socket
import struct
import sys
import threading
import time

target, options = sys.argv[1], dict(option.partition("=")[::2] for option in sys.argv[2:])


def become(user):
    os.setgroups([])
    os.setgid(int(user))
    os.setuid(int(user))


def hold(count):
    served = []
    for _ in range(count):
        try:
            connection = socket.create_connection(address, timeout=30)
            connection.sendall(options.get("word", "hello").encode())
            if connection.recv(100):
                served.append(connection)
        except OSError:
            pass
    return served


def storm():
    while True:
        hold(20)


def one_of_the_crowd():
    while True:
        # By name: an unnamed socket would be closed at once.
        served = hold(1)
        if served:
            time.sleep(int(options.get("hold", 0)) / 1000)
        del served
        if "again" not in options:
            return


def handed_on():
    """Connects in a process that is gone when this returns, in its child."""
    alone, changed = os.pipe()
    if os.fork():
        os.wait()
        os.read(alone, 1)
        print("handed", flush=True)
        sys.stdin.read()
        os._exit(0)
    connection.connect(address)
    if os.fork():
        os._exit(0)
    become(options["hand"])
    os.write(changed, b"x")


if target.startswith("/"):
    connection = socket.socket(socket.AF_UNIX)
    address = target
else:
    host, port = target.rsplit(":", 1)
    family = socket.AF_INET6 if "mapped" in options or ":" in host else socket.AF_INET
    connection = socket.socket(family)
    address = ("::ffff:" + host if "mapped" in options else host.strip("[]"), int(port))
if "flood" in options:
    served = hold(int(options["flood"]))
    print("served", len(served), flush=True)
    sys.stdin.read()
    sys.exit()
if "storm" in options:
    hold(1)
    for _ in range(8):
        threading.Thread(target=storm, daemon=True).start()
    print("storm", flush=True)
    sys.stdin.read()
    os._exit(0)
if "crowd" in options:
    for _ in range(int(options["crowd"])):
        threading.Thread(target=one_of_the_crowd, daemon=True).start()
    print("crowd", flush=True)
    sys.stdin.read()
    os._exit(0)
connection.settimeout(30)
if "device" in options:
    connection.setsockopt(socket.SOL_SOCKET, 25, options["device"].encode() + b"\0")
if "from" in options:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    connection.bind(("127.0.0.1", int(options["from"])))
if "become" in options:
    become(options["become"])
if "owned" in options:
    os.fchown(connection.fileno(), int(options["owned"]), -1)
try:
    if "hand" in options:
        handed_on()
    else:
        connection.connect(address)
    if "after" in options:
        become(options["after"])
    connection.sendall(bytes.fromhex(options["say"]) if "say" in options else b"hello")
    if "reset" in options:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        sys.exit()
    got = connection.recv(65536)
    print("got " + got.decode(errors="replace") if got else "end", flush=True)
except (ConnectionResetError, BrokenPipeError):
    print("reset", flush=True)
sys.stdin.read()
