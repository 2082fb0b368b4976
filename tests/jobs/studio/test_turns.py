"""Turns: one request computes at a time, the latest of a page always, and few of those before it."""

import asyncio
import threading
import time

from noiseweave.engine import spans
from noiseweave.jobs.studio import turns
from noiseweave.jobs.studio.turns import Stale, Turns


def all_of(requests):
    """(page, work) in the order that they come -> their results, Stale among them, and the turns."""

    async def run():
        queue = Turns()
        tasks = [asyncio.create_task(queue.run(page, work)) for page, work in requests]
        return await asyncio.gather(*tasks, return_exceptions=True), queue

    return asyncio.run(run())


def test_a_slider_dragged_over_fifty_values_computes_the_last_and_few_between():
    def work(i):
        time.sleep(0.01)
        return i

    results, queue = all_of([("a", lambda i=i: work(i)) for i in range(50)])
    assert results[-1] == 49
    assert queue.computed <= 3
    assert queue.computed + queue.dropped == 50
    assert all(isinstance(r, Stale) or r in (0, 49) for r in results)


def test_pages_do_not_drop_each_others_requests():
    results, queue = all_of([("a", lambda: 1), ("b", lambda: 2), ("c", lambda: 3)])
    assert results == [1, 2, 3]
    assert queue.dropped == 0


def test_all_are_computed_in_one_thread_and_an_error_hinders_none():
    def fail():
        raise ValueError("no")

    results, _ = all_of([("a", fail), ("b", threading.get_ident), ("c", threading.get_ident)])
    assert isinstance(results[0], ValueError)
    assert results[1] == results[2]


def test_old_pages_are_forgotten(monkeypatch):
    monkeypatch.setattr(turns, "MOST", 3)
    results, queue = all_of([(str(i), lambda: 0) for i in range(10)])
    assert results == [0] * 10
    assert len(queue._latest) == 3


def test_work_that_says_how_far_it_is_ends_once_it_is_stale():
    ends = []

    def work(i):
        for _ in spans.steps(range(20)):
            time.sleep(0.01)
        ends.append(i)
        return i

    async def run():
        queue = Turns()
        first = asyncio.create_task(queue.run("a", lambda: work(0)))
        other = asyncio.create_task(queue.run("b", lambda: work(1)))
        await asyncio.sleep(0.05)
        last = asyncio.create_task(queue.run("a", lambda: work(2)))
        return await asyncio.gather(first, other, last, return_exceptions=True)

    first, other, last = asyncio.run(run())
    assert isinstance(first, Stale)
    assert (other, last, ends) == (1, 2, [1, 2])


def test_what_a_closed_page_waited_for_is_not_computed_to_its_end():
    ends = []

    def work(name):
        for _ in spans.steps(range(20)):
            time.sleep(0.01)
        ends.append(name)

    async def run():
        queue = Turns()
        pages = ("a/fuse", "a/sample", "a/save", "b/fuse")
        tasks = [asyncio.create_task(queue.run(page, lambda page=page: work(page))) for page in pages]
        await asyncio.sleep(0.05)
        queue.leave(("a/fuse", "a/sample", "a/strip"))
        return await asyncio.gather(*tasks, return_exceptions=True)

    drawn = asyncio.run(run())
    assert [isinstance(one, Stale) for one in drawn] == [True, True, False, False]
    assert ends == ["a/save", "b/fuse"]
