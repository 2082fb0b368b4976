"""What travels to a cluster, and what is said when none answers."""

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from noiseweave.cluster import package, submit


@pytest.fixture
def fill(tmp_path):
    def write(**files):
        for name, text in files.items():
            path = tmp_path / "home" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return str(tmp_path / "home")

    return write


def names(folder):
    return [name for name, _ in package.files_of(folder)]


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://head:8265", "http://head:8265"),
        ("http://head:80/", "http://head:80"),
        ("https://ray.example.org", "https://ray.example.org"),
        ("head", "http://head:8265"),
        ("10.0.0.1:6379", "http://10.0.0.1:8265"),
        ("ray://head:10001", "http://head:8265"),
        ("ray://[::1]:10001", "http://[::1]:8265"),
        ("auto", "http://127.0.0.1:8265"),
        (None, "http://127.0.0.1:8265"),
    ],
)
def test_spellings_of_an_address(given, url, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert submit.server(given) == url
    monkeypatch.setenv("RAY_ADDRESS", "ray://other:10001")
    assert submit.server(None) == "http://other:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://third:1")
    assert submit.server(None) == "http://third:1"
    with pytest.raises(ValueError, match=r"--address '//': http://host:8265"):
        submit.server("//")


def test_what_stays_at_home(fill):
    folder = fill(
        **{
            "job.yaml": "1",
            "code/a.py": "22",
            "code/__pycache__/a.pyc": "x",
            ".git/HEAD": "x",
            ".venv/bin/python": "x",
            "data/a.png": "x",
            "code/data/b.txt": "333",
            "out/shards/c.json": "x",
            "shards/a.tar": "x",
            "x.egg-info/PKG-INFO": "x",
            "secret.txt": "x",
            "notes.md": "x",
            ".gitignore": "secret.txt\n",
            ".rayignore": "*.md\n/weights/\n",
            "weights/w.bin": "x",
            "code/weights/w.bin": "4444",
        }
    )
    assert package.files_of(folder) == [
        ("code/a.py", 2),
        ("code/data/b.txt", 3),
        ("code/weights/w.bin", 4),
        ("job.yaml", 1),
    ]


def test_rules_of_inner_folders_hold_there_and_go_first(fill):
    folder = fill(
        **{
            ".gitignore": "*.log\n",
            "a.log": "x",
            "a.txt": "x",
            "in/.gitignore": "/*.txt\n!keep.log\n",
            "in/a.txt": "x",
            "in/keep.log": "x",
            "in/other.log": "x",
            "in/deep/a.txt": "x",
            ".rayignore": "!/data/\n",
            "data/table.csv": "x",
        }
    )
    assert names(folder) == ["a.txt", "data/table.csv", "in/deep/a.txt", "in/keep.log"]


def test_links_that_lead_out_stay(fill, tmp_path):
    folder = fill(**{"a.txt": "inside"})
    (tmp_path / "outside.txt").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/b.txt").write_text("x")
    os.symlink(tmp_path / "outside.txt", os.path.join(folder, "out.txt"))
    os.symlink(tmp_path / "elsewhere", os.path.join(folder, "linked"))
    os.symlink("nowhere", os.path.join(folder, "broken"))
    os.symlink("a.txt", os.path.join(folder, "b.txt"))
    assert names(folder) == ["a.txt", "b.txt"]


def test_too_much_names_the_largest(fill, tmp_path, monkeypatch):
    folder = fill(**{"big.bin": "x" * 5000, "small.txt": "x", "in/bigger.bin": "x" * 9000})
    monkeypatch.setattr(package, "LIMIT", 10_000)
    with pytest.raises(
        ValueError, match=r"at most 0; largest: in/bigger.bin \(0 MB\), big.bin .*\.rayignore"
    ):
        package.pack(folder, str(tmp_path / "package"))
    assert not (tmp_path / "package").exists()


def test_a_package_has_the_code(fill, tmp_path):
    target = tmp_path / "package"
    size = package.pack(fill(**{"a.txt": "22"}), str(target))
    assert size == sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) > 2
    assert (target / "a.txt").read_text() == "22"
    assert (target / "noiseweave/__main__.py").exists()
    assert (target / "noiseweave/models/digits-ddpm").is_dir()
    assert not list(target.rglob("__pycache__"))


def test_code_that_is_there_is_taken_as_it_is(fill, tmp_path):
    target = tmp_path / "package"
    assert package.pack(fill(**{"noiseweave/__init__.py": "mine = 1\n"}), str(target)) == 9
    assert [p.name for p in (target / "noiseweave").iterdir()] == ["__init__.py"]


@pytest.mark.timeout(60)
def test_a_port_where_nothing_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(
        ValueError, match=rf"cluster http://127.0.0.1:{port}: no answer \(.*refused\); --address"
    ):
        submit.connect(f"http://127.0.0.1:{port}")


@pytest.mark.timeout(60)
def test_a_server_that_says_nothing():
    """As a process of its own, which must end as well."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "noiseweave", "submit", "--address", url, "list"]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: cluster {url}: something listens there but does not answer as Ray does\n"


class Flaky:
    """A job server that loses the connection, and tells the log from its start each time."""

    def __init__(self, texts, statuses):
        self.texts, self.statuses = iter(texts), iter(statuses)

    async def tail_job_logs(self, name):
        for text in next(self.texts):
            if isinstance(text, Exception):
                raise text
            yield text

    def get_job_info(self, name):
        status = next(self.statuses)
        if isinstance(status, Exception):
            raise status
        code = {"SUCCEEDED": 0, "FAILED": 3}.get(status)
        return SimpleNamespace(
            submission_id=name, status=status, message=None, entrypoint="", driver_exit_code=code
        )


def test_a_log_is_written_once_whatever_the_connection_does():
    from aiohttp import ServerDisconnectedError

    lost, down = ServerDisconnectedError(), ConnectionError("refused")
    client = Flaky(
        [["one\n", "two", lost], [lost], ["one\ntwo\nth", "ree\n"], ["one\ntwo\n", "three\nfour\n"]],
        ["PENDING", "RUNNING", down, "RUNNING", "FAILED"],
    )
    written = []
    job = submit.follow(client, "j", written.append)
    assert "".join(written) == "one\ntwo\nthree\nfour\n"
    assert (job.status, job.exit_code) == ("FAILED", 3)


def test_an_ended_job_without_a_log_is_not_waited_for():
    lost = RuntimeError("no such log")
    job = submit.follow(Flaky([[lost]] * 9, ["PENDING"] + ["STOPPED"] * 9), "j", print)
    assert (job.status, job.exit_code) == ("STOPPED", None)


def test_a_cluster_that_is_gone_is_one_line(monkeypatch):
    monkeypatch.setattr(submit, "GONE", 0.0)
    down = ConnectionError("Connection\nrefused")
    with pytest.raises(ValueError, match="cluster: refused"):
        submit.follow(Flaky([[down]] * 9, ["RUNNING", *[down] * 9]), "j", print)


SECRET = (
    ".env",
    ".env.local",
    "conf/.netrc",
    ".ssh/config",
    ".aws/credentials",
    "keys/id_rsa",
    "credentials.json",
    "a/server.pem",
    "a/server.key",
)


def test_passwords_and_keys_stay_and_are_named(fill):
    folder = fill(**dict.fromkeys((*SECRET, "train.py", "keys/readme.txt", "environment.yaml"), "x"))
    assert names(folder) == ["environment.yaml", "keys/readme.txt", "train.py"]
    named = package.secrets_of(folder)
    assert {name.split("/")[0] for name in named} == {name.split("/")[0] for name in SECRET}
    assert ".ssh/" in named
    assert "keys/id_rsa" in named


def test_one_that_is_asked_for_travels(fill):
    folder = fill(**{"conf/test.pem": "x", "train.py": "x", ".rayignore": "!conf/test.pem\n"})
    assert "conf/test.pem" in names(folder)
    assert package.secrets_of(folder) == []


def test_a_home_folder_does_not_travel(tmp_path, monkeypatch):
    home = tmp_path / "users/me"
    (home / "project").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for folder in (home, tmp_path / "users", "/"):
        with pytest.raises(ValueError, match="your home folder"):
            package.check_folder(str(folder))
    package.check_folder(str(home / "project"))
