"""`cuekit labels --engine ray`: the same labels from a cluster whose nodes are killed on the way.

The cluster is a real one: a head without processors and two nodes with one each, which are
processes of this machine.
"""

import contextlib
import csv
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import object_store
import pytest
from common import CUEKIT, children, is_running
from PIL import Image

from cuekit import io, run
from cuekit.__main__ import main
from cuekit.run._ray import _MOST_IN_CHUNK, _Driver, run_all_on_ray, work_on
from cuekit.run._workers import RunStoppedError

RECIPES = '''
import os, signal, time
from pathlib import Path
import numpy as np

def strongest(photo, maps, tags=None, *, seconds=0.0):
    """The class of the largest value."""
    time.sleep(seconds)
    return maps.class_ids[maps.maps.argmax(0)].astype(np.uint8)

def fragile(photo, maps, tags=None):
    """Raises, crashes or hangs, for photos of one colour each."""
    kind = photo[0, 0, 0]
    if kind == 255:
        raise KeyError("no such thing")
    if kind == 254:
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == 253:
        time.sleep(1000)
    return strongest(photo, maps, seconds=0.01)

def several(photos, maps, tags):
    """What `fragile` does, of a batch."""
    with open("sizes", "a") as file:
        file.write(f"{len(photos)} ")
    return [fragile(*each) for each in zip(photos, maps)]

def fatal(photo, maps, tags=None):
    """Kills its Ray worker, too, for one photo."""
    if photo[0, 0, 0] == 255:
        with open("deaths", "a") as file:
            file.write("x")
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(1)
    return strongest(photo, maps, seconds=0.01)

def no_place(photo, maps, tags=None):
    """Takes away the folder for unfinished files, as a disk that fails."""
    Path("out/.unfinished").rename("gone")
    return strongest(photo, maps)

def gpu(photo, maps, tags=None):
    """The number of the GPU, and 255 without one."""
    found = os.environ.get("CUDA_VISIBLE_DEVICES")
    return np.full(photo.shape[:2], int(found) if found else 255)

class Echo:
    """A task that does nothing."""
    def __init__(self, settings):
        pass

    def __call__(self, item):
        return {"twice": 2 * item["number"]}
'''
SIZE = (6, 9)
CLUSTER = {
    "object_store_memory": 80 * 2**20,
    "include_dashboard": False,
}
# A node that is lost is noticed after 2 seconds, by default after half a minute.
WATCHFUL = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
# Ray leaves files and sockets open, which are warnings at the end of a test.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with a module of recipes and 60 photos with maps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ray_recipes", raising=False)
    (tmp_path / "ray_recipes.py").write_text(RECIPES)
    (tmp_path / "photos").mkdir()
    (tmp_path / "maps").mkdir()
    for i in range(60):
        write_photo(tmp_path / "photos" / f"{i:02}.png", i)
        maps = np.random.default_rng(i).random((2, *SIZE), np.float32)
        io.write_maps(tmp_path / "maps" / f"{i:02}.npz", maps, [3, 17], encoding="float16")
    return tmp_path


def write_photo(path, seed, red=0):
    pixels = np.random.default_rng(seed).integers(0, 250, (*SIZE, 3), np.uint8)
    pixels[0, 0, 0] = red
    Image.fromarray(pixels).save(path)


class Nodes:
    """A cluster."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "_system_config": WATCHFUL, **CLUSTER},
            shutdown_at_exit=False,
        )
        self.nodes = [self.add(), self.add()]
        self.cluster.wait_for_nodes()

    @property
    def address(self):
        return self.cluster.address

    def add(self):
        return self.cluster.add_node(num_cpus=1, **CLUSTER)

    def kill_one(self):
        """Kill the manager of a node by its process id: the machine is lost."""
        node = self.nodes.pop()
        for info in node.all_processes["raylet"]:
            os.kill(info.process.pid, signal.SIGKILL)
        return node

    def mend(self):
        """Have two nodes again."""
        while len(self.nodes) < 2:
            self.nodes.append(self.add())


@pytest.fixture(scope="module")
def nodes():
    pytest.importorskip("ray", reason="needs Ray: pip install 'cuekit[ray]'")
    with contextlib.ExitStack() as stack:
        if object_store.is_installed():  # nodes have the environment in which they were started
            stack.enter_context(object_store.s3_server())
        found = Nodes()
        stack.callback(found.cluster.shutdown)
        yield found


def labels(recipe="strongest", out="out", **options):
    return run.labels("photos", "maps", out, f"ray_recipes:{recipe}", **options)


def contents(folder):
    paths = sorted(Path(folder).rglob("*.png"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def journal(folder):
    """Return the entries of the journal, without times, by name."""
    entries = map(json.loads, Path(folder, "journal.jsonl").read_text().splitlines())
    return {entry.pop("name"): entry for entry in entries if entry.pop("time")}


def failures(folder):
    with Path(folder, "failures.csv").open(newline="") as file:
        return dict(list(csv.reader(file))[1:])


def wait_for(condition, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@contextlib.contextmanager
def once_written(count, action):
    """Do something in a thread when `count` labels are there; yield a list of what it returned."""
    done = []

    def watch():
        wait_for(lambda: len(contents("out")) >= count)
        done.append((len(contents("out")), action()))

    thread = threading.Thread(target=watch)
    thread.start()
    yield done
    thread.join()
    # It happened on the way, not at the end.
    assert done
    assert done[0][0] < 60


# ------------------------------------------------------------------------------- on a cluster


def test_all_that_is_written_is_that_of_one_machine(place, nodes):
    for name, red in (("05", 255), ("11", 254), ("23", 253)):
        write_photo(place / "photos" / f"{name}.png", 0, red)
    (place / "photos" / "30.png").write_bytes(b"no photo")
    (place / "photos" / "40.png").unlink()
    local = labels("fragile", out="local", jobs=2, timeout=2)
    found = labels("fragile", engine="ray", address=nodes.address, timeout=2)
    assert (found.photos, found.written, found.kept) == (60, 55, 0)
    assert found.failed == local.failed
    assert found.pixels == local.pixels
    assert contents("out") == contents("local")
    assert len(contents("out")) == 55
    assert journal("out") == journal("local")
    for name in ("failures.csv", "run.json"):
        assert Path("out", name).read_text() == Path("local", name).read_text()
    assert failures("out")["05"].startswith("KeyError: 'no such thing' (ray_recipes.py, line ")
    assert failures("out")["11"] == "the worker process was ended by SIGSEGV"
    assert failures("out")["23"] == "the worker process was ended after 2 s, the time limit"
    assert not Path("out/.unfinished").exists()


def test_a_node_is_lost_and_no_photo(nodes):
    options = {"options": {"seconds": 0.1}}
    labels(out="local", jobs=2, **options)
    with once_written(10, nodes.kill_one):
        found = labels(engine="ray", address=nodes.address, **options)
    nodes.mend()
    assert (found.written, found.failed) == (60, {})
    assert contents("out") == contents("local")
    assert journal("out") == journal("local")


def ray_workers():
    """Return the ids of the processes that run chunks."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if file.read_bytes().startswith(b"ray::work_on"):
                found.append(int(file.parent.name))
    return found


def test_a_ray_worker_is_killed_and_no_photo_is_lost(nodes):
    def kill():
        workers = ray_workers()
        for each in workers:
            os.kill(each, signal.SIGKILL)
        return workers

    with once_written(10, kill):
        found = labels(engine="ray", address=nodes.address, options={"seconds": 0.1})
    assert (found.written, found.failed) == (60, {})
    assert contents("out") != {}
    assert len(contents("out")) == 60


def test_a_photo_that_ends_ray_workers_is_listed_and_takes_no_other_with_it(place, nodes):
    write_photo(place / "photos" / "31.png", 0, 255)
    found = labels("fatal", engine="ray", address=nodes.address)
    assert found.written == 59
    assert list(found.failed) == ["31"]
    assert found.failed["31"].startswith("it was tried 3 times; the last time, its Ray worker was")
    # Three times alone, and perhaps first with others.
    assert Path("deaths").read_text() in ("xxx", "xxxx")


def test_resuming_with_another_engine(nodes):
    assert labels(limit=10).written == 10
    found = labels(engine="ray", address=nodes.address, limit=40)
    assert (found.written, found.kept) == (30, 10)
    found = labels(jobs=2)
    assert (found.written, found.kept) == (20, 40)
    assert labels(engine="ray", address=nodes.address).kept == 60
    labels(out="local")
    assert contents("out") == contents("local")


def test_what_stops_a_run_stops_the_cluster(nodes):
    with pytest.raises(
        RunStoppedError, match=r"^node .*: .*(cannot be written|must see the folder)"
    ):
        labels("no_place", engine="ray", address=nodes.address)
    wait_for(lambda: not ray_workers())


def test_items_are_taken_when_there_is_room(nodes):
    """The driver's memory: a bounded number of items is under way, of any number."""
    taken = 0

    def items():
        nonlocal taken
        for taken in range(1, 20_001):
            yield {"number": taken}

    seen, most = [], 0
    task = "ray_recipes:Echo"
    with contextlib.closing(run_all_on_ray(task, {}, items(), address=nodes.address)) as results:
        for item, result in results:
            assert result == {"twice": 2 * item["number"]}
            most = max(most, taken - len(seen))
            seen.append(item["number"])
    assert sorted(seen) == list(range(1, 20_001))
    # Two processors with two chunks each, and one that has just come back.
    assert most <= 5 * _MOST_IN_CHUNK


def test_a_run_that_is_closed_leaves_nothing_on_the_cluster(nodes):
    items = ({"number": i} for i in itertools.count())
    results = run_all_on_ray("ray_recipes:Echo", {}, items, address=nodes.address)
    next(results)
    results.close()
    wait_for(lambda: not ray_workers())


def test_the_number_of_chunks_under_way_can_be_set(nodes):
    """One chunk at once leaves one of the two nodes without work."""
    options = {"seconds": 0.05}
    with once_written(10, ray_workers) as workers:
        labels(engine="ray", address=nodes.address, jobs=1, options=options)
    assert len(workers[0][1]) == 1


def test_each_process_has_the_gpus_that_were_asked_for(nodes):
    """Ray counts GPUs as it is told to: the third node has two that do not exist."""
    node = nodes.cluster.add_node(num_cpus=4, num_gpus=2, **CLUSTER)
    try:
        found = labels("gpu", engine="ray", address=nodes.address, gpus_per_worker=1)
        assert (found.written, found.failed) == (60, {})
        # One GPU each; which one is Ray's choice.
        assert {0, 1} >= set(found.pixels) != set()
    finally:
        nodes.cluster.remove_node(node)


def test_tars_out_of_a_cluster_that_loses_a_node(nodes):
    options = {"options": {"seconds": 0.1}, "engine": "ray", "address": nodes.address}
    thread = threading.Thread(
        target=lambda: wait_for(Path("out/labels-000001.tar").exists) or nodes.kill_one()
    )
    thread.start()
    found = labels(shard_size=7, **options)
    thread.join()
    nodes.mend()
    assert (found.written, found.failed) == (60, {})
    labels(out="local")
    assert members("out") == contents("local")
    assert labels(shard_size=7, **options).kept == 60


def members(folder):
    """Return the content of all tars; each name must be there once."""
    found = {}
    for path in Path(folder).glob("*.tar"):
        with tarfile.open(path) as archive:
            for member in archive:
                assert member.name not in found
                found[member.name] = archive.extractfile(member).read()
    return found


def test_batches_on_a_cluster(place, nodes):
    for name, red in (("05", 255), ("11", 254)):
        write_photo(place / "photos" / f"{name}.png", 0, red)
    found = labels("several", engine="ray", address=nodes.address, batch=4, timeout=20)
    assert found.failed["05"].startswith("KeyError: 'no such thing'")
    assert found.failed["11"] == "the worker process was ended by SIGSEGV"
    assert found.written == 58
    labels("fragile", out="local", jobs=1)
    assert contents("out") == contents("local")
    assert max(map(int, Path("sizes").read_text().split())) == 4


def test_tars_on_a_cluster(nodes):
    with tarfile.open("photos.tar", "w") as archive:
        for path in sorted(Path("photos").iterdir()):
            archive.add(path, path.name)
    labels(out="local")
    found = run.labels(
        "photos.tar", "maps", "out", "ray_recipes:strongest", engine="ray", address=nodes.address
    )
    assert found.written == 60
    assert contents("out") == contents("local")


def test_an_object_store_on_a_cluster_that_loses_a_node(nodes):
    if not object_store.is_installed():
        pytest.skip("needs s3fs and moto: pip install 'cuekit[test-cluster]'")
    store, url = object_store.new_bucket("cluster")
    for folder in ("photos", "maps"):
        store.put(folder, f"{url}/{folder}", recursive=True)
    options = {"engine": "ray", "address": nodes.address, "options": {"seconds": 0.1}}
    places = (f"{url}/photos", f"{url}/maps", f"{url}/out")
    written = []  # when the node is killed

    def kill():
        while len(written) == 0 or written[-1] < 10:
            time.sleep(0.1)
            written.append(len(object_store.label_files(store, f"{url}/out")))
        nodes.kill_one()

    thread = threading.Thread(target=kill)
    thread.start()
    found = run.labels(*places, "ray_recipes:strongest", **options)
    thread.join()
    nodes.mend()
    assert written[-1] < 60
    assert (found.written, found.failed) == (60, {})
    labels(out="local")
    assert object_store.label_files(store, f"{url}/out") == contents("local")
    assert run.labels(*places, "ray_recipes:strongest", **options).kept == 60


# ----------------------------------------------------------------------- a Ray of this call


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_ray_that_was_started_ends_with_the_run(number):
    pytest.importorskip("ray")
    command = [*CUEKIT, "labels", "--photos", "photos", "--maps", "maps"]
    command += ["--out", "out", "--recipe", "ray_recipes:strongest", "--option", "seconds=0.2"]
    command += ["--engine", "ray", "--address", "local", "--jobs", "1"]
    process = subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: len(contents("out")) >= 4)
    started = children(process.pid)
    assert len(started) > 3
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    assert "written" not in output
    wait_for(lambda: not any(map(is_running, started)), 20)
    assert not Path("out/.unfinished").exists()
    # Photos of the chunks that were in work have labels, but are not in the journal.
    found = labels(options={"seconds": 0.0}, out="local")
    assert contents("out").items() <= contents("local").items()
    found = labels(options={"seconds": 0.2}, jobs=4)
    assert 1 <= found.kept < 60
    assert contents("out") == contents("local")


# ------------------------------------------------------------------------- without a cluster


def test_without_ray_the_error_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = ["labels", "--photos", "photos", "--maps", "maps", "--out", "out"]
    assert main([*arguments, "--recipe", "ray_recipes:strongest", "--engine", "ray"]) == 2
    assert "pip install 'cuekit[ray]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engine": "spark"}, "engine must be one of 'local', 'ray', got 'spark'"),
        ({"address": "auto"}, "address must be left out for engine 'local', got 'auto'"),
        ({"timeout": 0}, "timeout must be at least 0.1, got 0"),
        ({"gpus_per_worker": 1}, "gpus_per_worker must be left out for engine 'local', got 1"),
        ({"engine": "ray", "gpus_per_worker": 1.5}, "must be below 1 or whole, got 1.5"),
        ({"engine": "ray", "jobs": 0}, "jobs must be at least 1, got 0"),
    ],
)
def test_wrong_requests(change, message):
    with pytest.raises(ValueError, match=message):
        labels(**change)
    assert not Path("out").exists()


def test_a_function_that_nodes_cannot_import():
    def local(*_):
        return None

    with pytest.raises(ValueError, match=r"worker processes can import, got .*local"):
        run.labels("photos", "maps", "out", local, engine="ray")


def test_no_cluster_at_an_address():
    pytest.importorskip("ray")
    with pytest.raises(OSError, match=r"address must be that of a Ray cluster that is running"):
        labels(engine="ray", address="127.0.0.1:1")


def start(**change):
    from cuekit import __version__

    settings = {"recipe": "ray_recipes:strongest", **change.pop("settings", {})}
    return json.dumps(
        {
            "task": "ray_recipes:Echo",
            "settings": settings,
            "timeout": None,
            "cuekit": __version__,
            "folder": os.fspath(Path.cwd()),
            "module": None,
            **change,
        }
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cuekit": "0.0.9"}, "all nodes must have cuekit 0.0.9, got"),
        ({"settings": {"unfinished": "out/.unfinished"}}, "must see the folder of the labels"),
        ({"task": "no_module:Task"}, "No module named 'no_module'"),
    ],
)
def test_nodes_that_cannot_work_stop_the_run(change, message):
    answer = json.loads(
        work_on(start(**change), "[]" if "task" not in change else '[{"number": 1}]')
    )
    assert message in answer["stop"]
    assert answer["node"] == socket.gethostname()


def test_a_recipe_is_sent_along_and_must_be_the_callers():
    source = {"name": "sent", "text": "X = 1\n" + RECIPES}
    arguments = start(module=source, task="sent:Echo")
    answer = json.loads(work_on(arguments, '[{"number": 4}]'))
    # The time of the first item holds that of the start of the process.
    assert answer == {"results": [{"twice": 8}], "seconds": None}
    answer = json.loads(work_on(arguments, '[{"number": 5}]'))
    assert answer["results"] == [{"twice": 10}]
    assert 0 < answer["seconds"] < 1
    other = {"recipe_source": "0" * 64, "archives": []}
    task = "cuekit.run._label_task:LabelTask"
    answer = json.loads(work_on(start(settings=other, task=task), '[{"number": 4}]'))
    assert "recipe ray_recipes:strongest must be the caller's, got another file" in answer["stop"]


class FakeRay:
    """Enough of Ray to make a driver."""

    @staticmethod
    def remote(**_):
        return lambda function: function


@pytest.mark.parametrize(
    ("seconds", "cpus", "length"),
    [
        (None, 2, 1),  # nothing is known yet
        (0.1, 2, 20),  # 2 seconds
        (0.0, 2, _MOST_IN_CHUNK),
        (100, 2, 1),
        (0.1, 1000, 200),  # 20 seconds: 50 chunks per second reach the driver
    ],
)
def test_chunks_are_sized_by_time(seconds, cpus, length):
    driver = _Driver(FakeRay(), {}, None)
    driver._seconds, driver._workers = seconds, cpus
    assert driver._length() == length
