# SPDX-License-Identifier: LGPL-3.0-or-later
"""frozen_client.py ADDRESS PORT DIRECTORY CLUSTER.JSON whole|part: a client that is silent for longer than its lease,
and then goes on writing to its data server, against another one that has got its lock meanwhile.

whole: the gateway hears of it from the stores, by a write of whole blocks; part: from the other client's handle."""
import json
import sys
import time

import nfs41_client as nfs
from nfs41_client import FILE_SYNC, STALE, UNSTABLE, DataServer

DENIED = 10010
SECONDS = 90  # more than a lease and the server's next look for expired ones


def opened(server, config, name):
    client = nfs.Client(*server)
    handle, stateid = client.open(name)
    status, _ = client.layout_get(handle, stateid)
    assert status == nfs.OK, "LAYOUTGET: %d" % status
    return client, handle, stateid, DataServer(client.layout, config)


def refused(gateway, late):
    for offset, stable in ((0, UNSTABLE), (100, UNSTABLE), (0, FILE_SYNC), (100, FILE_SYNC)):
        status = gateway.write(offset, late, stable)
        assert status == STALE, "WRITE of a client that is gone: %d" % status
    assert gateway.commit() == STALE


def main():
    server = ((sys.argv[1], int(sys.argv[2])), sys.argv[3])
    whole_blocks_first = sys.argv[5] == "whole"
    with open(sys.argv[4], encoding="ascii") as file:
        config = json.load(file)
    before, late, after = b"before--" * 8192, b"late----" * 8192, b"after---" * 8192

    client, handle, stateid, gateway = opened(server, config, sys.argv[5])
    assert client.lock(handle, stateid) == nfs.OK
    assert gateway.write(0, before, FILE_SYNC) == 0
    assert gateway.write(len(before), before, FILE_SYNC) == 0

    other = nfs.Client(*server)
    other_handle, other_stateid = other.open(sys.argv[5])
    begin = time.monotonic()
    while (status := other.lock(other_handle, other_stateid)) == DENIED:
        assert time.monotonic() - begin < SECONDS, "the lease does not expire"
        time.sleep(0.2)
    assert status == nfs.OK, "LOCK: %d" % status
    print("frozen_client: the lock has gone over after %.0f s" % (time.monotonic() - begin))

    # Nobody but the servers has heard of it: the gateway has not been asked for anything since, and may take a
    # part of a block into its memory.
    assert gateway.write(100, late[:100], UNSTABLE) in (0, STALE)
    status, _ = other.layout_get(other_handle, other_stateid)
    assert status == nfs.OK, "LAYOUTGET: %d" % status
    others = DataServer(other.layout, config)
    if whole_blocks_first:
        refused(gateway, late)
    assert others.read(0, 2 * len(before)) == before + before, "what was locked has changed"
    refused(gateway, late)
    assert others.read(0, 2 * len(before)) == before + before, "what was locked has changed"
    assert others.write(0, after, FILE_SYNC) == 0
    assert gateway.write(0, late, FILE_SYNC) == STALE
    assert others.read(0, 2 * len(before)) == after + before
    print("frozen_client: passed")


main()
