"""Runs a program on a kernel that seems to have no Landlock: a filter answers its system calls.

without_landlock.py ERRNO PROGRAM ARGUMENT …
"""

import ctypes
import errno
import os
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x00050000, 0x7FFF0000
LD_ABS, JUMP_GE, JUMP_GT, RETURN = 0x20, 0x35, 0x25, 0x06
FIRST, LAST = 444, 446  # landlock_create_ruleset(2) and the two behind it, on every architecture

answer = SECCOMP_RET_ERRNO | getattr(errno, sys.argv[1])
steps = [
    (LD_ABS, 0, 0, 0),
    (JUMP_GE, 0, 2, FIRST),
    (JUMP_GT, 1, 0, LAST),
    (RETURN, 0, 0, answer),
    (RETURN, 0, 0, SECCOMP_RET_ALLOW),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]


program = Program(len(steps), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
    PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.argv[2], sys.argv[2:])
