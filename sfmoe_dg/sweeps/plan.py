"""Turn a study into the list of its runs, and keep the study beside them.

The order, seeds and folder names are DomainBed's (``domainbed.scripts.sweep``). Planning needs no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import fields
from itertools import combinations, product
from pathlib import Path

from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import names_in, read_json, write_atomic
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.sweeps.launch.launcher import all_settings
from sfmoe_dg.sweeps.study import SweepSpec, make_spec


def env_combinations(num_domains: int, single: bool) -> list[tuple[int, ...]]:
    """The test sets of a data set: every domain alone and, unless ``single``, every pair of domains, sorted.

    Raises:
        UserError: for pairs of fewer than three domains, which would leave no domain to train on.

    Examples:
        >>> from sfmoe_dg.sweeps.plan import env_combinations
        >>> env_combinations(3, single=False)
        [(0,), (0, 1), (0, 2), (1,), (1, 2), (2,)]
    """
    if not single and num_domains < 3:
        raise UserError(
            f"holding out pairs needs at least 3 domains and there are {num_domains}; set single_test_envs = true"
        )
    alone: list[tuple[int, ...]] = [(i,) for i in range(num_domains)]
    return alone if single else sorted([*alone, *combinations(range(num_domains), 2)])


def domain_names(dataset: str, data_dir: str | None) -> tuple[str, ...]:
    """The domains of a data set, in order. The domains of a user's image folder are its sub-folders.

    Raises:
        UserError: if the user's folder does not exist or has no sub-folders.
    """
    known = CATALOG.load(dataset).domains
    if known or data_dir is None:
        return known
    root = Path(data_dir)
    if not root.is_dir():
        raise UserError(f"the data folder {root} does not exist; data_dir must hold one folder per domain", "data_dir")
    names = tuple(sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if not names:
        raise UserError(
            f"the data folder {root} holds no folders; data_dir must hold one folder per domain", "data_dir"
        )
    return names


def plan(spec: SweepSpec, data_dir: str | None) -> list[RunSpec]:
    """Every run of the study, in DomainBed's order.

    Raises:
        UserError: if a test domain does not exist, or a value is not allowed.

    Examples:
        >>> from sfmoe_dg import plan, read_study
        >>> runs = plan(read_study("sweeps/quickstart.toml"), data_dir=None)
        >>> len(runs)  # 3 algorithms, 4 domains held out in turn
        12
    """
    held_out = {dataset: _test_sets(spec, dataset, domain_names(dataset, data_dir)) for dataset in spec.datasets}
    hparams_seeds = range(spec.n_hparams_from, spec.n_hparams)
    runs = [
        RunSpec(
            dataset=dataset,
            algorithm=algorithm,
            test_envs=test_envs,
            data_dir=data_dir,
            task=spec.task,
            hparams=spec.hparams_json(algorithm),
            hparams_seed=hparams_seed,
            trial_seed=trial_seed,
            steps=spec.steps,
            checkpoint_freq=spec.checkpoint_freq,
            holdout_fraction=spec.holdout_fraction,
            uda_holdout_fraction=spec.uda_holdout_fraction,
            skip_model_save=spec.skip_model_save,
            options=spec.options,
        ).with_sweep_seed()
        for trial_seed, dataset in product(range(spec.n_trials), spec.datasets)
        for algorithm, test_envs, hparams_seed in product(spec.algorithms, held_out[dataset], hparams_seeds)
    ]
    for run in runs:
        run.check()
    return runs


def _test_sets(spec: SweepSpec, dataset: str, names: Sequence[str]) -> Sequence[tuple[int, ...]]:
    if spec.test_envs is None:
        return env_combinations(len(names), spec.single_test_envs)
    for env in (env for envs in spec.test_envs for env in envs):
        if not 0 <= env < len(names):
            numbered = ", ".join(f"{i} {name}" for i, name in enumerate(names))
            raise UserError(f"test domain {env} of sweep {spec.name!r} does not exist in {dataset}: {numbered}")
    if any(len(envs) == len(names) for envs in spec.test_envs):
        raise UserError(
            f"sweep {spec.name!r} holds out all {len(names)} domains of {dataset} at once, which leaves none to train "
            "on; give fewer test_envs"
        )
    return spec.test_envs


def save_plan(spec: SweepSpec, data_dir: str | None, output_dir: Path, queued: Collection[str] = ()) -> Path:
    """Save the study beside its runs, so that ``status`` knows which runs are missing; returns the file.

    A saved study of the same name is replaced, unless it has begun or ``queued`` runs that the new one does not have.
    Then the new study gets a file of its own.
    """
    path = output_dir / f"sweep-{spec.name}.json"
    if path.exists():
        ids = {run.run_id for run in plan(spec, data_dir)}
        if _knows_one_of(path, names_in(output_dir).union(queued) - ids):
            mark = hashlib.sha256("".join(sorted(ids)).encode()).hexdigest()[:8]
            path = path.with_name(f"sweep-{spec.name}-{mark}.json")
    values = {f.name: getattr(spec, f.name) for f in fields(spec)}
    values["options"], values["launch"] = spec.options.changed(), all_settings(spec.launch)
    write_atomic(path, json.dumps({"data_dir": data_dir, "spec": values}, indent=1, sort_keys=True) + "\n")
    return path


def _knows_one_of(path: Path, ids: Collection[str]) -> bool:
    """Whether a saved study has one of these runs. A file that cannot be read counts as yes, so that it is kept."""
    try:
        return any(run.run_id in ids for run in _planned(path))
    except UserError:
        return True


def load_plans(output_dir: Path) -> list[RunSpec]:
    """The runs of all studies that were started in this folder, without repetitions.

    Raises:
        UserError: if no sweep was started in the folder.
    """
    runs: dict[str, RunSpec] = {}
    files = sorted(output_dir.glob("sweep-*.json"))
    if not files:
        raise UserError(f"{output_dir} holds no sweep (no sweep-*.json); give the output_dir of a sweep", "output_dir")
    for path in files:
        for run in _planned(path):
            runs.setdefault(run.run_id, run)
    return list(runs.values())


def _planned(path: Path) -> list[RunSpec]:
    saved = read_json(path)
    if not isinstance(saved, dict) or not isinstance(saved.get("spec"), dict) or "data_dir" not in saved:
        raise UserError(f"{path} is no study as sfmoe-dg sweep saves it; delete it and start the sweep again")
    # Runs do not depend on their launcher, and the package of the launcher that declares a key may be gone.
    values = {name: value for name, value in saved["spec"].items() if name != "launch"}
    return plan(make_spec(values, str(path)), saved["data_dir"])


def check_data_folders(spec: SweepSpec, data_dir: str | None) -> None:
    """Check before the first run that the folders of all data sets exist.

    Raises:
        UserError: if a folder is missing; the message names it.
    """
    for dataset in spec.datasets:
        entry = CATALOG.load(dataset)
        if not entry.needs_data_dir:
            continue
        if data_dir is None:
            raise UserError(
                f"data set {dataset} needs data_dir, the folder that holds {entry.folder or 'its domains'}", "data_dir"
            )
        folder = Path(data_dir) / entry.folder
        if not folder.is_dir() and not entry.downloads_itself:
            raise UserError(
                f"the folder {folder} of data set {dataset} does not exist; data_dir must hold it", "data_dir"
            )
