"""Starts a program, keeps the descriptors that it hands over as systemd's store does, and starts it again with them.

keeper.py PROGRAM ARGUMENT …   NOTIFY_SOCKET: what the program says is passed on there. Ends with the program's second end.
"""

import ctypes
import os
import signal
import socket
import sys
import tempfile

outer = os.environ["NOTIFY_SOCKET"]
inner = os.path.join(tempfile.mkdtemp(), "notify")
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(inner)
notify.settimeout(0.05)
forward = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
store = []  # of (name, descriptor)


def start():
    process = os.fork()
    if process:
        return process
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it does not outlive us
    high = []
    for _, number in store:
        while number < 100 or number in high:
            number = os.dup2(number, 100 + len(high))
        high.append(number)
    for index, number in enumerate(high):
        os.dup2(number, 3 + index, inheritable=True)
    environment = dict(os.environ, NOTIFY_SOCKET=inner, FDSTORE="64")
    if store:
        environment.update(
            LISTEN_PID=str(os.getpid()),
            LISTEN_FDS=str(len(store)),
            LISTEN_FDNAMES=":".join(name for name, _ in store),
        )
    os.execve(sys.argv[1], sys.argv[1:], environment)


def hear():
    try:
        words, descriptors, _, _ = socket.recv_fds(notify, 4096, 16)
    except TimeoutError:
        return False
    lines = words.decode().split("\n")
    name = next((line.removeprefix("FDNAME=") for line in lines if line.startswith("FDNAME=")), "stored")
    if "FDSTOREREMOVE=1" in lines:
        for item in [item for item in store if item[0] == name]:
            os.close(item[1])
            store.remove(item)
    if "FDSTORE=1" in lines:
        store.extend((name, number) for number in descriptors)
    forward.sendto(words, outer)
    return True


status = 0
for _ in range(2):
    process = start()
    while True:
        hear()
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            while hear():  # its last words
                pass
            break
sys.exit(os.waitstatus_to_exitcode(status))
