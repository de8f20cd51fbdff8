# SPDX-License-Identifier: LGPL-3.0-or-later
"""A raw NFSv4.1 client (RFC 8881), for what no good client does to a server's layout states.

One Connection per TCP connection, with a thread that matches replies by xid; one Client per client id
and session. A call answers (status of the COMPOUND, decoder behind SEQUENCE's result). Callbacks are
not served: the client says that it has a back channel and then never answers. A DataServer is the
NFSv3 server that a layout leads to.
"""
import os
import queue
import socket
import struct
import threading

ALL_BYTES = 0xFFFFFFFFFFFFFFFF
FLEX_FILES = 4  # layout type, RFC 8435
RETURN_FILE, RETURN_FSID, RETURN_ALL = 1, 2, 3
READ, READ_WRITE, ANY = 1, 2, 3
OK, BAD_STATEID, NO_FILE_HANDLE = 0, 10025, 10020
CHANGE, SIZE = 3, 4  # attributes
CALL_SECONDS = 15
UNSTABLE, FILE_SYNC, STALE = 0, 2, 70  # of NFSv3, at a data server


def word(value):
    return struct.pack(">I", value)


def long(value):
    return struct.pack(">Q", value)


def opaque(data):
    return word(len(data)) + data + b"\0" * (-len(data) % 4)


class Decoder:
    def __init__(self, data):
        self.data, self.at = data, 0

    def raw(self, count):
        self.at += count
        return self.data[self.at - count : self.at]

    def word(self):
        return struct.unpack(">I", self.raw(4))[0]

    def long(self):
        return struct.unpack(">Q", self.raw(8))[0]

    def opaque(self):
        length = self.word()
        data = self.raw(length)
        self.at += -length % 4
        return data

    def result(self):
        """The status of the next operation, which must be there."""
        self.word()
        return self.word()


class Disconnected(Exception):
    pass


class Connection:
    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=CALL_SECONDS)
        self.socket.settimeout(None)
        self.xid, self.waiting, self.lock, self.gone = 1, {}, threading.Lock(), False
        threading.Thread(target=self.read_replies, daemon=True).start()

    def receive(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise OSError("closed")
            data += more
        return data

    def read_replies(self):
        try:
            while True:
                message, last = b"", False
                while not last:
                    head = struct.unpack(">I", self.receive(4))[0]
                    message += self.receive(head & 0x7FFFFFFF)
                    last = head >> 31
                xid, kind = struct.unpack(">II", message[:8])
                with self.lock:
                    reply = self.waiting.pop(xid, None) if kind == 1 else None
                if reply:
                    reply.put(message)
        except OSError:
            with self.lock:
                self.gone = True
                for reply in self.waiting.values():
                    reply.put(None)

    def compound(self, operations):
        reply = queue.Queue()
        with self.lock:
            if self.gone:
                raise Disconnected("the server closed the connection")
            self.xid += 1
            self.waiting[self.xid] = reply
            credential = word(1) + opaque(word(0) + opaque(b"odd") + word(0) + word(0) + word(0))
            body = (
                word(self.xid) + word(0) + word(2) + word(100003) + word(4) + word(1) + credential
                + word(0) + word(0) + opaque(b"") + word(1) + word(len(operations)) + b"".join(operations)
            )
            self.socket.sendall(word(0x80000000 | len(body)) + body)
        try:
            message = reply.get(timeout=CALL_SECONDS)
        except queue.Empty:
            raise TimeoutError("no answer in %d s" % CALL_SECONDS) from None
        if message is None:
            raise Disconnected("the server closed the connection instead of answering")
        answer = Decoder(message)
        answer.raw(12)  # xid, reply, accepted
        answer.word()
        answer.opaque()
        assert answer.word() == 0, "the RPC was not accepted"
        status = answer.word()
        answer.opaque()
        answer.word()
        return status, answer

    def vanish(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class Client:
    SLOTS = 8

    def __init__(self, address, directory):
        self.connection, self.directory = Connection(address), directory
        name = os.urandom(8).hex().encode()
        status, answer = self.connection.compound(
            [word(42) + os.urandom(8) + opaque(name) + word(0x20000) + word(0) + word(0)]
        )
        assert status == OK and answer.result() == OK, "EXCHANGE_ID: %d" % status
        self.client_id, sequence = answer.long(), answer.word()
        channel = word(0) + word(1 << 20) * 2 + word(1 << 16) + word(16) + word(self.SLOTS) + word(0)
        callbacks = word(1) + word(1) + word(0) + opaque(b"cb") + word(0) * 3
        status, answer = self.connection.compound(
            [word(43) + long(self.client_id) + word(sequence) + word(2) + channel * 2 + word(0x40000000) + callbacks]
        )
        assert status == OK and answer.result() == OK, "CREATE_SESSION: %d" % status
        self.session, self.sequence = answer.raw(16), [0] * self.SLOTS
        self.free = queue.Queue()
        for slot in range(self.SLOTS):
            self.free.put(slot)
        self.call([word(58) + word(0)])  # RECLAIM_COMPLETE

    def call(self, operations, connection=None):
        slot = self.free.get()
        self.sequence[slot] += 1
        try:
            status, answer = (connection or self.connection).compound(
                [word(53) + self.session + word(self.sequence[slot]) + word(slot) + word(self.SLOTS - 1) + word(0)]
                + operations
            )
        finally:
            self.free.put(slot)
        assert answer.result() == OK, "SEQUENCE"
        answer.raw(16 + 4 * 5)
        return status, answer

    def open(self, name, owner=b"owner"):
        """Creates or opens a file. Returns its handle and the stateid."""
        status, answer = self.call(
            [word(24), word(15) + opaque(self.directory.encode()),
             word(18) + word(0) + word(3) + word(0) + long(self.client_id) + opaque(owner) + word(1) + word(0)
             + word(2) + word(0) + word(2) + opaque(word(0o644)) + word(0) + opaque(name.encode()),
             word(10)]
        )
        assert status == OK, "OPEN: %d" % status
        assert answer.result() == OK and answer.result() == OK and answer.result() == OK
        stateid = answer.raw(16)
        answer.raw(4 + 8 + 8 + 4)
        for _ in range(answer.word()):
            answer.word()
        assert answer.word() == 0, "a delegation"
        assert answer.result() == OK
        return answer.opaque(), stateid

    def close(self, handle, stateid):
        return self.call([word(22) + opaque(handle), word(4) + word(0) + stateid])[0]

    def layout_get(self, handle, stateid, iomode=READ_WRITE):
        status, answer = self.call(
            [word(22) + opaque(handle),
             word(50) + word(0) + word(FLEX_FILES) + word(iomode) + long(0) + long(ALL_BYTES) + long(0) + stateid
             + word(4096)]
        )
        if status != OK:
            return status, None
        answer.result()
        answer.result()
        answer.word()
        stateid = answer.raw(16)
        assert answer.word() == 1, "not one segment"
        answer.raw(8 + 8 + 4 + 4)
        self.layout = answer.opaque()  # ff_layout4 of RFC 8435 section 5.1
        return OK, stateid

    def lock(self, handle, stateid, owner=b"locker"):
        """Locks the whole file for writing. Returns the status."""
        return self.call(
            [word(22) + opaque(handle),
             word(12) + word(2) + word(0) + long(0) + long(ALL_BYTES) + word(1) + word(0) + stateid + word(0)
             + long(self.client_id) + opaque(owner)]
        )[0]

    def layout_return(self, handle, stateid, iomode=ANY, body=b""):
        return self.call(
            [word(22) + opaque(handle),
             word(51) + word(0) + word(FLEX_FILES) + word(iomode) + word(RETURN_FILE) + long(0) + long(ALL_BYTES)
             + stateid + opaque(body)]
        )[0]

    def layout_return_many(self, kind, iomode=ANY, handle=None):
        first = [word(22) + opaque(handle)] if handle else []
        return self.call(first + [word(51) + word(0) + word(FLEX_FILES) + word(iomode) + word(kind)])[0]

    def layout_commit(self, handle, stateid):
        return self.call(
            [word(22) + opaque(handle),
             word(49) + long(0) + long(ALL_BYTES) + word(0) + stateid + word(0) + word(0) + word(FLEX_FILES)
             + opaque(b"")]
        )[0]

    def test_stateids(self, stateids, connection=None):
        return self.call([word(55) + word(len(stateids)) + b"".join(stateids)], connection)[0]

    def attribute(self, handle, number):
        """An attribute of 64 bits."""
        status, answer = self.call([word(22) + opaque(handle), word(9) + word(1) + word(1 << number)])
        assert status == OK, "GETATTR: %d" % status
        answer.result()
        answer.result()
        for _ in range(answer.word()):
            answer.word()
        answer.word()
        return answer.long()


class DataServer:
    """The gateway of a RW layout with one mirror, and the layout's file handle."""

    def __init__(self, layout, config):
        body = Decoder(layout)
        body.raw(8)
        assert (body.word(), body.word()) == (1, 1), "not one mirror"
        number = struct.unpack(">I", body.raw(16)[4:8])[0]
        body.raw(4 + 16 + 4)
        self.handle = body.opaque()
        node = next(node for node in config["nodes"] if node["id"] == number)
        self.socket = socket.create_connection((node["address"], node["nfs_port"]), timeout=60)

    def receive(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            assert more, "the gateway closed the connection"
            data += more
        return data

    def call(self, procedure, arguments):
        """Returns the NFSv3 status and what follows."""
        body = (word(1) + word(0) + word(2) + word(100003) + word(3) + word(procedure)
                + word(0) * 4 + arguments)
        self.socket.sendall(word(0x80000000 | len(body)) + body)
        answer = Decoder(self.receive(struct.unpack(">I", self.receive(4))[0] & 0x7FFFFFFF))
        answer.raw(4 * 5)
        assert answer.word() == 0, "the RPC was not accepted"
        return answer.word(), answer

    def write(self, offset, data, stable):
        return self.call(7, opaque(self.handle) + long(offset) + word(len(data)) + word(stable)
                         + opaque(data))[0]

    def commit(self):
        return self.call(21, opaque(self.handle) + long(0) + word(0))[0]

    def read(self, offset, count):
        status, answer = self.call(6, opaque(self.handle) + long(offset) + word(count))
        assert status == 0, "READ: %d" % status
        assert answer.word() == 0, "attributes"
        answer.word()
        answer.word()
        return answer.opaque()
