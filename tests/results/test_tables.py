"""Tables: equal to DomainBed's own output byte for byte, and numbers against results by hand."""

import csv
import io
import itertools
import random
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_makers import make_record, write_run

from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import write_atomic
from sfmoe_dg.results.collect import FORMATS, collect, top_hparams
from sfmoe_dg.results.formats import CSV_COLUMNS, render_csv, render_latex, render_markdown, render_text
from sfmoe_dg.results.read import LoadedRecords
from sfmoe_dg.results.selection import SELECTION_METHODS
from sfmoe_dg.results.tables import DOMAINBED_ALGORITHMS, Cell, Row, build_tables, catalog_labels

TRAINING, LEAVE_ONE_OUT, ORACLE = (method.name for method in SELECTION_METHODS)
ARCHIVES = ("vlcs_erm", "pacs_rmnist_4algorithms")
LABELS = {"First": ["a", "b"], "Second": ["c", "d"]}


# ------------------------------------------------------------------------------------------------------- goldens


@pytest.fixture(scope="module")
def published(shared_data, tmp_path_factory):
    """The folders of the published records by archive, and the folder of DomainBed's output for them."""
    source = shared_data / "domainbed_records"
    folders = {}
    for name in ARCHIVES:
        target = tmp_path_factory.mktemp(name)
        with tarfile.open(source / f"{name}.tar.xz") as archive:
            archive.extractall(target, filter="data")
        folders[name] = target / name
    return folders, source


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize(("format", "suffix"), [("text", "txt"), ("latex", "tex")])
def test_published_records_collect_to_upstreams_output(published, name, format, suffix):
    folders, source = published
    report = collect(folders[name], format)
    assert report.output == (source / f"{name}.expected.{suffix}").read_bytes().decode()
    assert report.problems == []


@pytest.mark.shared_data
@pytest.mark.parametrize("seed", [0, 1])
def test_tables_do_not_depend_on_the_names_of_the_folders(published, tmp_path, seed):
    folders, source = published
    runs = sorted(path for path in folders["pacs_rmnist_4algorithms"].iterdir() if path.is_dir())
    random.Random(seed).shuffle(runs)
    for number, run in enumerate(runs):
        shutil.copytree(run, tmp_path / f"{number:04}")
    expected = (source / "pacs_rmnist_4algorithms.expected.txt").read_text()
    assert collect(tmp_path).output == expected


@pytest.mark.shared_data
def test_top_hparams_equals_upstreams_list(published):
    folders, source = published
    expected = (source / "vlcs_erm.top_hparams_env1.txt").read_text()
    # NumPy's own repr is not part of the contract, nor is the order in which the disk lists the folders of a run.
    expected = re.sub(r"np\.float64\(([^)]*)\)", r"\1", expected)
    output = top_hparams(folders["vlcs_erm"], "VLCS", "ERM", 1).output
    assert _with_sorted_folders(output) == _with_sorted_folders(expected)


def _with_sorted_folders(text):
    """The text as lines, each block of output folders sorted."""
    lines = []
    for is_folder, group in itertools.groupby(text.splitlines(), lambda line: "/test_sweep_data/" in line):
        block = list(group)
        lines += sorted(block) if is_folder else block
    return lines


# ------------------------------------------------------------------------------------------------------- by hand


def example(accs, dataset="First", algorithm="ERM", **changes):
    """One-step runs that hold out each of two domains; their reported accuracies are accs[trial][test_env]."""
    records = []
    for trial_seed, by_env in enumerate(accs):
        for env, acc in enumerate(by_env):
            if acc is not None:
                pairs = [(0.5, 0.5), (0.5, 0.5)]
                pairs[env] = (acc, 0.5)
                args = {"dataset": dataset, "algorithm": algorithm, "trial_seed": trial_seed, "test_envs": [env]}
                records.append(make_record(0, pairs, **args) | changes)
    return records


def tables_of(records, domains=None):
    return build_tables(LoadedRecords(records, [], domains or {}), LABELS)


def test_cells_are_means_and_standard_errors_over_trials():
    first, averages = tables_of(example([(0.5, 0.25), (0.75, 0.25)]))[TRAINING]
    # Domain a: mean (50 + 75) / 2 = 62.5; deviation 12.5 with ddof 0; over the root of 2 trials, 8.8388.
    a, b = first.rows[0].cells
    assert a == Cell(62.5, pytest.approx(12.5 / 2**0.5), 2)
    assert b == Cell(25.0, 0.0, 2)
    assert first.rows[0].average == 43.75  # (62.5 + 25) / 2
    # Per trial: (50 + 25) / 2 = 37.5 and (75 + 25) / 2 = 50; mean 43.75, deviation 6.25.
    assert averages.rows[0].cells == (Cell(43.75, pytest.approx(6.25 / 2**0.5), 2),)
    assert (first.title, averages.title) == ("Dataset: First", "Averages")
    assert (first.columns, averages.columns) == (("a", "b"), ("First",))


def test_missing_runs_leave_a_cell_and_the_row_without_a_number():
    tables = tables_of(example([(0.5, None), (0.75, None)]))
    first, averages = tables[TRAINING]
    assert first.rows[0].cells[1] is None
    assert first.rows[0].average is None
    # As upstream, a trial's average is over the domains it has: 50 and 75.
    assert averages.rows[0].cells[0].mean == 62.5
    assert [row.cells for table in tables[LEAVE_ONE_OUT] for row in table.rows] == [(None, None), (None,)]


def test_rows_and_tables_have_upstreams_order_then_the_alphabets():
    records = []
    for dataset in ("Unknown", "Second", "Another", "First"):
        for algorithm in ("Zeta", "URM", "Alpha", "ERM"):
            records += example([(0.5, 0.5)], dataset, algorithm)
    tables = tables_of(records)[ORACLE]
    assert [table.name for table in tables] == ["First", "Second", "Another", "Unknown", "Averages"]
    assert [row.algorithm for row in tables[0].rows] == ["ERM", "URM", "Alpha", "Zeta"]
    assert [table.foreign for table in tables] == [False, False, True, True, True]
    assert len(DOMAINBED_ALGORITHMS) == len(set(DOMAINBED_ALGORITHMS)) == 34


def test_unknown_data_sets_take_their_columns_from_the_runs():
    records = example([(0.5, 0.5)], "Named") + example([(0.5, 0.5)], "Unnamed") + example([(0.5, 0.5)], "Partly")
    named, partly, unnamed, _ = tables_of(records, {"Named": ("sun", "rain"), "Partly": ("sun",)})[TRAINING]
    assert named.columns == ("sun", "rain")
    assert partly.columns == ("sun", "env1")
    assert unnamed.columns == ("env0", "env1")


def test_runs_with_options_are_never_averaged_with_others():
    options = {"options": {"split": "identity"}}
    records = example([(0.5, 0.5)]) + example([(1.0, 1.0)], **options) + example([(0.0, 0.0)], "Second", **options)
    tables = tables_of(records)[TRAINING]
    assert [table.name for table in tables] == [
        "First",
        "Averages",
        "First [split=identity]",
        "Second [split=identity]",
        "Averages [split=identity]",
    ]
    assert [[row.average for row in table.rows] for table in tables] == [[50.0], [50.0], [100.0], [0.0], [50.0]]
    assert tables[-1].columns == ("First", "Second")


def test_the_average_adds_from_left_to_right():
    # ((0.1 + 0.2) + 0.3) + 1e16 … exact summation would give another last bit.
    means = [1e16, 1.0, -1e16]
    assert Row("ERM", tuple(Cell(mean, 0.0, 1) for mean in means)).average == ((1e16 + 1.0) - 1e16) / 3 == 0.0


def test_catalog_labels_are_the_catalogs():
    labels = catalog_labels()
    assert labels["PACS"] == ("A", "C", "P", "S")
    assert list(labels) == [name for name in CATALOG if name in labels]
    assert all(labels.values())


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(*[st.one_of(st.none(), st.floats(0, 1))] * 2), min_size=1, max_size=3),
    st.randoms(use_true_random=False),
)
def test_tables_do_not_depend_on_the_order_of_records(accs, shuffler):
    records = example([*accs, (0.5, 0.5)]) + example(accs, "Second", "CORAL")
    shuffled = list(records)
    shuffler.shuffle(shuffled)
    assert tables_of(shuffled) == tables_of(records)
    for row in tables_of(records)[TRAINING][0].rows:
        if None not in row.cells:
            assert row.average == pytest.approx(sum(cell.mean for cell in row.cells) / 2)


@settings(deadline=None, max_examples=10)
@given(st.permutations(range(6)))
def test_collect_does_not_depend_on_the_names_of_the_folders(names):
    records = example([(0.1, 0.2), (0.3, 0.4), (0.5, 0.6)], "PACS")
    with tempfile.TemporaryDirectory() as folder:
        for name, record in zip(names, records, strict=True):
            write_run(Path(folder), str(name), [record])
        output = collect(folder).output
    # Domain A: 10, 30, 50 give 30 and 16.33 / sqrt(3) = 9.4; domain C the same about 40.
    assert "ERM                   30.0 +/- 9.4          40.0 +/- 9.4          X                     X" in output


# --------------------------------------------------------------------------------------------------------- forms


def test_text_is_padded_cut_and_ends_with_a_space():
    tables = tables_of(example([(0.5, 0.25)], algorithm="AnAlgorithmWithAVeryLongName"))
    lines = render_text(tables, 2).splitlines()
    assert lines[:5] == [
        "Total records: 2",
        "",
        f"-------- Dataset: First, model selection method: {TRAINING}",
        "Algorithm             a                     b                     Avg                  ",
        "AnAlgorithmWithAVery  50.0 +/- 0.0          25.0 +/- 0.0          37.5                 ",
    ]
    assert lines[6] == f"-------- Averages, model selection method: {TRAINING}"
    assert lines[7] == "Algorithm                  First                      Avg                       "
    assert "  X                     X                     X                    " in render_text(tables, 2)


def test_latex_escapes_what_upstream_cannot_print():
    records = example([(0.5, 0.5)], "First", "IB_ERM") + example([(0.5, 0.5)], "my_data", "IB_ERM")
    records += example([(0.5, 0.5)], "a name of more than 25 letters", "IB_ERM")
    output = render_latex(tables_of(records, {"my_data": ("a_1", "50%")}), 2)
    assert "\nIB_ERM               & 50.0 $\\pm$ 0.0" in output
    assert "\\subsubsection{my\\_data}" in output
    assert "\\textbf{a\\_1}        & \\textbf{50\\%}" in output
    assert "\nIB\\_ERM " in output
    assert "& \\textbf{a name of more than 25 letters} &" in output  # cut, its brace would be missing


def test_markdown_escapes_names():
    output = render_markdown(tables_of(example([(0.5, None)], algorithm="<b>|x")), 1)
    assert "| Algorithm | a | b | Avg |\n| --- | ---: | ---: | ---: |\n" in output
    assert "| &lt;b&gt;\\|x | 50.0 (1 trial) | X | X |" in output


def test_csv_has_a_line_per_cell_and_full_precision():
    rows = list(csv.DictReader(io.StringIO(render_csv(tables_of(example([(1 / 3, None)])), 1))))
    assert tuple(rows[0]) == CSV_COLUMNS
    training = [tuple(row.values()) for row in rows if row["selection_method"] == TRAINING]
    assert training == [
        ("First", TRAINING, "ERM", "a", str(100 * (1 / 3)), "0.0", "1"),
        ("First", TRAINING, "ERM", "b", "", "", "0"),
        ("First", TRAINING, "ERM", "Avg", "", "", ""),
        ("Averages", TRAINING, "ERM", "First", str(100 * (1 / 3)), "0.0", "1"),
        ("Averages", TRAINING, "ERM", "Avg", str(100 * (1 / 3)), "", ""),
    ]


def test_every_format_collects_and_problems_come_apart(tmp_path):
    path = write_run(tmp_path, "run", [make_record(dataset="PACS")])
    path.write_bytes(path.read_bytes() + b"{")
    for format in FORMATS:
        report = collect(tmp_path, format)
        assert "PACS" in report.output
        assert len(report.problems) == 1
    with pytest.raises(UserError, match="unknown format 'txt': did you mean text"):
        collect(tmp_path, "txt")


# --------------------------------------------------------------------------------------------------- top_hparams


def test_top_hparams_lists_settings_best_first(tmp_path):
    for seed, val in enumerate((0.25, 0.75)):
        record = make_record(0, [(seed / 4, 0.5), (0.0, val)], hparams_seed=seed, output_dir=f"out{seed}")
        write_run(tmp_path, str(seed), [record | {"hparams": {"lr": seed, "batch_size": 8}}])
    output = top_hparams(tmp_path, "PACS", "ERM", 0).output
    start = f"Total records: 2\nModel selection: {TRAINING}\ntrial_seed: 0\n"
    best = "\t{'val_acc': 0.75, 'test_acc': 0.25}\n\t\thparams:\n\t\t\tbatch_size: 8\n\t\t\tlr: 1\n"
    assert output.startswith(start + best + "\t\toutput_dirs:\n\t\t\tout1\n\t{'val_acc': 0.25, ")


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (("VLCS", "ERM", 0), "dataset VLCS is not in the records; they hold: DomainNet, PACS"),
        (("PACS", "IRM", 0), "algorithm IRM is not in the records of PACS; they hold: CORAL, ERM"),
        (("PACS", "ERM", 3), "test_env 3 is not in the records of PACS and ERM; they hold: 0, 1"),
    ],
)
def test_top_hparams_of_what_is_not_there_lists_what_is(tmp_path, asked, answer):
    runs = [("PACS", "ERM", 0), ("PACS", "ERM", 1), ("PACS", "CORAL", 2), ("DomainNet", "IRM", 2)]
    for name, (dataset, algorithm, env) in enumerate(runs):
        write_run(tmp_path, str(name), [make_record(dataset=dataset, algorithm=algorithm, test_envs=[env])])
    with pytest.raises(UserError, match=re.escape(answer)):
        top_hparams(tmp_path, *asked)


def test_top_hparams_names_the_folders_that_disagree(tmp_path):
    for name, rate in (("a", 0.1), ("b", 0.1), ("c", 0.2)):
        record = make_record(output_dir=f"sweep/{name}", test_envs=[0]) | {"hparams": {"lr": rate}}
        write_run(tmp_path, name, [record])
    with pytest.raises(UserError, match=r"differ in their hparams: sweep/a, sweep/b and sweep/c; keep"):
        top_hparams(tmp_path, "PACS", "ERM", 0)


def test_a_data_set_with_options_is_asked_for_by_its_label(tmp_path):
    write_run(tmp_path, "a", [make_record() | {"options": {"split": "identity"}}])
    write_atomic(tmp_path / "a" / "run.json", "{}")
    assert "trial_seed: 0" in top_hparams(tmp_path, "PACS [split=identity]", "ERM", 0).output
