"""A framed, duplex channel over one Unix socket pair, able to pass file descriptors.

A frame is a header (payload length, number of descriptors), then the payload. The host holds one private channel to
each rank; nothing here is reachable from outside the two processes.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import threading

HEADER = struct.Struct("!QI")
MAX_DESCRIPTORS = 64


class ChannelClosed(ConnectionError):
    """The other end is gone."""


class Channel:
    """Frames over `sock`. `send` may be called from several threads, `receive` from one."""

    def __init__(self, sock: socket.socket):
        self._socket = sock
        self._send_lock = threading.Lock()

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """This side's channel, and the socket whose descriptor the other process inherits."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(ours), theirs

    @classmethod
    def from_descriptor(cls, descriptor: int) -> Channel:
        return cls(socket.socket(fileno=descriptor))

    def send(self, payload: bytes | memoryview, descriptors: tuple[int, ...] = ()) -> None:
        """Send one frame. Raises ChannelClosed when the other end is gone."""
        if len(descriptors) > MAX_DESCRIPTORS:
            raise ValueError(f"{len(descriptors)} descriptors in one frame, at most {MAX_DESCRIPTORS} are possible")
        header = HEADER.pack(len(payload), len(descriptors))
        with self._send_lock:
            try:
                sent = socket.send_fds(self._socket, [header], list(descriptors)) if descriptors else 0
                self._socket.sendall(header[sent:])
                self._socket.sendall(payload)
            except OSError as error:
                raise ChannelClosed(f"the other end of the channel is gone: {error}") from error

    def receive(self) -> tuple[bytearray, tuple[int, ...]]:
        """The next frame: its payload and its descriptors, which the caller owns. Raises ChannelClosed at the end."""
        header = bytearray()
        descriptors = array.array("i")
        while len(header) < HEADER.size:
            data, received, _, _ = self._receive_with_descriptors(HEADER.size - len(header))
            if not data:
                raise ChannelClosed("the other end closed the channel")
            header += data
            descriptors.extend(received)
        length, expected = HEADER.unpack(header)
        if len(descriptors) != expected:
            for descriptor in descriptors:
                os.close(descriptor)
            raise ChannelClosed(f"a frame announced {expected} descriptors and brought {len(descriptors)}")
        payload = bytearray(length)
        view = memoryview(payload)
        while view:
            try:
                count = self._socket.recv_into(view)
            except OSError as error:
                raise ChannelClosed(str(error)) from error
            if count == 0:
                raise ChannelClosed("the other end closed the channel in the middle of a frame")
            view = view[count:]
        return payload, tuple(descriptors)

    def _receive_with_descriptors(self, size: int):
        try:
            return socket.recv_fds(self._socket, size, MAX_DESCRIPTORS)
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def close(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end went first
        self._socket.close()
