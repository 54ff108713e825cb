"""A login by hand, for what no driver can be made to say. Arguments: the port, the gs2 flag (n or y), the user, the password.

Prints the server's offer, and then `in`, or the SQLSTATE and the words of the refusal."""

import base64
import hashlib
import hmac
import socket
import struct
import sys

port, flag, user, password = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
connection = socket.create_connection(("127.0.0.1", port), timeout=30)
stream = connection.makefile("rb")


def read():
    kind = stream.read(1)
    (length,) = struct.unpack(">i", stream.read(4))
    body = stream.read(length - 4)
    if kind == b"E":
        fields = {field[:1]: field[1:].decode() for field in body.split(b"\0") if field}
        print("refused", fields[b"C"], fields[b"M"])
        assert stream.read(1) == b"", "a refusal is followed by the end"
        sys.exit(0)
    return kind, body


def answer(body):
    connection.sendall(b"p" + struct.pack(">i", len(body) + 4) + body)


parameters = b"user\0%s\0database\0postgres\0\0" % user.encode()
connection.sendall(struct.pack(">ihh", len(parameters) + 8, 3, 0) + parameters)
kind, body = read()
assert kind == b"R" and body[:4] == b"\0\0\0\x0a", (kind, body)
print("offer", *[name.decode() for name in body[4:].split(b"\0") if name])

bare = b"n=,r=0123456789abcdefghij"
first = flag.encode() + b",," + bare
answer(b"SCRAM-SHA-256\0" + struct.pack(">i", len(first)) + first)
kind, body = read()
assert kind == b"R" and body[:4] == b"\0\0\0\x0b", (kind, body)
challenge = body[4:]
nonce, salt, rounds = [part[2:] for part in challenge.split(b",")]
final = b"c=" + base64.b64encode(flag.encode() + b",,") + b",r=" + nonce


def mac(key, words):
    return hmac.new(key, words, hashlib.sha256).digest()


client = mac(hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(rounds)), b"Client Key")
signature = mac(hashlib.sha256(client).digest(), bare + b"," + challenge + b"," + final)
proof = bytes(a ^ b for a, b in zip(client, signature))
answer(final + b",p=" + base64.b64encode(proof))
kind, body = read()
assert kind == b"R" and body[:4] == b"\0\0\0\x0c", (kind, body)
kind, body = read()
assert (kind, body) == (b"R", b"\0\0\0\0"), (kind, body)
print("in")
