"""What is said when Ray ends: our line, and no traceback of Ray's own threads."""

import threading

import pytest

from noiseweave.cluster import ray_end


@pytest.mark.parametrize(("name", "said"), [("ray_listen_error_messages", 0), ("mine", 1)])
def test_tracebacks_of_rays_own_threads_are_left_out(name, said, monkeypatch):
    seen = []
    monkeypatch.setattr(threading, "excepthook", seen.append)

    def fail():
        raise ConnectionError

    with ray_end.watched(lambda: False, 60):
        thread = threading.Thread(target=fail, name=name)
        thread.start()
        thread.join()
    assert len(seen) == said
    assert threading.excepthook == seen.append
