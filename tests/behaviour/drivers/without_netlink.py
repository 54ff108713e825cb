"""Runs a program that gets no AF_NETLINK socket, as under systemd's `RestrictAddressFamilies=` without it. Arguments: the
program and its own. Exits with 77 where the kernel takes no such filter."""

import ctypes
import os
import platform
import struct
import sys

SOCKET = {"x86_64": 41, "aarch64": 198}.get(platform.machine())
AF_NETLINK = 16
EAFNOSUPPORT = 97
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
NUMBER, FIRST_ARGUMENT = 0, 16  # of struct seccomp_data

filter = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in [
        (LOAD, 0, 0, NUMBER),
        (JUMP_IF_EQUAL, 0, 3, SOCKET or 0),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (JUMP_IF_EQUAL, 0, 1, AF_NETLINK),
        (RETURN, 0, 0, ERRNO | EAFNOSUPPORT),
        (RETURN, 0, 0, ALLOW),
    ]
)
buffer = ctypes.create_string_buffer(filter, len(filter))
program = struct.pack("HxxxxxxP", len(filter) // 8, ctypes.addressof(buffer))
prctl = ctypes.CDLL(None).prctl
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER = 38, 22, 2
if SOCKET is None or prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(PR_SET_SECCOMP, MODE_FILTER, program, 0, 0):
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
