"""What a run knows of many photos, in little memory: sorted strings, and journals on the disk."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuekit.run._journal import Journals
from cuekit.run._strings import Strings

# All that a name of a file may hold, surrogates of bytes that are not UTF-8 included.
NAMES = st.text(st.characters(exclude_characters="\0"), max_size=5)
FEW = st.sampled_from(["", "a", "b", "b/", "ab", "é", "\udcff", "😀", "\ue000"])


@given(st.lists(NAMES), st.slices(8))
def test_strings_are_a_list(values, part):
    strings = Strings(values)
    assert list(strings) == values
    assert [strings[i] for i in range(len(strings))] == values
    assert list(strings[part]) == values[part]
    assert list(Strings.in_order(values)) == sorted(values)
    with pytest.raises(IndexError, match="index must be in"):
        strings[len(values)]


@given(st.lists(FEW | NAMES), st.lists(FEW | NAMES))
def test_sorted_strings_are_found_by_their_start(values, asked):
    lines = sorted(f"{value}\0x" for value in values)
    strings = Strings(lines)
    # In any order, and in the order of the strings, which is faster.
    for start in [*asked, *sorted(values)]:
        expected = [line for line in lines if line.startswith(f"{start}\0")]
        assert strings.starting_with(f"{start}\0") == expected


ENTRIES = st.fixed_dictionaries(
    {
        "name": FEW,
        "time": st.integers(0, 3) | st.floats(0, 3),
        "state": st.sampled_from(["done", "failed", "old"]),
    },
    optional={"inputs": st.lists(st.integers(), max_size=2)},
)
JUNK = st.sampled_from([b"", b"[]", b"3", b"null", b'{"name": "a"}', b'{"time": 1}', b"\xff", b"{"])


@given(st.lists(st.lists(st.tuples(ENTRIES, JUNK), max_size=6), max_size=3), FEW)
def test_the_last_entry_of_each_photo(tmp_path_factory, journals, name):
    """The oracle keeps all entries in a dict."""
    folder = tmp_path_factory.mktemp("journals")
    expected = {}
    paths = []
    for number, lines in enumerate(journals):
        paths.append(folder / f"{number}.jsonl")
        text = b"".join(json.dumps(entry).encode() + b"\n" + junk + b"\n" for entry, junk in lines)
        paths[-1].write_bytes(text)
        for entry, _ in lines:
            if entry["time"] >= expected.get(entry["name"], entry)["time"]:
                expected[entry["name"]] = entry
    found = Journals(paths)
    assert found.entry(name) == expected.get(name, {})
    failed = {key: entry for key, entry in expected.items() if entry["state"] == "failed"}
    assert found.failed == failed
    found.close()


def test_entries_of_tars(tmp_path):
    lines = [
        {"shard": "a.tar", "id": "1", "checksum": [3, 4], "time": 2},
        {"shard": "a.tar", "id": "2", "checksum": [5, 6], "time": 3},
        {"shard": "a.tar", "id": "0", "checksum": [1, 2], "time": 1},
        {"shard": "b.tar", "time": 1},  # no such line is written
    ]
    path = Path(tmp_path / "journal.jsonl")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert Journals([path]).shards == {"a.tar": lines[1]}
