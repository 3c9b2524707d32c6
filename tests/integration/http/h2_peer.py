"""A peer of HTTP/2 that sends whatever frames it is told to, and sees those that come back. RFC 9113's numbers."""
import collections
import select
import socket
import struct

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS = 4
PADDED = 8
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 5, 6, 7, 8, 9
ENHANCE_YOUR_CALM = 11
INITIAL_WINDOW_SIZE = 4
FRAME_BYTES = 16384

Frame = collections.namedtuple("Frame", "kind flags stream payload")


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(**values):
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", int(k[1:]), v) for k, v in values.items()))


def window_update(stream, n):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", n))


def reset(stream, code=CANCEL):
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


class Peer:
    """Says the preface, unless greet is False. Settings are (number, value) pairs."""

    def __init__(self, server, *values, greet=True, sock=None, timeout_s=60):
        self.sock = sock or server.connect()
        self.sock.settimeout(timeout_s)
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder(max_header_list_size=1 << 24)
        self.buffer = bytearray()
        self.ended = False
        self.acknowledges = True
        self.authority = "h"
        if greet:
            payload = b"".join(struct.pack(">HI", k, v) for k, v in values)
            self.send(PREFACE + frame(SETTINGS, payload=payload))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def send_if_taken(self, data):
        """False when the server has closed, or does not take it for the moment."""
        try:
            return bool(select.select([], [self.sock], [], 5)[1]) and self.sock.sendall(data) is None
        except (OSError, socket.timeout):
            return False

    def head(self, method="GET", path="/hello", fields=(), pseudo=None):
        if pseudo is None:
            pseudo = [(":method", method), (":scheme", "http"), (":authority", self.authority), (":path", path)]
        return self.encoder.encode(list(pseudo) + list(fields))

    def request(self, stream, method="GET", path="/hello", fields=(), end=True, pseudo=None):
        flags = END_HEADERS | (END_STREAM if end else 0)
        block = self.head(method, path, fields, pseudo)
        first, rest = block[:FRAME_BYTES], block[FRAME_BYTES:]
        out = frame(HEADERS, flags if not rest else flags & ~END_HEADERS, stream, first)
        while rest:
            piece, rest = rest[:FRAME_BYTES], rest[FRAME_BYTES:]
            out += frame(CONTINUATION, 0 if rest else END_HEADERS, stream, piece)
        self.send(out)

    def body(self, stream, data, end=True):
        self.send(frame(DATA, END_STREAM if end else 0, stream, data))

    def is_next_here(self):
        """Without waiting; also where the connection has ended."""
        while not self.ended and not self.has_frame() and select.select([self.sock], [], [], 0)[0]:
            self.receive()
        return self.ended or self.has_frame()

    def has_frame(self):
        return len(self.buffer) >= 9 and len(self.buffer) >= 9 + int.from_bytes(self.buffer[:3], "big")

    def receive(self):
        try:
            piece = self.sock.recv(1 << 16)
        except ConnectionResetError:
            piece = b""
        self.ended = not piece
        self.buffer += piece

    def next(self):
        """The next frame; None when the connection has ended. SETTINGS and PING are acknowledged, as long as that is wanted."""
        while not self.has_frame():
            self.receive()
            if self.ended:
                return None
        length = int.from_bytes(self.buffer[:3], "big")
        f = Frame(self.buffer[3], self.buffer[4], int.from_bytes(self.buffer[5:9], "big"), bytes(self.buffer[9:9 + length]))
        del self.buffer[:9 + length]
        if f.kind == SETTINGS and not f.flags & ACK and self.acknowledges:
            self.send_if_taken(frame(SETTINGS, ACK))
        if f.kind == PING and not f.flags & ACK:
            self.send_if_taken(frame(PING, ACK, 0, f.payload))
        return f

    def answer(self, stream, grant=True):
        """(status, headers, body, error) of a stream, at its end; error is None where it ended as it should. Frames of other
        streams are left out."""
        headers, body = {}, bytearray()
        while True:
            f = self.next()
            if f is None:
                return headers.get(":status"), headers, bytes(body), "closed"
            if f.kind == GOAWAY and int.from_bytes(f.payload[4:8], "big"):
                return headers.get(":status"), headers, bytes(body), ("goaway", int.from_bytes(f.payload[4:8], "big"))
            if f.kind == HEADERS:
                fields = dict(self.decoder.decode(f.payload))
                headers.update(fields if f.stream == stream else {})
            if f.stream != stream:
                continue
            if f.kind == DATA:
                body += f.payload
                if grant and f.payload:
                    self.send_if_taken(window_update(0, len(f.payload)) + window_update(stream, len(f.payload)))
            if f.kind == RST_STREAM:
                return headers.get(":status"), headers, bytes(body), int.from_bytes(f.payload, "big")
            if f.kind in (DATA, HEADERS) and f.flags & END_STREAM:
                return headers.get(":status"), headers, bytes(body), None

    def goaway(self):
        """The error of the last GOAWAY before the end, None without one."""
        error = None
        while f := self.next():
            if f.kind == GOAWAY:
                error = int.from_bytes(f.payload[4:8], "big")
        return error
