"""Lists of names, tags and folders of files, as a run reads them; the frame of the command."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cuekit
from cuekit.__main__ import COMMANDS, main, parser
from cuekit.run import read_list, read_tags
from cuekit.run._sources import Files


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ----------------------------------------------------------------------------------------- lists


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a\nb\n", ["a", "b"]),
        ("b\r\n\r\n  a  \r\n", ["b", "a"]),
        ("JPEGImages/a.jpg\nx/b.PNG\n", ["JPEGImages/a", "x/b"]),
        ("/JPEGImages/a.jpg /SegmentationClassAug/a.png\n", ["a"]),
        ("2007.12.x\n", ["2007.12.x"]),
        ("ä\n", ["ä"]),
        ("\ufeffa\nb\n", ["a", "b"]),  # as Windows' editors write it
    ],
)
def test_lists(tmp_path, text, names):
    (tmp_path / "list.txt").write_text(text, encoding="utf-8", newline="")
    assert read_list("list.txt") == names


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a 1\n", r"line 1: a line must hold one name, .*'a 1'"),
        (b"a\n2008_000002 -1\n", r"line 2: .*'2008_000002 -1'"),
        (b"a b c\n", r"line 1: "),
        (b"a\nb\na\n", r"line 3: a name must be listed once, got 'a' also in line 1"),
        (b"a.jpg\na\n", r"line 2: a name must be listed once"),
        (b"../a\n", r"line 1: a name must be a path within a folder, got '../a'"),
        (b"/etc/passwd\n", r"got '/etc/passwd'"),
        (b"a\\b\n", r"a path within a folder"),
        (b"\n \n", r"a list must hold at least one name, got none"),
        (b"\xff\xfe\n", r"a list of names must be UTF-8 text"),
    ],
)
def test_wrong_lists(tmp_path, data, message):
    (tmp_path / "list.txt").write_bytes(data)
    with pytest.raises(ValueError, match=rf"^list.txt.*{message}"):
        read_list("list.txt")


# ------------------------------------------------------------------------------------------ tags

TAGS = {"a": (1, 3), "b": (), "c": (2,)}
ROWS = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64, bool])
def test_tags_of_arrays(dtype):
    np.savez("tags.npz", ids=np.array(list(TAGS)), labels=ROWS.astype(dtype))
    rows = dict(zip(TAGS, ROWS.astype(dtype), strict=True))
    np.save("cls_labels.npy", np.array(rows, dtype=object), allow_pickle=True)
    assert read_tags("tags.npz") == read_tags("cls_labels.npy") == TAGS


def test_tags_of_texts(tmp_path):
    (tmp_path / "tags.json").write_text('{"a.jpg": [3, 1, 3], "b": [], "c": ["dog"]}')
    (tmp_path / "tags.txt").write_text("\ufeffa 3 1\n\nb\nc dog\n", encoding="utf-8")
    classes = ["background", "cat", "dog"]
    assert read_tags("tags.json", classes) == read_tags("tags.txt", classes) == TAGS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tags.txt", "a 0", r"tags of a must be class ids from 1 on, .* got 0"),
        ("tags.txt", "a cat", r"tags of a must be class ids from 1 on, .* got 'cat'; names with"),
        ("tags.txt", "a 1\na 2", "a photo must be listed once"),
        ("tags.json", "[1]", "tags must be a dict of lists"),
        ("tags.json", '{"a": 3}', "not iterable"),
        ("tags.json", '{"a": [true]}', "got True"),
        ("tags.json", '{"a": [1.5]}', "got 1.5"),
        ("tags.json", '{"a": ', "Expecting value"),
        ("tags.json", "[" * 100_000, "recursion"),
        ("tags.npz", {"ids": np.array(["a"]), "labels": np.array([[2]])}, "must be 0 or 1, got 2"),
        ("tags.npz", {"ids": np.array([1]), "labels": np.array([[1]])}, r"ids must be \(N,\) str"),
        ("tags.npz", {"ids": np.array(["a"]), "labels": np.ones((2, 3))}, r"ids must be \(N,\)"),
        ("tags.npy", np.ones(3), "tags must be a dict"),
        ("tags.npy", {"a": np.ones((2, 2))}, r"must be an array \(C,\)"),
    ],
)
def test_wrong_tags(tmp_path, name, content, message):
    if isinstance(content, str):
        (tmp_path / name).write_text(content)
    elif name.endswith("npz"):
        np.savez(name, **content)
    else:
        np.save(name, np.array(content), allow_pickle=True)
    with pytest.raises(ValueError, match=rf"^{name}: .*{message}"):
        read_tags(name)


# --------------------------------------------------------------------------------------- folders


def test_files(tmp_path):
    for name in ["a.jpg", "b.JPG", "c.png", "c.jpg", "d.txt", ".e.jpg", "x/y/f.png", ".g/h.png"]:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    files = Files("photos", (".jpg", ".png"), "photos")
    assert list(files.names()) == ["a", "b", "c", "x/y/f"]
    assert files.path("x/y/f") == tmp_path.relative_to(tmp_path) / "photos" / "x" / "y" / "f.png"
    assert ("a" in files, "d" in files) == (True, False)
    with pytest.raises(FileNotFoundError, match="photos has no photos of d"):
        files.path("d")
    with pytest.raises(
        ValueError, match=r"must have one file of photos for each name, got .*c\.jpg and "
    ):
        files.path("c")
    with pytest.raises(FileNotFoundError, match="none"):
        Files("none", (".jpg",), "photos")
    with pytest.raises(NotADirectoryError, match=r"a.jpg"):
        Files("photos/a.jpg", (".jpg",), "photos")


# --------------------------------------------------------------------------------------- command


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: cuekit {command}" in text
    assert f"  cuekit {command}" in text  # an example


def test_the_frame_of_the_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"cuekit {cuekit.__version__}\n"
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "usage: cuekit" in capsys.readouterr().err
    help_text = parser().format_help()
    assert all(command in help_text for command in COMMANDS)
    assert main(["labels", "--photos", "none", "--maps", "none", "--out", "out"]) == 2
    assert capsys.readouterr().err.startswith("cuekit labels: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("eval --labels a --truth b --csv photo.jpg", "--csv must be the name of a .csv file"),
        ("eval --labels a --truth b --json list.txt", "--json must be the name of a .json file"),
        ("sweep --maps a --truth b --png photo.jpg", "--png must be the name of a .png file"),
        ("sweep --maps a --truth b --json list.txt", "--json must be the name of a .json file"),
        ("labels --photos a --maps list.txt --out b", "No such file or directory: 'a'"),
    ],
)
def test_files_of_another_kind_are_not_written_over(arguments, message, capsys):
    for name in ("photo.jpg", "list.txt"):
        Path(name).write_bytes(b"mine")
    assert main(arguments.split()) == 2
    assert message in capsys.readouterr().err
    assert Path("photo.jpg").read_bytes() == Path("list.txt").read_bytes() == b"mine"


def test_an_option_that_would_be_lost(capsys):
    with pytest.raises(SystemExit):
        main([*["view", "--photos", "a", "--labels", "b", "--maps", "c", "--maps", "d"]])
    assert "--maps must be given once here, got 'd', too" in capsys.readouterr().err


def test_completion(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--print-completion", "bash"])
    try:
        import shtab
    except ImportError:
        assert stop.value.code == 2
        assert "pip install 'cuekit[cli]'" in capsys.readouterr().err
    else:
        assert shtab.__version__
        assert stop.value.code == 0
        assert "--retry-failed" in capsys.readouterr().out


def test_a_reader_that_has_enough():
    command = f"{sys.executable} -m cuekit info | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, timeout=60, check=False)  # noqa: S602
    assert done.stdout.startswith(b"cuekit")
    assert done.stderr == b""
