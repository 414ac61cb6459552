"""A server of the tests: the application of a desk on a free port of this machine, in a thread."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager


@contextmanager
def served(desk, sessions=8):
    """Give the address of a running server; it has ended when the context has."""
    import uvicorn

    from mlagent_lib.sockets.openenv import MOST_BYTES, build_app

    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    config = uvicorn.Config(
        build_app(desk, sessions), host="127.0.0.1", port=port, log_level="error", ws_max_size=MOST_BYTES
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
