"""The link between the launchers of several nodes: they meet, agree, and notice at once when one of them is gone.

The first node listens at the main address. The others connect, tell what they bring, and get the port at which the
worker processes will meet. The connections stay open to the end: what a launcher says there ends the others, and so
does its silence, as the system closes a dead process's connections. Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from gcbench.errors import InputError, RunError

_PATIENCE = 1800.0  # seconds for all nodes to come; a queue may start them one after the other
_HANDSHAKE = 30.0  # seconds for one node to say what it brings
_LONGEST = 1 << 16  # bytes of one message
Message = dict[str, Any]


def parse_address(text: str) -> tuple[str, int]:
    """HOST:PORT.

    Raises:
        InputError: it is not that.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InputError(
            f"--main-address {text} is no address.", "Give HOST:PORT of the first node, e.g. node01:29500."
        )
    return host, int(port)


class NodeLink:
    """This node's connections: of the first node to all others, of another one to the first.

    Args:
        address: where the first node listens.
        nodes: how many there are.
        rank: which one this is.
        offer: what must be the same on all nodes, and is told if it is not.
        patience: seconds to wait for the others.

    Raises:
        RunError: a node did not come, brought something else, or the address cannot be used.
    """

    def __init__(
        self, address: tuple[str, int], nodes: int, rank: int, offer: Message, *, patience: float = _PATIENCE
    ) -> None:
        self.nodes, self.rank, self.offer = nodes, rank, offer
        self._deadline = time.monotonic() + patience
        self._sockets: dict[int, socket.socket] = {}  # by node
        self._closing = False
        try:
            self.port = self._gather(address) if rank == 0 else self._join(address)
        except BaseException:
            self.close()
            raise

    def listen(self, on_message: Callable[[int, Message | None], None]) -> None:
        """Call `on_message` with (node, what it says), and with (node, None) when it is gone, from other threads."""
        for node, connection in self._sockets.items():
            threading.Thread(target=self._listen, args=(node, connection, on_message), daemon=True).start()

    def say(self, message: Message) -> None:
        """Tell all nodes that this one is linked with."""
        for connection in self._sockets.values():
            with contextlib.suppress(OSError):  # it is gone, and whoever listens is told so
                _send(connection, message)

    def close(self) -> None:
        """End the link."""
        self._closing = True
        for connection in self._sockets.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _gather(self, address: tuple[str, int]) -> int:
        """Wait for all other nodes; the port for their workers, which all get told."""
        try:
            server = socket.create_server(("", address[1]), backlog=self.nodes)
        except OSError as error:
            raise RunError(
                f"Port {address[1]} of this node cannot be used: {error.strerror}.", "Give another --main-address."
            ) from error
        with server:
            while len(self._sockets) < self.nodes - 1:
                server.settimeout(self._left())
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    raise self._missing() from None
                self._welcome(connection)
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = int(probe.getsockname()[1])
        self.say({"port": port})
        return port

    def _welcome(self, connection: socket.socket) -> None:
        """Take a node in, if it is one, and the right one."""
        connection.settimeout(_HANDSHAKE)
        try:
            message = _receive(connection)
        except (OSError, ValueError):
            message = None
        if message is None or "node" not in message:
            connection.close()  # some stranger
            return
        node = message["node"]
        trouble = None
        if not isinstance(node, int) or not 0 < node < self.nodes or node in self._sockets:
            trouble = f"there is already a node of rank {node}, or none of {self.nodes} can have it"
        elif message.get("offer") != self.offer:
            there, here = message.get("offer") or {}, self.offer
            differing = [
                f"{key} is {there.get(key)} there, {here[key]} here" for key in here if there.get(key) != here[key]
            ]
            trouble = "; ".join(differing)
        if trouble:
            with contextlib.suppress(OSError):
                _send(connection, {"refused": trouble})
            connection.close()
            raise RunError(
                f"The node of rank {node} does not fit the first one: {trouble}.",
                "Run the same command on all nodes, with --node-rank 0, 1, ...",
            )
        _keep_alive(connection)
        self._sockets[node] = connection

    def _join(self, address: tuple[str, int]) -> int:
        """Meet the first node; the port for the workers."""
        while True:
            try:
                connection = socket.create_connection(address, timeout=min(self._left(), _HANDSHAKE))
                break
            except OSError as error:
                if self._left() <= 1.0:
                    raise RunError(
                        f"The first node does not answer at {address[0]}:{address[1]}: {error}.",
                        "Start it, with --node-rank 0, or mend --main-address.",
                    ) from error
                time.sleep(0.5)
        self._sockets[0] = connection
        _send(connection, {"node": self.rank, "offer": self.offer})
        connection.settimeout(self._left())
        try:
            answer = _receive(connection)
        except (OSError, ValueError):
            answer = None
        if answer is None or "port" not in answer:
            why = f": {answer['refused']}" if answer and "refused" in answer else ""
            raise RunError(
                f"The first node, at {address[0]}:{address[1]}, ended before the work began{why}.",
                "See what it says, and run the same command on all nodes.",
            )
        _keep_alive(connection)
        return int(answer["port"])

    def _listen(self, node: int, connection: socket.socket, on_message: Callable[[int, Message | None], None]) -> None:
        while True:
            try:
                message = _receive(connection)
            except (OSError, ValueError):
                message = None
            if not self._closing:
                on_message(node, message)
            if message is None:
                return

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), 0.1)

    def _missing(self) -> RunError:
        missing = [str(node) for node in range(1, self.nodes) if node not in self._sockets]
        return RunError(
            f"{len(missing)} of {self.nodes} nodes did not come: --node-rank {', '.join(missing)}.",
            "Start the same command there.",
        )


def _keep_alive(connection: socket.socket) -> None:
    """Let the system notice a node that has lost power or its network, within half a minute."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _send(connection: socket.socket, message: Message) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket) -> Message | None:
    """The next message; None at the end."""
    line = bytearray()
    while not line.endswith(b"\n"):
        if len(line) > _LONGEST:
            raise ValueError("too long")
        byte = connection.recv(1)
        if not byte:
            return None
        line += byte
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("not a message")
    return message
