# SPDX-License-Identifier: LGPL-3.0-or-later
"""Changes that are made though the client was told otherwise.

Usage: late_changes.py ADDRESS PORT DIRECTORY names DISK   exportd, with its data there, changes names late
       late_changes.py ADDRESS PORT DIRECTORY write        a file to be cut
       late_changes.py ADDRESS PORT DIRECTORY cut          it is cut while nodes are missing
"""
import subprocess
import sys
import time

import nfs41_client as nfs

MISSING, THERE, AGAIN = 2, 17, 10008  # NFS4ERR_NOENT, _EXIST, _DELAY
MODE_BIT = 1 << 1  # in the second word of a bitmap


def walk(path):
    return [nfs.word(24)] + [nfs.word(15) + nfs.opaque(name.encode()) for name in path]


def look_up(client, path):
    return client.call(walk(path))[0]


def make_directory(client, path):
    return client.call(
        walk(path[:-1])
        + [nfs.word(6) + nfs.word(2) + nfs.opaque(path[-1].encode()) + nfs.word(2) + nfs.word(0) + nfs.word(MODE_BIT)
           + nfs.opaque(nfs.word(0o755))]
    )[0]


def remove(client, path):
    return client.call(walk(path[:-1]) + [nfs.word(28) + nfs.opaque(path[-1].encode())])[0]


def freeze(how):
    subprocess.run(["fsfreeze", how, sys.argv[5]], check=True)


def late(client, directory, operation, name):
    # What Ganesha asks for before the change it has to know: one that it just made tells that.
    assert make_directory(client, directory + ["before " + name]) == nfs.OK
    # And it knows all names: an answer to READDIR tells which there are.
    everything = nfs.word(26) + nfs.long(0) + nfs.long(0) + nfs.word(4096) + nfs.word(8192) + nfs.word(0)
    assert client.call(walk(directory) + [everything])[0] == nfs.OK
    freeze("--freeze")
    try:
        status = operation(client, directory + [name])
    finally:
        freeze("--unfreeze")
    assert status == AGAIN, status
    time.sleep(1)


SIZE = nfs.word(1) + nfs.word(1 << nfs.SIZE)  # a bitmap
WRITTEN, CUT = 100000, 30000


def write_file(client):
    handle, stateid = client.open("to be cut")
    status = client.call(
        [nfs.word(22) + nfs.opaque(handle),
         nfs.word(38) + stateid + nfs.long(0) + nfs.word(2) + nfs.opaque(b"x" * WRITTEN)]
    )[0]
    assert status == nfs.OK, "WRITE: %d" % status
    assert client.attribute(handle, nfs.SIZE) == WRITTEN


def cut_file(client):
    """exportd has the new size, and the stores cannot be told: an error, but no other size."""
    handle, stateid = client.open("to be cut")
    assert client.attribute(handle, nfs.SIZE) == WRITTEN
    status = client.call(
        [nfs.word(22) + nfs.opaque(handle), nfs.word(34) + stateid + SIZE + nfs.opaque(nfs.long(CUT))]
    )[0]
    assert status != nfs.OK, "cut though too few nodes are there"
    size = client.attribute(handle, nfs.SIZE)
    assert size == CUT, "a cut that failed shows %d bytes" % size
    print("a cut that failed is seen, status %d" % status)


def names():
    client = nfs.Client((sys.argv[1], int(sys.argv[2])), sys.argv[3])
    there = [sys.argv[3], "directory"]
    assert make_directory(client, there) == nfs.OK
    assert make_directory(client, there + ["old"]) == nfs.OK
    assert look_up(client, there + ["old"]) == nfs.OK
    late(client, there, make_directory, "new")
    found = look_up(client, there + ["new"])
    assert found == nfs.OK, "what was made is not there: %d" % found
    found = make_directory(client, there + ["new"])
    assert found == THERE, "made twice: %d" % found
    late(client, there, remove, "old")
    found = look_up(client, there + ["old"])
    assert found == MISSING, "what was removed is there: %d" % found
    print("late changes are seen")


def main():
    if sys.argv[4] in ("write", "cut"):
        client = nfs.Client((sys.argv[1], int(sys.argv[2])), sys.argv[3])
        (write_file if sys.argv[4] == "write" else cut_file)(client)
    else:
        names()


main()
