"""The line that a person watches: pictures inside units, time left, and words between processes."""

import time

from noiseweave.cluster import progress
from noiseweave.cluster.progress import Channel, Meter, Progress


def meter(**more):
    return Meter(stage="embed", workers=1, start=time.monotonic() - 10, **{"units": 4} | more)


def fields(m):
    """stage, units, pictures, rate, ETA of the line."""
    return [part.strip() for part in m.line().split("  ") if part.strip()]


def test_pictures_of_a_running_unit_count_and_time_is_judged_by_them():
    m = meter()
    m.add("u0", 100, 0)
    m.running_now({"w": Progress(unit="u1", share=0.5, size=100)})
    _, units, pictures, rate, eta, workers = fields(m)
    assert units.endswith("1/4 units")
    assert (pictures, rate, workers) == ("150 images", "15.0/s", "1 worker")
    assert eta == "ETA 0:17", "150 of 400 in 10 s"


def test_a_short_last_unit_is_worth_what_it_holds():
    m = meter(units=2)
    m.add("u0", 100, 0)
    m.running_now({"w": Progress(unit="u1", share=0.5, size=10)})
    assert fields(m)[4] == "ETA 0:01", "105 of 110"
    m.running_now({"w": Progress(unit="u1", share=0.5, size=None)})
    assert fields(m)[4] == "ETA 0:03", "1.5 of 2 units, where nobody knows what they hold"


def test_before_anything_is_known():
    assert "0/4 units  0 images  0.0/s  ETA --:--" in meter().line()
    assert "0/0 units" in meter(units=0).line()


def test_what_was_shown_is_not_taken_back():
    m = meter()
    m.on_progress("w", Progress(unit="u0", share=0.9, size=100))
    assert fields(m)[2] == "90 images"
    m.on_progress("w", None)  # computed, not yet written
    assert fields(m)[2] == "100 images"
    m.add("u0", 96, 4)
    m.running_now({"w": Progress(unit="u0", share=1.0, size=100)})  # a word that came late
    assert fields(m)[2] == "100 images"


def test_the_bar_is_full_and_no_time_is_left_when_every_unit_is_done_and_not_before():
    m = meter(units=1)
    m.on_progress("w", Progress(unit="u0", share=1.0, size=68))
    assert (fields(m)[1], fields(m)[4]) == ("█" * 19 + "░ 0/1 units", "ETA 0:01")
    m.on_progress("w", None)
    assert (fields(m)[1], fields(m)[4]) == ("█" * 19 + "░ 0/1 units", "ETA 0:01"), "it is being written"
    m.add("u0", 50, 0)
    assert fields(m)[1:5] == ["█" * 20 + " 1/1 units", "50 images", "5.0/s", "ETA 0:00"], "what it made"


def test_the_last_count_is_what_was_made_and_units_that_failed_leave_the_bar_open():
    m = meter(units=2)
    m.on_progress("w", Progress(unit="u0", share=1.0, size=68))
    assert fields(m)[2] == "68 images"
    m.add("u0", 50, 0)
    m.on_progress("w", Progress(unit="u1", share=0.5, size=68))
    m.drop("u1")
    m.end()
    assert fields(m)[1:3] == ["█" * 10 + "░" * 10 + " 1/2 units", "50 images"]


def test_no_line_comes_twice(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(progress, "SHARE", 0.0)
    with progress.watch(meter(units=1)) as display:
        display.meter.add("u0", 50, 0)
        display.update()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[2:4] for line in lines] == [["0/1", "units"], ["1/1", "units"]]
    monkeypatch.setattr(progress, "EVERY", 60.0)
    with progress.watch(meter(units=1)) as display:
        display.meter.add("u0", 50, 0)
        display.update()
    assert "1/1 units  50 images" in capsys.readouterr().err.splitlines()[-1], "whatever came before"


def test_a_computed_unit_counts_whole_until_its_row_comes():
    m = meter()
    m.running_now({"w": Progress(unit="u0", share=0.9, size=100)})
    assert fields(m)[4] == "ETA 0:34", "90 of 400 in 10 s"
    m.running_now({"w": Progress(unit="u1", share=0.0, size=100)})  # u0 is being written
    assert (fields(m)[1].split()[-2], fields(m)[4]) == ("0/4", "ETA 0:30"), "100 of 400"
    m.running_now({})
    m.running_now({})  # however often it is looked at
    assert fields(m)[4] == "ETA 0:10", "200 of 400"
    m.add("u0", 100, 0)
    assert fields(m)[4] == "ETA 0:10"


def test_a_computed_unit_that_ends_in_an_error_counts_no_more_until_it_runs_again():
    m = meter()
    m.running_now({"w": Progress(unit="u0", share=0.9, size=100)})
    m.running_now({})
    m.drop("u0")
    m.running_now({"w": Progress(unit="u0", share=0.9, size=100)})  # a word that came late
    assert fields(m)[4] == "ETA --:--"
    m.begin_pass()
    m.running_now({"w": Progress(unit="u0", share=0.5, size=100)})
    assert fields(m)[4] == "ETA 1:10", "50 of 400"


def test_a_unit_that_two_workers_have_begun_counts_once():
    m = meter()
    m.running_now(
        {"dead": Progress(unit="u0", share=0.75, size=100), "w": Progress(unit="u0", share=0.5, size=100)}
    )
    assert fields(m)[4] == "ETA 1:10", "50 of 400"


def test_the_line_comes_while_a_unit_runs(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOOK", 0.01)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    words, seen = {"w": Progress(unit="u0", share=0.25, size=8)}, ""
    with progress.watch(meter(units=1), lambda: words):
        end = time.monotonic() + 60
        while "2 images" not in seen and time.monotonic() < end:
            time.sleep(0.01)
            seen += capsys.readouterr().err
    assert "0/1 units  2 images" in seen


def test_lines_come_where_something_is_new_and_seldom_of_a_long_run(capsys, monkeypatch):
    m = meter(units=4)
    display, now = progress.Display(m, None), m.start
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def lines(seconds, step=1.0):
        nonlocal now
        for _ in range(round(seconds / step)):
            now += step
            display.update()
        return capsys.readouterr().err.count("\n")

    assert lines(59) == 1, "that it has begun"
    assert lines(60) == 1, "that it is still there"
    m.add("u0", 100, 0)
    assert lines(10) == 1
    for share in range(1, 100):
        m.running_now({"w": Progress(unit="u1", share=share / 100, size=100)})
        assert lines(5) <= 1
    m.running_now({"w": Progress(unit="u1", share=0.999, size=100)})
    now = m.start + 3600.0
    assert lines(5) == 1
    m.add("u1", 100, 0)
    assert lines(60) == 0
    assert lines(12) == 1, "every 72 seconds after an hour"


def test_a_look_that_fails_ends_nothing(monkeypatch):
    monkeypatch.setattr(progress, "LOOK", 0.01)
    looks = []

    def look():
        looks.append(1)
        raise ConnectionError

    with progress.watch(meter(), look):
        end = time.monotonic() + 60
        while len(looks) < 3 and time.monotonic() < end:
            time.sleep(0.01)
    assert len(looks) >= 3


def test_words_travel_through_ray(ray_session):
    channel, other = Channel(), Channel()

    @ray_session.remote
    def work(channel, share):
        channel.on_progress("host/1", Progress(unit="u3", share=0.0, size=20))
        channel.begun -= 1  # a second later
        channel.on_progress("host/1", Progress(unit="u3", share=share, size=20))

    ray_session.get(work.remote(channel, 0.5))
    assert list(channel.look().values()) == [Progress(unit="u3", share=0.5, size=20)]
    assert other.look() == {}
    channel.said = True  # as it is in the worker that has said something
    channel.on_progress("host/1", None)
    assert channel.look() == {}
    ray_session.get(work.remote(channel, 0.75))
    channel.close()
    assert channel.look() == {}


def test_short_units_say_nothing(monkeypatch):
    channel, put = Channel(), []
    monkeypatch.setattr("ray.experimental.internal_kv._internal_kv_put", lambda *a, **k: put.append(a))
    for share in (0.0, 0.5, 1.0):
        channel.on_progress("w", Progress(unit="u", share=share, size=1))
    channel.on_progress("w", None)
    assert put == []
