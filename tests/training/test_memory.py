"""Memory does not grow while a run trains and evaluates. Planted leaks show that the test would detect it.

Every case is trained by ``memory_probe.py`` in a process of its own, through the command line. What it holds is sampled
between steps; the least of the last three samples is compared with the least of the three that follow the warm-up.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PROBE = Path(__file__).with_name("memory_probe.py")
ROLLUP = Path("/proc/self/smaps_rollup")

pytestmark = pytest.mark.skipif(
    not (ROLLUP.exists() and "Pss_Shmem" in ROLLUP.read_text()), reason="needs Linux 5.1, which tells whose memory is"
)


def trained(*cases):
    """The samples of several runs in one process."""
    words = [json.dumps([{"leak": leak, "every": every, "flags": flags} for leak, every, flags in cases])]
    result = subprocess.run([sys.executable, str(PROBE), *words], capture_output=True, text=True, env=dict(os.environ))
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def growth(samples, what):
    """What the last samples hold above those after the warm-up, the first two samples."""
    values = [sample[what] for sample in samples]
    assert len(values) >= 8, values
    return min(values[-3:]) - min(values[2:5])


def check(samples, *, mib):
    """Check that no objects and at most this many MiB were added."""
    # Objects are exactly as many as before in most samples; ten allow for what another thread is just about to do.
    assert growth(samples, "objects") < 10, samples
    assert growth(samples, "tensors") < 10, samples
    assert growth(samples, "mib") < mib, samples


def small_run(folder, steps, freq, *more):
    flags = ["--dataset", "Debug28", "--steps", str(steps), "--checkpoint_freq", str(freq), *more]
    return [*flags, "--output_dir", str(folder), "--hparams", '{"batch_size": 2}']


def test_growth_by_hand():
    samples = [{"mib": value} for value in (0, 90, 100, 102, 101, 103, 109, 107, 108)]
    assert growth(samples, "mib") == 107 - 100


@pytest.mark.slow
def test_a_run_holds_no_more_after_a_hundred_steps_and_a_leak_is_seen(tmp_path):
    sound, graphs, objects = trained(
        (None, 10, small_run(tmp_path / "sound", 101, 5)),
        ("graphs", 4, small_run(tmp_path / "graphs", 37, 20)),
        ("objects", 4, small_run(tmp_path / "objects", 37, 20)),
    )
    assert [sample["step"] for sample in sound] == list(range(0, 101, 10))
    check(sound, mib=4)
    # 24 to 28 steps lie between the samples that are compared. A graph of this model and batch is about a MiB.
    assert growth(graphs, "mib") > 4
    assert growth(graphs, "tensors") > 10
    assert growth(objects, "objects") >= 20
    with pytest.raises(AssertionError):
        check(graphs, mib=4)
    with pytest.raises(AssertionError):
        check(objects, mib=4)


@pytest.mark.slow
def test_a_run_holds_no_more_after_two_thousand_steps(tmp_path):
    log = ["--log", "tensorboard"] if find_spec("tensorboard") else []
    (samples,) = trained((None, 100, small_run(tmp_path / "run", 2001, 300, *log)))
    assert samples[-1]["step"] == 2000
    check(samples, mib=4)


def write_images(root, per_class=6, size=256):
    random = np.random.default_rng(0)
    for domain in "abc":
        for name in "xy":
            (root / domain / name).mkdir(parents=True)
            for i in range(per_class):
                pixels = random.integers(0, 255, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / domain / name / f"{i}.jpg")


@pytest.mark.slow
def test_loaders_hold_no_more_after_twenty_evaluations_of_images_in_files(tmp_path):
    write_images(tmp_path / "images")
    hparams = json.dumps({"batch_size": 2, "backbone": "test_resnet", "pretrained": False})
    flags = ["--dataset", "ImageFolder", "--data_dir", str(tmp_path / "images"), "--num_workers", "2"]
    flags += ["--steps", "25", "--checkpoint_freq", "1", "--hparams", hparams, "--cache_dir", str(tmp_path / "cache")]
    files, cached, leaking = trained(
        (None, 2, [*flags, "--output_dir", str(tmp_path / "files")]),
        (None, 2, [*flags, "--output_dir", str(tmp_path / "cached"), "--images", "cached"]),
        ("workers", 2, [*flags, "--output_dir", str(tmp_path / "leaking")]),
    )
    for samples in (files, cached):
        assert samples[-1]["processes"] > 1
        assert samples[-1]["step"] - samples[2]["step"] == 20  # an evaluation after each
        check(samples, mib=12)
    # An image that is kept is 256 KiB, and 36 are decoded in every evaluation.
    assert growth(leaking, "mib") > 24
