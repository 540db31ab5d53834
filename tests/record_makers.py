"""Small records and run folders for the tests of records, selection, tables and pages."""

from sfmoe_dg.runs.records import append_record


def make_record(step=0, accs=((0.5, 0.4), (0.6, 0.3), (0.7, 0.2)), **changes):
    """A record with (in, out) accuracies per domain; keyword arguments change its ``args``."""
    args = {"dataset": "PACS", "algorithm": "ERM", "test_envs": [0], "trial_seed": 0, "hparams_seed": 0}
    record = {"step": step, "hparams": {"lr": 0.1}, "args": args | {"output_dir": "out"} | changes}
    for env, (in_acc, out_acc) in enumerate(accs):
        record |= {f"env{env}_in_acc": in_acc, f"env{env}_out_acc": out_acc}
    return record


def write_run(root, name, records):
    folder = root / name
    folder.mkdir(parents=True)
    for record in records:
        append_record(folder / "results.jsonl", record)
    return folder / "results.jsonl"
