# SPDX-License-Identifier: LGPL-3.0-or-later
"""What becomes of layouts when the metadata server that gave them restarts.

Usage: server_restart.py ADDRESS PORT DIRECTORY CLUSTER.JSON before STATE   overwrites a file under a layout
       server_restart.py ADDRESS PORT DIRECTORY CLUSTER.JSON after STATE    the server has restarted
"""
import json
import sys
import time

import nfs41_client as nfs
from nfs41_client import FILE_SYNC, STALE, UNSTABLE, DataServer

GRACE = 10013
SECONDS = 100  # more than a grace period
OLD, NEW, LATE = b"old-----" * 8192, b"new-----" * 8192, b"late----" * 8192


def before(server, config):
    client = nfs.Client(*server)
    handle, stateid = client.open("overwritten")
    assert client.layout_get(handle, stateid)[0] == nfs.OK
    gateway = DataServer(client.layout, config)
    assert gateway.write(0, OLD, FILE_SYNC) == 0
    reader = nfs.Client(*server)
    change = reader.attribute(handle, nfs.CHANGE)
    # Safe, and nothing has told the metadata server of it when that ends.
    assert gateway.write(0, NEW, UNSTABLE) == 0
    assert gateway.commit() == 0
    return {"handle": handle.hex(), "layout": client.layout.hex(), "change": change}


def open_after_grace(client):
    begin = time.monotonic()
    while True:
        try:
            return client.open("overwritten")[1]
        except AssertionError as error:
            if str(error) != "OPEN: %d" % GRACE or time.monotonic() - begin > SECONDS:
                raise
        time.sleep(0.2)


def after(server, config, state):
    reader = nfs.Client(*server)
    handle = bytes.fromhex(state["handle"])
    change = reader.attribute(handle, nfs.CHANGE)
    assert change > state["change"], "a reader would go on with old pages: change %d is no news" % change
    assert reader.attribute(handle, nfs.CHANGE) == change, "change changes though nothing is written"
    # From now on what was locked under the layout can be another client's.
    stateid = open_after_grace(reader)
    gateway = DataServer(bytes.fromhex(state["layout"]), config)
    for offset, stable in ((0, UNSTABLE), (100, UNSTABLE), (0, FILE_SYNC), (100, FILE_SYNC)):
        status = gateway.write(offset, LATE, stable)
        assert status == STALE, "WRITE under a layout of before: %d" % status
    assert reader.layout_get(handle, stateid)[0] == nfs.OK
    gateway = DataServer(reader.layout, config)
    assert gateway.read(0, len(NEW)) == NEW, "not what was safe before the server restarted"
    assert gateway.write(0, OLD, FILE_SYNC) == 0, "WRITE under a layout of now"
    print("server_restart: passed")


def main():
    server = ((sys.argv[1], int(sys.argv[2])), sys.argv[3])
    with open(sys.argv[4], encoding="ascii") as file:
        config = json.load(file)
    if sys.argv[5] == "before":
        state = before(server, config)
        with open(sys.argv[6], "w", encoding="ascii") as file:
            json.dump(state, file)
    else:
        with open(sys.argv[6], encoding="ascii") as file:
            after(server, config, json.load(file))


main()
