# SPDX-License-Identifier: LGPL-3.0-or-later
"""odd_clients.py ADDRESS PORT DIRECTORY CASE...: what once killed, hung or confused the metadata server.

Each case is a function below; all of them say what they expect by assertions. After each one a new client
must be able to open a file and get a layout, so the server lives and answers.
"""
import sys
import threading
import time

import nfs41_client as nfs


def layouts_again_and_again(server):
    """A layout stateid used for further LAYOUTGETs (defect 1)."""
    client = nfs.Client(*server)
    handle, opened = client.open("again")
    status, layout = client.layout_get(handle, opened)
    assert status == nfs.OK, status
    for _ in range(200):
        status, layout = client.layout_get(handle, layout)
        assert status == nfs.OK, status
    assert client.layout_return(handle, layout) == nfs.OK
    assert client.close(handle, opened) == nfs.OK


def layouts_returned_in_bulk(server):
    """LAYOUTRETURN of a file system, and of all, for one iomode; each must end (defect 5)."""
    client = nfs.Client(*server)
    handle, opened = client.open("bulk-1")
    other, other_opened = client.open("bulk-2", b"other")
    for kind in (nfs.RETURN_FSID, nfs.RETURN_ALL):
        assert client.layout_get(handle, opened)[0] == nfs.OK
        assert client.layout_get(other, other_opened, nfs.READ)[0] == nfs.OK
        assert client.layout_return_many(kind, nfs.READ, handle) == nfs.OK
        assert client.layout_return_many(kind, nfs.ANY, handle) == nfs.OK
    assert client.close(handle, opened) == nfs.OK and client.close(other, other_opened) == nfs.OK


def file_system_without_a_handle(server):
    """LAYOUTRETURN of a file system that no file handle tells (defect 12)."""
    client = nfs.Client(*server)
    for _ in range(2):
        status = client.layout_return_many(nfs.RETURN_FSID)
        assert status == nfs.NO_FILE_HANDLE, status


def open_state_is_no_layout(server):
    """LAYOUTRETURN and LAYOUTCOMMIT with an OPEN's stateid; the open state survives (defect 6)."""
    client = nfs.Client(*server)
    handle, opened = client.open("open")
    assert client.layout_return(handle, opened) == nfs.BAD_STATEID
    assert client.layout_commit(handle, opened) == nfs.BAD_STATEID
    assert client.close(handle, opened) == nfs.OK


def returns_with_bodies(server):
    """LAYOUTRETURN with bodies as long as it likes (defects 8 and 13)."""
    client = nfs.Client(*server)
    handle, opened = client.open("bodies")
    for words in (0, 1, 2, 3, 64, 1024):
        status, layout = client.layout_get(handle, opened)
        assert status == nfs.OK, status
        client.layout_return(handle, layout, body=nfs.word(0) * words)
        client.layout_return_many(nfs.RETURN_ALL)
    assert client.close(handle, opened) == nfs.OK


def stateids_tested_while_closed(server, seconds=6):
    """TEST_STATEID on other connections against CLOSE (defect 4)."""
    client = nfs.Client(*server)
    latest, errors, stop = [b"\0" * 16], [], threading.Event()

    def test():
        try:
            connection = nfs.Connection(server[0])
            while not stop.is_set():
                client.test_stateids([latest[0]] * 200, connection)
        except Exception as error:  # whatever it was, the main thread tells of it
            errors.append(repr(error))

    threads = [threading.Thread(target=test) for _ in range(3)]
    for thread in threads:
        thread.start()
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end and not errors:
        handle, opened = client.open("closed-%d" % (count % 3), b"owner-%d" % count)
        latest[0] = opened
        assert client.close(handle, opened) == nfs.OK
        count += 1
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]
    print("stateids_tested_while_closed: %d opens" % count)


def clients_vanish_with_layouts(server):
    """Layouts of many files, through all gateways, and no connection (defect 2). The script then kills a
    gateway, which makes the server recall them."""
    for number in range(4):
        client = nfs.Client(*server)
        for name in range(12):
            handle, opened = client.open("vanished-%d-%d" % (number, name))
            assert client.layout_get(handle, opened)[0] == nfs.OK
        client.connection.vanish()


def server_answers(server):
    client = nfs.Client(*server)
    handle, opened = client.open("after")
    status, layout = client.layout_get(handle, opened)
    assert status == nfs.OK, "LAYOUTGET: %d" % status
    assert client.layout_return(handle, layout) == nfs.OK
    assert client.close(handle, opened) == nfs.OK


def main():
    server = ((sys.argv[1], int(sys.argv[2])), sys.argv[3])
    for case in sys.argv[4:]:
        globals()[case](server)
        if case != "clients_vanish_with_layouts":
            server_answers(server)
        print("%s: passed" % case, flush=True)


main()
