"""Starts a program as systemd starts a service for its sockets: bound here, passed by descriptor and name.

activate.py NAME=KIND:ADDRESS … -- PROGRAM ARGUMENT …   KIND: tcp, udp, unix, seqpacket, file, connected

BIND_IN=PATH in the environment: they are bound in the network namespace of that path, and the program runs in ours.
"""

import ctypes

import os
import socket
import sys

CLONE_NEWNET = 0x40000000
ours = os.open("/proc/self/ns/net", os.O_RDONLY)


def enter(namespace):
    if ctypes.CDLL(None).setns(namespace, CLONE_NEWNET):
        sys.exit("setns: not permitted")


is_elsewhere = "BIND_IN" in os.environ
if is_elsewhere:
    enter(os.open(os.environ.pop("BIND_IN"), os.O_RDONLY))
split = sys.argv.index("--")
names, passed, others = [], [], []
for spec in sys.argv[1:split]:
    name, rest = spec.split("=", 1)
    kind, address = rest.split(":", 1)
    if kind in ("tcp", "udp"):
        host, port = address.rsplit(":", 1)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
        made.bind((host, int(port)))
        if kind == "tcp":
            made.listen(128)
    elif kind in ("unix", "seqpacket"):
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if kind == "unix" else socket.SOCK_SEQPACKET)
        made.bind("\0" + address[1:] if address.startswith("@") else address)
        made.listen(128)
    elif kind == "connected":
        made, other = socket.socketpair()
        others.append(other.detach())
    else:
        made = open(address)
    names.append(name)
    passed.append(made)

if is_elsewhere:
    enter(ours)
# Moved to high numbers first, so that none overwrites another.
high = []
for made in passed:
    number = made.fileno()
    while number < 100 or number in high:
        number = os.dup2(number, 100 + len(high))
    high.append(number)
for index, number in enumerate(high):
    os.dup2(number, 3 + index, inheritable=True)

environment = dict(os.environ, LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=":".join(names))
program = sys.argv[split + 1 :]
os.execve(program[0], program, environment)
