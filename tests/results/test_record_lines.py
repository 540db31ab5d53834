"""The fast reader of results files gives the same as parsing every line, or leaves the file to the parser."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_makers import make_record

from sfmoe_dg.results.record_arrays import blocks_of, read_blocks
from sfmoe_dg.results.record_lines import accuracy_names, num_domains, numbers_of_alike, read_lines


def file_of(*records):
    return b"".join(json.dumps(record, sort_keys=True).encode() + b"\n" for record in records)


def parsed(data):
    """The parser's result for a file: blocks as plain values, and faults."""
    found = list(read_lines(data))
    records = [record for _, record in found if not isinstance(record, str)]
    return plain(blocks_of(records)), [f"line {number} {fault}" for number, fault in found if isinstance(fault, str)]


def plain(blocks):
    """The run and the bytes of its numbers, for bitwise comparison that includes NaN and the signs of zeros."""
    return [(block.run, block.num_domains, block.values.shape, block.values.tobytes()) for block in blocks]


def test_numbers_are_the_step_the_held_out_domain_and_all_out_accuracies():
    record = make_record(300, [(0.125, 0.25), (0.5, 0.75)], test_envs=[1])
    found = numbers_of_alike(file_of(make_record(0, test_envs=[1]), make_record(300, test_envs=[1])))
    assert found is not None
    first, numbers = found
    assert first == make_record(0, test_envs=[1])
    # step; env1 in and out; out of env0, env1, env2: make_record's own accuracies
    assert numbers.tolist() == [0, 0.6, 0.3, 0.4, 0.3, 0.2, 300, 0.6, 0.3, 0.4, 0.3, 0.2]
    assert accuracy_names(record, [1]) == ["env1_in_acc", "env1_out_acc", "env0_out_acc", "env1_out_acc"]
    assert num_domains(record) == 2


@pytest.mark.parametrize("text", ["0", "1", "-0", "0.1", "12.5", "-0.0", "1e-05", "2.5E+3", "5e-324", "1" * 40])
def test_every_form_of_a_number_is_read_as_json_reads_it(text):
    data = file_of(make_record(0), make_record(1)).replace(b'"env1_out_acc": 0.3', b'"env1_out_acc": ' + text.encode())
    found = numbers_of_alike(data)
    assert found is not None
    assert struct.pack("d", found[1][-2]) == struct.pack("d", float(json.loads(text)))


@pytest.mark.parametrize(
    "text",
    ["01", ".5", "1.", "+1", "- 1", "0x1", "1e", "nan", "--1", '"1"', "null", "true", "NaN", "-Infinity", "1e400"],
)
@pytest.mark.parametrize("name", ["env1_out_acc", "loss"])
def test_what_is_no_finite_number_is_left_to_the_parser(text, name):
    whole = file_of(*(make_record(step) | {"loss": 0.3} for step in (0, 1, 2)))
    lines = whole.splitlines(keepends=True)
    lines[1] = lines[1].replace(f'"{name}": 0.3'.encode(), f'"{name}": {text}'.encode())
    assert numbers_of_alike(whole) is not None
    assert numbers_of_alike(b"".join(lines)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"hparams": {"lr": 0.2}},
        {"args": make_record(hparams_seed=1)["args"]},
        {"options": {"split": "identity"}},
        {"another": 1.0},
        {"env3_out_acc": 0.5},
    ],
)
def test_lines_that_differ_in_more_than_numbers_are_left_to_the_parser(change):
    data = file_of(make_record(0), make_record(1) | change, make_record(2))
    assert numbers_of_alike(data) is None
    blocks, faults = read_blocks(data)
    assert (plain(blocks), faults) == parsed(data)
    assert sum(len(block.values) for block in blocks) == 3


def test_text_that_looks_like_structure_is_text():
    odd = {"hparams": '{"lr": 1e-3, "x": "}"}', "output_dir": 'a", "hparams": {"', "name": "ü\2"}
    record = make_record(0, **odd) | {"options": {"split": "identity", "list": [1, {"a": "}"}]}}
    data = file_of(record, record | {"step": 1, "env0_in_acc": 0.75})
    found = numbers_of_alike(data)
    assert found is not None
    assert found[0] == record
    assert found[1].tolist()[6:8] == [1, 0.75]


@pytest.mark.parametrize("name", ['a"b', "a\\b", "ü", "", "field0", "a b"])
def test_keys_of_any_kind(name):
    data = file_of(make_record(0) | {name: 0.5}, make_record(1) | {name: 0.25})
    blocks, faults = read_blocks(data)
    assert (plain(blocks), faults) == parsed(data)
    assert len(blocks[0].values) == 2


@pytest.mark.parametrize("data", [b"", b"\n", b"{", b"\xff\n", b"[" * 100_000])
def test_files_without_a_record_are_left_to_the_parser(data):
    assert numbers_of_alike(data) is None
    assert read_blocks(data)[0] == []


@pytest.mark.parametrize("number", [10**400, -(10**400)])
def test_a_number_beyond_floating_point_is_none(number):
    assert list(read_lines(file_of(make_record(number)))) == [(1, "has no number 'step'")]


pieces = st.sampled_from([bytes([byte]) for byte in b'{}[]",:0129.eE-+ \n\r\\\2tfnN\xff']) | st.just(b"")
accuracies = st.sampled_from([0.0, 0.5, 1 / 3, 1e-7, float("nan"), 1])


@given(
    st.lists(st.tuples(accuracies, accuracies), min_size=2, max_size=4),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 3), pieces), max_size=3),
)
def test_a_damaged_file_is_read_as_the_parser_reads_it(accs, damages):
    data = file_of(*(make_record(step, [pair, (0.5, 0.25)]) | {"loss": pair[0]} for step, pair in enumerate(accs)))
    for place, length, piece in damages:
        place %= len(data)
        data = data[:place] + piece + data[place + length :]
    blocks, faults = read_blocks(data)
    assert (plain(blocks), faults) == parsed(data)


def test_blocks_begin_where_the_run_or_the_number_of_domains_changes():
    records = [
        make_record(0), make_record(1), make_record(0, hparams_seed=1), make_record(1),
        make_record(2, [(0.5, 0.25)]), make_record(3, [(0.5, 0.25)]), make_record(3, [(0.5, 0.25)], test_envs=[0, 0]),
    ]  # fmt: skip
    blocks = blocks_of(records)
    assert [block.steps.tolist() for block in blocks] == [[0, 1], [0], [1], [2, 3], [3]]
    assert [block.num_domains for block in blocks] == [3, 3, 3, 1, 1]
    assert [block.alone for block in blocks] == [True, True, True, True, False]
    assert np.array_equal(blocks[3].out, [[0.25], [0.25]])
    assert np.array_equal(blocks[3].held_out_in(0), [0.5, 0.5])
    assert np.array_equal(blocks[3].held_out_out, [0.25, 0.25])
    assert blocks[4].values.tolist() == [[3, 0.5, 0.5]]
