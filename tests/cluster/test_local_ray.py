"""A Ray of a run's own: who can reach it, what is said when it dies, and what is there afterwards."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from noiseweave.cluster import joined_ray, local_ray, ray_end, reaper, termination

GONE = 10.0
"""Seconds after the end of a driver in which all that it started must be gone."""

HOLD = """
    import json, os, sys
    from noiseweave.cluster import session

    with session.session(session.ClusterConfig(address="local")):
        import ray
        node = ray._private.worker._global_node
        told = {name: infos[0].process.pid for name, infos in node.all_processes.items()}
        told |= {"folder": node.get_session_dir_path(), "gcs": node.gcs_address}
        told |= {"nice": ray.get(ray.remote(lambda: os.nice(0)).remote()), "token": os.environ["RAY_AUTH_TOKEN"]}
        print(json.dumps(told), flush=True)
        sys.stdin.readline()
"""

BATCH = """
    import json, sys, time
    from noiseweave.cluster import pipeline, session, stages
    from noiseweave.cluster.ledger import Ledger
    from noiseweave.cluster.units import Plan, Unit, UnitReport

    folder, units = sys.argv[1], int(sys.argv[2])
    def unit(i): return Unit(index=i, id=f"u{i:03d}", payload=i)
    def make():
        def compute(i):
            open(f"{folder}/begun-{i}", "a").write("x")
            while i > 2 and units > 8: time.sleep(0.1)  # here the run is in the middle
            return i
        return compute
    def commit(unit, result): return UnitReport(id=unit.id, produced=1), []
    phase = stages.Phase(name="p", fetch=lambda u: u.payload, make_compute=make, commit=commit)
    with session.session(session.ClusterConfig(address="local", workers=2)) as s:
        import ray
        node = ray._private.worker._global_node
        print(json.dumps({name: infos[0].process.pid for name, infos in node.all_processes.items()}), flush=True)
        outcome = pipeline.run(Plan(length=units, unit=unit), phase, Ledger(output=folder), s)
        print("produced", outcome.produced, len(outcome.failed))
"""

TRAINING = """
    import json, sys, time
    from noiseweave.cluster import session, training
    from ray import cloudpickle
    cloudpickle.register_pickle_by_value(sys.modules[__name__])

    folder = sys.argv[1]
    def loop(task, link):
        open(f"{folder}/begun-{link.rank}", "a").write("x")
        open(f"{folder}/begun-more-{link.rank}", "a").write("x")
        time.sleep(600)
    with session.session(session.ClusterConfig(address="local", workers=2)) as s:
        import ray
        node = ray._private.worker._global_node
        print(json.dumps({name: infos[0].process.pid for name, infos in node.all_processes.items()}), flush=True)
        training.run_training(loop, {}, folder=folder + "/c", session=s, max_failures=1, keep=1)
"""

KEYS = """
    import sys
    from ray._raylet import GcsClient
    print(len(GcsClient(address=sys.argv[1]).internal_kv_keys(b"", b"session")))
"""


def run_alone(code, *arguments, home=None, **options):
    """A Python of its own, as a user starts it: no token, no mode of the tests'."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment |= {"HOME": str(home)} if home else {}
    environment |= options.pop("env", {})
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True, **options
    )


def wait(driver, seconds=100):
    """What a driver whose input stays open says until it ends by itself."""
    driver.wait(seconds)
    return driver.stderr.read()


def family(driver):
    return psutil.Process(driver.pid).children(recursive=True)


def alive(processes):
    left = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                left.append(f"{process.pid} {process.name()}")
        except psutil.NoSuchProcess:
            pass
    return left


def still_there_after(processes, seconds):
    end = time.monotonic() + seconds
    while (left := alive(processes)) and time.monotonic() < end:
        time.sleep(0.1)
    return left


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A driver that holds a local Ray, what it says of it, and its home folder. The last test here kills it."""
    home = tmp_path_factory.mktemp("home")
    driver = run_alone(HOLD, home=home)
    line = driver.stdout.readline()
    assert line, driver.stderr.read()[-3000:]
    yield driver, json.loads(line), home
    if driver.poll() is None:
        driver.communicate("\n")


def test_all_its_ports_are_this_machines_own(held):
    driver, _, _ = held
    ports = [
        connection.laddr
        for process in (psutil.Process(driver.pid), *family(driver))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(ports) >= 8
    assert {port.ip.removeprefix("::ffff:") for port in ports} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("given", "enters"),
    [
        ({}, False),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, False),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": None}, True),
    ],
)
def test_only_who_has_the_token_can_read_its_keys(held, given, enters):
    _, told, home = held
    given = {name: value or told["token"] for name, value in given.items()}
    visitor = run_alone(KEYS, told["gcs"], home=home, env=given)
    keys, error = visitor.communicate(timeout=120)
    assert (visitor.returncode == 0) == enters, error[-2000:]
    assert (keys.strip().isdigit()) == enters
    assert enters or "uthentica" in error


def test_the_token_is_written_nowhere(held):
    _, told, home = held
    assert len(told["token"]) == 64
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not any(told["token"] in line for line in lines)
    files = [path for root in (told["folder"], home) for path in Path(root).rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if told["token"].encode() in path.read_bytes()]
    assert not (home / ".ray").exists()


def test_its_workers_are_not_starved(held):
    assert held[1]["nice"] == os.nice(0)


def test_when_its_head_dies_one_line_is_said_and_nothing_stays(held):
    driver, told, _ = held
    processes = family(driver)
    os.kill(told["gcs_server"], signal.SIGKILL)
    start = time.monotonic()
    error = wait(driver)
    assert time.monotonic() - start < GONE
    assert (driver.returncode, error) == (1, f"{ray_end.ENDED}\n")
    assert not still_there_after(processes, GONE)


ENVIRONMENT = """
    import json, os
    from noiseweave.cluster import local_ray
    from ray._raylet import AuthenticationTokenLoader

    def seen():
        names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_worker_niceness", "GLOO_SOCKET_IFNAME")
        has = AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
        return [*map(os.environ.get, names), has]

    before = seen()
    with local_ray._environment():
        within = seen()
    print(json.dumps([before, within, seen()]))
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["token", "*", "0", local_ray.LOOPBACK, True]),
        (
            {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "7", "GLOO_SOCKET_IFNAME": "eth7"},
            ["disabled", None, "7", "eth7", False],
        ),
        (
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "mine" * 8},
            ["token", "mine" * 8, "0", local_ray.LOOPBACK, True],
        ),
    ],
)
def test_what_the_environment_says_holds_and_is_found_again_afterwards(tmp_path, given, expected):
    asked = run_alone(ENVIRONMENT, home=tmp_path, env=given)
    told, error = asked.communicate(timeout=120)
    assert told, error[-2000:]
    before, within, after = json.loads(told)
    if expected[1] == "*":
        assert len(within[1]) == 64
        within[1] = "*"
    assert within == expected
    assert before == after
    assert not (tmp_path / ".ray").exists()


WRITER = "import time; log = open({log!r}, 'a'); print('up', flush=True); time.sleep(600)"


def writer(log, before=""):
    process = subprocess.Popen(
        [sys.executable, "-c", before + WRITER.format(log=str(log))], stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    return process


def test_what_writes_into_the_folder_is_ended_and_nothing_else(tmp_path):
    folder, other = tmp_path / "session", tmp_path / "session-2"
    folder.mkdir()
    other.mkdir()
    (folder / "log").touch()
    nested = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    )
    doomed = [writer(folder / "log", nested), writer(folder / "log2")]
    reader = subprocess.Popen(["tail", "-f", str(folder / "log")], stdout=subprocess.DEVNULL)
    spared = [writer(other / "log"), reader]
    everything = [p for d in doomed for p in (psutil.Process(d.pid), *psutil.Process(d.pid).children())]
    assert len(everything) == 3
    try:
        reaper.end(str(folder), grace=0.1)
        assert not still_there_after(everything, GONE)
        assert [process.poll() for process in spared] == [None, None]
    finally:
        for process in (*doomed, *spared):
            process.kill()
            process.wait()


def test_a_driver_that_is_killed_is_cleaned_up_behind(tmp_path):
    code = f"""
        import subprocess, sys, time
        from noiseweave.cluster import local_ray
        with local_ray._reaper({str(tmp_path)!r}):
            subprocess.Popen([sys.executable, "-c", {WRITER.format(log=str(tmp_path / "log"))!r}])
            sys.stdin.readline()
    """
    driver = run_alone(code)
    assert driver.stdout.readline() == "up\n"
    processes = family(driver)
    assert len(processes) == 2
    driver.kill()
    assert not still_there_after(processes, GONE)


def test_a_head_that_comes_back_in_time_is_waited_for(monkeypatch, tmp_path):
    now = [0.0]
    monkeypatch.setattr(joined_ray.time, "monotonic", lambda: now[0])
    monkeypatch.setenv(joined_ray.RECONNECT, "100")
    raylet, head = tmp_path / "raylet", joined_ray.socket.socket()
    beside = joined_ray.socket.socket(joined_ray.socket.AF_UNIX)
    with head, beside:
        beside.bind(str(raylet))
        beside.listen()
        head.bind(("127.0.0.1", 0))
        head.listen()
        address = head.getsockname()
        gone = joined_ray.lost(f"127.0.0.1:{address[1]}", str(raylet))
        assert not gone()
        head.close()
        now[0] = 79.0
        assert not gone()
        again = joined_ray.socket.create_server(address)
        assert not gone()
        again.close()
        now[0] = 158.0
        assert not gone()
        now[0] = 160.0
        assert gone()
        now[0] = 80.0
        assert not gone()
    assert gone(), "its process on this machine does not come back"


def begin(code, folder, *arguments):
    """A job that is in the middle, the processes that it has by then, and what it told."""
    driver = run_alone(code, folder, *arguments)
    line = driver.stdout.readline()
    assert line, driver.stderr.read()[-3000:]
    end = time.monotonic() + 300
    while len(list(Path(folder).glob("begun-*"))) < 4 and time.monotonic() < end:
        time.sleep(0.1)
    assert driver.poll() is None
    return driver, family(driver), json.loads(line)


def marks(folder):
    return {path.name: path.stat().st_mtime_ns for path in Path(folder).rglob("u*.json")}


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["gcs_server", "raylet"])
def test_a_batch_whose_ray_dies_goes_on_from_what_is_done(tmp_path, victim):
    driver, processes, told = begin(BATCH, tmp_path, 20)
    os.kill(told[victim], signal.SIGKILL)
    start = time.monotonic()
    error = wait(driver)
    assert time.monotonic() - start < GONE
    assert driver.returncode == 1
    assert error.splitlines()[-1] == ray_end.ENDED
    assert error.count(ray_end.ENDED) == 1
    assert not still_there_after(processes, GONE)
    done = marks(tmp_path)
    assert 1 <= len(done) <= 3
    again = run_alone(BATCH, tmp_path, 8)
    out, error = again.communicate(timeout=300)
    assert out.splitlines()[1:] == ["produced 8 0"], error[-2000:]
    assert marks(tmp_path).items() >= done.items(), "what is done is not done again"


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["gcs_server", "raylet"])
def test_a_training_whose_ray_dies_says_so(tmp_path, victim):
    driver, processes, told = begin(TRAINING, tmp_path)
    os.kill(told[victim], signal.SIGKILL)
    start = time.monotonic()
    error = wait(driver)
    assert time.monotonic() - start < GONE
    assert (driver.returncode, error.splitlines()[-1]) == (1, ray_end.ENDED)
    assert not still_there_after(processes, GONE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_nothing_stays_of_a_run_that_is_stopped(tmp_path, number, code):
    driver, processes, _ = begin(BATCH, tmp_path, 20)
    driver.send_signal(number)
    error = wait(driver)
    assert driver.returncode == code
    assert (termination.TERMINATED in error) == (number == signal.SIGTERM)
    assert not still_there_after(processes, GONE)


SLOW_START = """
    import sys
    from noiseweave.cluster import local_ray, session
    session.settle()
    import psutil, ray

    ready, children = ray._private.services.get_node, []
    def slow(*arguments):  # Ray asks for its node when all its processes are started
        children.append(len(psutil.Process().children()))
        if len(children) < int(sys.argv[1]):
            raise Exception("The current node timed out\\nduring startup.")
        return ready(*arguments)
    ray._private.services.get_node = slow
    try:
        with local_ray.started(num_cpus=2):
            print("up", len(set(children)))
    except ValueError as e:
        print(e, len(set(children)))
"""
DOES_NOT = "cluster: Ray does not start here (Exception: The current node timed out during startup.)"


@pytest.mark.slow
@pytest.mark.parametrize(("tries", "said"), [(2, "up 1"), (9, f"{DOES_NOT} 1")])
def test_a_start_that_takes_too_long_is_tried_again(tries, said):
    driver = run_alone(SLOW_START, tries)
    out, error = driver.communicate(timeout=300)
    assert out.strip() == said, error[-2000:]


JOINED = """
    import json, sys
    from noiseweave.cluster import session
    session.settle()
    from ray.cluster_utils import Cluster

    if sys.argv[1] == "head":
        cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=2, include_dashboard=False))
        infos = cluster.head_node.all_processes
        core = [infos[name][0].process.pid for name in ("gcs_server", "raylet")]
        print(json.dumps([cluster.address, *core]), flush=True)
        sys.stdin.readline()
    else:
        with session.session(session.ClusterConfig(address=sys.argv[1])):
            import os
            print("joined", os.environ.get("RAY_AUTH_MODE"), flush=True)
            sys.stdin.readline()
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["gcs_server", "raylet"])
def test_the_end_of_a_ray_that_was_joined_is_told_too(tmp_path, victim):
    patience = {joined_ray.RECONNECT: "20"}
    head = run_alone(JOINED, "head", home=tmp_path)
    try:
        address, gcs, raylet = json.loads(head.stdout.readline())
        driver = run_alone(JOINED, address, home=tmp_path, env=patience)
        assert driver.stdout.readline() == "joined None\n"
        os.kill(gcs if victim == "gcs_server" else raylet, signal.SIGKILL)
        start = time.monotonic()
        error = wait(driver)
        assert time.monotonic() - start < (25 if victim == "gcs_server" else GONE)
        assert (driver.returncode, error) == (1, f"{ray_end.ENDED}\n")
    finally:
        processes = family(head)
        head.kill()
        head.wait()
        for process in processes:
            if process.is_running():
                process.kill()
