"""The benchmark for GPUs: its cases run and check results, on the CPU with small inputs."""

import importlib.util
import json

import pytest
from common import ROOT, needs

import cuekit

torch = needs("torch")
SCRIPT = ROOT / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu(monkeypatch):
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "gpu_benchmark", module)
    spec.loader.exec_module(module)
    small = {"BATCH": 4, "SIZE": (45, 60), "PIXELS": 45 * 60, "GRID": (5, 6), "DEVICE": "cpu"}
    small["CELLS"] = (12, 16)
    for name, value in small.items():
        monkeypatch.setattr(module, name, value)
    # The timed calls run; their times do not matter here.
    monkeypatch.setattr(module, "milliseconds", lambda calls, _rounds=0: len([c() for c in calls]))
    monkeypatch.setattr(module, "in_turns", lambda f, *t, **o: [lambda: f(*t, **o)])
    on_cpu = cuekit.dense_crf  # has no float16 storage
    monkeypatch.setattr(
        cuekit,
        "dense_crf",
        lambda *a, storage="float32", **o: on_cpu(*a, **o),  # noqa: ARG005
    )
    return module


CASES = ("elementwise", "superpixel", "filter", "mask", "refine_local", "crf", "walk")


def test_all_cases_are_tested(gpu):
    assert [cases.__name__ for cases in gpu.CASES] == [f"{name}_cases" for name in CASES]


@pytest.mark.parametrize("name", CASES)
def test_cases(gpu, name):
    rows = list(getattr(gpu, f"{name}_cases")(1e6))
    assert len(rows) >= 2
    for row in rows:
        assert row.line().count("|") == 7
        assert (row.bytes > 0) == (name in ("elementwise", "superpixel"))


def test_a_wrong_answer_is_not_timed(gpu, monkeypatch):
    right = cuekit.suppress_absent
    monkeypatch.setattr(
        cuekit, "suppress_absent", lambda *a, **o: right(*a, **o) + torch.is_tensor(a[0])
    )
    with pytest.raises(AssertionError, match="suppress"):
        next(gpu.elementwise_cases(1e6))


def test_limits(gpu):
    assert gpu.Row("fast", 1.0, 8, share=0.8, at_least=0.8).holds()
    assert not gpu.Row("slow", 1.0, 8, share=0.79, at_least=0.8).holds()
    assert gpu.Row("fast", 1.0, peers={"a": 9.0, "b": 5.0}, times=5).holds()
    assert not gpu.Row("slow", 1.0, peers={"a": 9.0, "b": 4.9}, times=5).holds()
    assert not gpu.Row("slow", 1.01, at_most_ms=1).holds()


def test_needs_a_gpu(gpu, monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU that torch can use"):
        gpu.main()


def test_figures_are_kept_as_they_come(gpu, monkeypatch, tmp_path):
    class Properties:
        name, multi_processor_count = "a GPU", 1

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(gpu, "copy_bandwidth", lambda: 1e6)
    monkeypatch.setattr(gpu, "CASES", [gpu.elementwise_cases])
    gpu.measure(tmp_path / "figures.json")
    content = json.loads((tmp_path / "figures.json").read_text())
    assert content["gpu"] == "a GPU"
    assert len(content["rows"]) == 8
