# SPDX-License-Identifier: LGPL-3.0-or-later
"""Names and attributes in two exports of one server.

Usage: two_exports.py CASE ADDRESS PORT DIRECTORY OTHER_DIRECTORY
"""
import sys

import nfs41_client as nfs

MISSING = 2  # NFS4ERR_NOENT
MODE_BIT = 1 << 1  # in the second word of a bitmap


def look_up(client, name):
    """Returns the status, and the mode if it is there."""
    status, answer = client.call(
        [nfs.word(24), nfs.word(15) + nfs.opaque(client.directory.encode()), nfs.word(15) + nfs.opaque(name.encode()),
         nfs.word(9) + nfs.word(2) + nfs.word(0) + nfs.word(MODE_BIT)]
    )
    if status != nfs.OK:
        return status, None
    for _ in range(4):
        assert answer.result() == nfs.OK
    for _ in range(answer.word()):
        answer.word()
    answer.word()
    return status, answer.word() & 0o7777


def make_directory(client, name, mode):
    return client.call(
        [nfs.word(24), nfs.word(15) + nfs.opaque(client.directory.encode()),
         nfs.word(6) + nfs.word(2) + nfs.opaque(name.encode()) + nfs.word(2) + nfs.word(0) + nfs.word(MODE_BIT)
         + nfs.opaque(nfs.word(mode))]
    )[0]


def apart(one, other):
    """Of two clusters: neither shows what is in the other."""
    assert make_directory(one, "of one", 0o700) == nfs.OK
    found = look_up(other, "of one")
    assert found == (MISSING, None), "a name of the one cluster is in the other: %s" % (found,)
    assert make_directory(other, "of the other", 0o755) == nfs.OK
    found = look_up(one, "of the other")
    assert found == (MISSING, None), "a name of the other cluster is in the one: %s" % (found,)
    assert look_up(one, "of one") == (nfs.OK, 0o700)
    found = look_up(other, "of the other")
    assert found == (nfs.OK, 0o755), "attributes of another cluster's directory: %s" % (found,)


def same(one, other):
    """Of one cluster's export: what is made through the one is there through the other."""
    for number in range(20):
        name = "name %d" % number
        assert look_up(other, name) == (MISSING, None)
        assert make_directory(one, name, 0o700) == nfs.OK
        found = look_up(other, name)
        assert found == (nfs.OK, 0o700), "a name that was made is not there: %s" % (found,)


def main():
    address = (sys.argv[2], int(sys.argv[3]))
    globals()[sys.argv[1]](nfs.Client(address, sys.argv[4]), nfs.Client(address, sys.argv[5]))
    print("%s: passed" % sys.argv[1])


main()
