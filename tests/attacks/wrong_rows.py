"""Command lines that are wrong, what is wrong around them, and what must be said: one row each."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from wrong_things import (
    BAD,
    RECORD,
    Maker,
    checkout,
    cut,
    finished,
    floats,
    folder,
    images,
    link,
    malicious,
    picture_of_size,
    planned,
    records,
    study,
    text,
    without,
)

DEBUG = "train --dataset Debug28 --device cpu --steps 2 --output_dir new/run"
SMALL = """ --hparams '{"batch_size": 4}'"""
FOLDERS = (
    "train --dataset ImageFolder --data_dir data --device cpu --steps 1 --num_workers 0 --output_dir new/run --hparams "
    """'{"batch_size": 2, "backbone": "test_vit", "pretrained": false}'"""
)
SWEEP = "sweep s.toml --output_dir new"
TOP = "top-hparams --input_dir results --algorithm ERM"
ANALYZE = "analyze runs/x --device cpu --what expert-maps"
TENSORS = "runs/x/model.safetensors"
CNN, MOE = finished("cnn", "runs/x"), finished("moe", "runs/x")
SOUP = "diwa --input_dir runs --dataset Debug28 --algorithm ERM --test_env 0 --device cpu --output_dir new"


@dataclass(frozen=True)
class Row:
    words: str
    culprit: str
    """What the sentence must name."""
    way_out: str
    """What it must say besides: what is allowed, or what to do."""
    makers: tuple[Maker, ...] = ()
    has_begun: bool = False
    """Whether something was told on standard output before the mistake could be found."""

    @property
    def id(self) -> str:
        return f"{self.words} | {self.culprit}"[:120]


def row(words: str, culprit: str, way_out: str, *makers: Maker, has_begun: bool = False) -> Row:
    return Row(words, culprit, way_out, makers, has_begun)


def hparams(json: str, culprit: str, way_out: str, *makers: Maker, algorithm: str = "ERM") -> Row:
    return row(f"{DEBUG} --algorithm {algorithm} --hparams {shlex.quote(json)}", culprit, way_out, *makers)


def small(json: str, *rest: str | Maker) -> Row:
    """The same with a batch size that Debug28 has images for, so that the mistake is found behind the data."""
    return hparams(json.replace("{", '{"batch_size": 4, ', 1), *rest)  # type: ignore[arg-type]


COMMAND_LINE = [
    row("", "COMMAND", "sfmoe-dg --help"),
    row("trian --dataset Debug28", "COMMAND is 'trian'", "nearest: train"),
    row("train --stepz 5", "unknown flag '--stepz' of sfmoe-dg train", "did you mean --steps"),
    row("collect --inputdir results", "unknown flag '--inputdir'", "did you mean --input_dir"),
    row("collect", "sfmoe-dg collect lacks --input_dir", "collect --help"),
    row("collect --input_dir a b", "no use for 'b'", "collect --help"),
    row("train --hparams", "--hparams", "expected one argument"),
    row("train --steps 1.5", "--steps is '1.5'", "a whole number"),
    row("train --holdout_fraction half", "--holdout_fraction is 'half'", "a number"),
    row("train --test_envs photo", "--test_envs is 'photo'", "a whole number"),
    row("train --task generalize", "--task is 'generalize'", "allowed: domain_generalization, domain_adaptation"),
    row("train --precision fp8", "--precision is 'fp8'", "allowed: fp32, bf16, fp16"),
    row("train --output_dir ''", "--output_dir is empty", "must not be"),
    row("list algorithm", "WHAT is 'algorithm'", "nearest: algorithms"),
    row("status --output_dir x --watch --json", "--json", "not allowed with argument --watch"),
]

RUN = [
    row(f"{DEBUG} --dataset PACSS", "unknown data set 'PACSS'", "did you mean PACS"),
    row(f"{DEBUG} --algorithm SFMOE", "unknown algorithm 'SFMOE'", "did you mean SFMoE"),
    row(f"{DEBUG} --steps 0", "--steps is 0", "at least 1"),
    row(f"{DEBUG} --steps -1", "--steps is -1", "at least 1"),
    row(f"{DEBUG} --checkpoint_freq 0", "--checkpoint_freq is 0", "at least 1"),
    row(f"{DEBUG} --holdout_fraction 0", "--holdout_fraction is 0", "between 0 and 1"),
    row(f"{DEBUG} --holdout_fraction 1", "--holdout_fraction is 1", "between 0 and 1"),
    row(f"{DEBUG} --holdout_fraction nan", "--holdout_fraction is nan", "between 0 and 1"),
    row(f"{DEBUG} --holdout_fraction 0.01", "out-split of domain 0", "change --holdout_fraction"),
    row(f"{DEBUG} --uda_holdout_fraction 1", "--uda_holdout_fraction is 1", "[0, 1)"),
    row(f"{DEBUG} --task domain_adaptation", "--task domain_adaptation", "set --uda_holdout_fraction"),
    row(f"{DEBUG} --seed -1", "--seed is -1", "must not be negative"),
    row(f"{DEBUG} --seed {2**63}", f"--seed is {2**63}", "below 2**63"),
    row(f"{DEBUG} --hparams_seed -1", "--hparams_seed is -1", "must not be negative"),
    row(f"{DEBUG} --trial_seed -1", "--trial_seed is -1", "must not be negative"),
    row(f"{DEBUG} --test_envs 7", "test domain 7 of Debug28", "the domains are 0"),
    row(f"{DEBUG} --test_envs -1", "test domain -1 of Debug28", "the domains are 0"),
    row(f"{DEBUG} --test_envs 1 1", "test domain 1 of Debug28 is given twice", "the domains are 0"),
    row(f"{DEBUG} --test_envs 0 1 2", "all 3 domains of Debug28", "give fewer test domains"),
    row(f"{DEBUG}{SMALL} --algorithm MLDG --test_envs 0 1", "MLDG", "at least 2 training domains"),
    row(f"{DEBUG} --device gpu", "--device gpu", "allowed: auto, cpu, cuda"),
    row(f"{DEBUG} --device cuda:99", "--device cuda:99", "allowed: auto, cpu, cuda"),
    row(f"{DEBUG} --device meta", "--device meta", "allowed: auto, cpu, cuda"),
    row(f"{DEBUG}{SMALL} --num_workers -1", "num_workers is -1", "at least 0"),
    row(f"{DEBUG} --checkpoint_minutes -1", "--checkpoint_minutes is -1", "at least 0"),
    row(f"{DEBUG} --checkpoint_minutes nan", "--checkpoint_minutes is nan", "at least 0"),
    row(f"{DEBUG}{SMALL} --parallel fsdp", "--parallel fsdp", "use torchrun"),
    row(f"{DEBUG} --split identity", "'identity'", "use 'random'"),
    row(f"{DEBUG} --log tensorbord", "unknown logger 'tensorbord'", "did you mean tensorboard"),
    row(f"{DEBUG}", "fewer than the batch size 64", "set the hyper-parameter batch_size to 13"),
    row(f"{DEBUG} --images cached", "Debug28 does not lie in image files", "use --images files", has_begun=True),
    row(f"{DEBUG}{SMALL} --output_dir file/run", "file/run", "choose a folder that can be written", text("file")),
    row(f"{DEBUG}{SMALL} --output_dir file", "A file, not a folder: file", "choose a folder", text("file")),
    row(f"{DEBUG}{SMALL} --output_dir /dev/null/run", "/dev/null/run", "choose a folder that can be written"),
    row(f"{DEBUG}{SMALL} --output_dir /proc/run", "/proc/run", "choose a folder that can be written"),
    row(f"{DEBUG}{SMALL} --output_dir /proc/self", "/proc/self/lease", "check that path"),
    row(f"{DEBUG} --output_dir old", "old holds a finished run", "choose another", finished("cnn", "old")),
    row(
        f"{DEBUG}{SMALL} --steps 9 --output_dir old",
        "steps 2 there, 9 here",
        "choose another --output_dir",
        finished("interrupted", "old"),
    ),
]

HPARAMS = [
    hparams("{", "--hparams is not valid JSON", "write it like"),
    hparams("{'lr': 1}", "at character 1", "write it like"),
    hparams("[" * 100_000, "nested too deep", "write it like"),
    hparams(f'{{"lr": 1{"0" * 5000}}}', "--hparams is not valid JSON (a number has too many digits)", "write it like"),
    hparams("[1]", "not [1]", "a JSON object"),
    hparams('{"lrr": 1}', "unknown hyper-parameter 'lrr'", "did you mean lr"),
    hparams('{"lr": 1, "lr": 2}', "'lr' 2 times", "give it once"),
    hparams('{"lr": "0.1"}', "'lr' in --hparams is '0.1'", "must be a number"),
    hparams('{"lr": NaN}', "'lr' in --hparams is nan", "a finite number"),
    hparams('{"lr": Infinity}', "'lr' in --hparams is inf", "a finite number"),
    hparams(f'{{"lr": 1{"0" * 400}}}', "'lr' in --hparams is 1000", "a finite number"),
    hparams('{"lr": -1}', "'lr' in --hparams is -1", "above 0"),
    hparams('{"lr": null}', "'lr' in --hparams is None", "must be a number"),
    hparams('{"lr": [0.1]}', "'lr' in --hparams is [0.1]", "must be a number"),
    hparams('{"lr": {"head": 0.1}}', "'lr' in --hparams is {'head': 0.1}", "must be a number"),
    hparams('{"weight_decay": -1}', "'weight_decay' in --hparams is -1", "not be negative"),
    hparams('{"batch_size": 0}', "'batch_size' in --hparams is 0", "above 0"),
    hparams('{"batch_size": 2.5}', "'batch_size' in --hparams is 2.5", "a whole number"),
    hparams('{"batch_size": true}', "'batch_size' in --hparams is True", "a whole number"),
    hparams('{"lr_schedule": "cosin"}', "'lr_schedule' in --hparams is 'cosin'", "allowed: 'constant', 'cosine'"),
    hparams('{"vit_dropout": 2}', "'vit_dropout' in --hparams is 2", "between 0 and 1"),
    hparams('{"drop_path": 3}', "'drop_path' in --hparams is 3", "between 0 and 1"),
    hparams('{"beta1": 1}', "'beta1' in --hparams is 1", "between 0 and 0.999", algorithm="DANN"),
    hparams('{"rsc_f_drop_factor": 3}', "'rsc_f_drop_factor'", "between 0 and 1", algorithm="RSC"),
    small('{"backbone": "resnet5"}', "unknown backbone 'resnet5'", "did you mean resnet50"),
    small('{"backbone": "mlp"}', "backbone 'mlp'", "wants vectors"),
    small('{"num_experts": 3}', "backbone 'mnist_cnn' is dense", "choose an MoE"),
    small('{"backbone": "sf_moe_tiny_32", "top_k": 7}', "top_k is 7", "between 1 and the number of experts"),
    small('{"backbone": "sf_moe_tiny_32", "moe_layers": [9]}', "moe_layers has 9", "from 0 to 3"),
    small('{"pretrained": "w.pth"}', "'w.pth'", "takes no pretrained weights"),
    small('{"backbone": "vit_tiny_32", "pretrained": "w.pth"}', "w.pth is not a file", "give a .safetensors"),
    small('{"backbone": "vit_tiny_32", "pretrained": "w.pth"}', "w.pth", "never run", malicious("w.pth")),
    small(
        '{"backbone": "vit_tiny_32", "pretrained": "w.safetensors"}',
        "w.safetensors cannot be read",
        "give a .safetensors",
        text("w.safetensors", b"\x10" + bytes(20)),
    ),
    small(
        '{"backbone": "vit_tiny_32", "pretrained": "old/model.safetensors"}',
        "old/model.safetensors",
        "do not fit vit_tiny_32",
        finished("cnn", "old"),
    ),
]

PLUGINS = [
    row(f"{DEBUG} --plugin mine.py", "plugin file mine.py does not exist", "give a module's name or a path"),
    row(f"{DEBUG} --plugin no.such", "plugin 'no.such' cannot be imported", "No module named 'no'"),
    row(f"{DEBUG} --plugin bad.py", "plugin 'bad.py'", "ZeroDivisionError", text("bad.py", "1 / 0")),
    row(f"{DEBUG} --plugin bad.py", "plugin 'bad.py'", "SyntaxError", text("bad.py", "def (")),
    row(f"{DEBUG} --plugin domainbed=bed", "checkout bed does not exist", "give the folder that holds domainbed/"),
    row(
        f"{DEBUG} --plugin twice.py",
        "algorithm 'ERM' is already registered",
        "choose another name",
        text("twice.py", "from sfmoe_dg.algorithms import ALGORITHMS\nALGORITHMS.register('ERM', 'x:y')\n"),
    ),
]

PACS = FOLDERS.replace("ImageFolder", "PACS")
DATA = [
    row(f"{DEBUG} --dataset PACS", "PACS needs --data_dir", "the folder that holds"),
    row(FOLDERS, "--data_dir data is not a folder", "give the folder"),
    row(FOLDERS, "--data_dir data is not a folder", "give the folder", text("data")),
    row(FOLDERS, "data holds no folders", "one folder per domain", folder("data")),
    row(FOLDERS, "only the domain a", "at least two", images("a")),
    row(FOLDERS, "domain a", "holds no class folders", folder("data/a"), folder("data/b")),
    row(FOLDERS, "domain b differ", "missing dog", images(), without("data/b/dog")),
    row(FOLDERS, "domain d differ", "the same classes", images(), folder("data/d")),
    row(
        FOLDERS,
        "no image of class dog, in data/b",
        "images end in",
        images(),
        without("data/b/dog"),
        folder("data/b/dog"),
    ),
    row(
        FOLDERS,
        "domain b has no image",
        "images end in",
        images(),
        *(without(f"data/b/{c}") for c in ("cat", "dog")),
        folder("data/b/cat"),
        folder("data/b/dog"),
    ),
    row(FOLDERS, "out-split of domain 0 (a)", "add images", images(count=1)),
    row(FOLDERS.replace('size": 2', 'size": 9'), "fewer than the batch size 9", "set the hyper-parameter", images()),
    row(f"{FOLDERS} --test_envs 3", "test domain 3", "the domains are 0 a, 1 b, 2 c", images()),
    row(FOLDERS, "data/b/dog/up is a link", "remove it", images(), link("data/b/dog/up", "../..")),
    row(PACS, "PACS is looked for in data/PACS", "--data_dir must be the folder that holds PACS", images()),
    row(PACS, "missing art_painting", "must hold exactly art_painting", images(root="data/PACS")),
    row(
        f"{FOLDERS} --images cached --cache_dir c",
        "the image cache c",
        "--cache_dir",
        images(),
        text("c"),
        has_begun=True,
    ),
]

IMAGES = [
    row(FOLDERS, f"image {BAD} does not decode (not", "replace it", images(), text(BAD), has_begun=True),
    row(FOLDERS, f"image {BAD} does not decode (not", "replace it", images(), text(BAD, "a text"), has_begun=True),
    row(FOLDERS, f"image {BAD} does not decode", "--on_bad_image skip", images(), cut(BAD, 150), has_begun=True),
    row(FOLDERS, "exceeds limit", "replace it", images(), picture_of_size(60_000, 60_000), has_begun=True),
    row(FOLDERS, "data/b/dog/3.tiff", "floating-point pixels", images(), floats, has_begun=True),
    row(
        FOLDERS,
        "data/b/dog/3.png cannot be read",
        "check the disk",
        images(),
        link("data/b/dog/3.png", "gone.png"),
        has_begun=True,
    ),
    row(
        f"{FOLDERS} --on_bad_image skip",
        "no image of class dog after 1 bad images",
        "images end in",
        images(count=1),
        text(BAD),
    ),
]

STUDIES = [
    row(SWEEP, "sweep file s.toml does not exist", "TOML files in that folder: other.toml", text("other.toml")),
    row("sweep . --output_dir new", "sweep file . cannot be read (Is a directory)", "give a study's .toml file"),
    row(SWEEP, "s.toml is not UTF-8 text", "save it as such", text("s.toml", b"\xff\xfe")),
    row(SWEEP, "s.toml is not valid TOML", "line 2", text("s.toml", "steps = 1\ndatasets = = 3\n")),
    row(SWEEP, "s.toml has a number of too many digits", "a smaller one", study(steps=f"1{'0' * 5000}")),
    row(SWEEP, "s.toml", "nested", study(test_envs="[" * 100_000)),
    row(SWEEP, "s.toml lacks the key 'datasets'", "a list of at least one name", text("s.toml")),
    row(SWEEP, "unknown key 'n_trails' in s.toml", "did you mean n_trials", study(n_trails="3")),
    row(SWEEP, "'n_trials' in s.toml is 0", "at least 1", study(n_trials="0")),
    row(SWEEP, "'n_trials' in s.toml is '3'", "a whole number", study(n_trials='"3"')),
    row(SWEEP, "'datasets'", "at least one name", study(datasets="[]")),
    row(SWEEP, "'datasets' in s.toml is 'Debug28'", "a list of", study(datasets='"Debug28"')),
    row(SWEEP, "unknown data set 'PACSS' in s.toml", "did you mean PACS", study(datasets='["PACSS"]')),
    row(SWEEP, "'datasets' in s.toml", "none of them twice", study(datasets='["Debug28", "Debug28"]')),
    row(SWEEP, "unknown algorithm 'ERMM' in s.toml", "did you mean ERM", study(algorithms='["ERMM"]')),
    row(SWEEP, "test domain 7 of sweep 's'", "Debug28: 0 0, 1 1, 2 2", study(test_envs="[[7]]")),
    row(SWEEP, "'test_envs' in s.toml is [0]", "a list of lists", study(test_envs="[0]")),
    row(SWEEP, "'test_envs' in s.toml is []", "a list of lists", study(test_envs="[]")),
    row(SWEEP, "'test_envs' in s.toml is [[0, 0]]", "nothing twice", study(test_envs="[[0, 0]]")),
    row(SWEEP, "'test_envs' in s.toml is [[0, 1], [1, 0]]", "nothing twice", study(test_envs="[[0, 1], [1, 0]]")),
    row(SWEEP, "all 3 domains of Debug28", "fewer test_envs", study(test_envs="[[0, 1, 2]]")),
    row(SWEEP, "from 5 up to but without 1", "n_hparams must be larger", study(n_hparams_from="5")),
    row(SWEEP, "'name' in s.toml is '../x'", "without slashes", study(name='"../x"')),
    row(SWEEP, "--holdout_fraction is nan", "between 0 and 1", study(holdout_fraction="nan")),
    row(SWEEP, "plugin file mine.py does not exist", "a path that ends in .py", study(plugins='["mine.py"]')),
    row(SWEEP, "hyper-parameter 'lrr'", "did you mean lr", study("[hparams]\nlrr = 1")),
    row(SWEEP, "hyper-parameter 'lr' in the sweep's hparams for ERM", "above 0", study("[hparams]\nlr = -1")),
    row(SWEEP, "'hparams' in s.toml", "what JSON can hold", study("[hparams]\nlr = 2020-01-01")),
    row(SWEEP, "[overrides.CORAL] of s.toml", "whose algorithms are ERM", study("[overrides.CORAL]\nlr = 1")),
    row(
        SWEEP, "split in [options] of s.toml is 'fair'", "allowed: random, identity", study("[options]\nsplit = 'fair'")
    ),
    row(SWEEP, "unknown key 'jbos' in [launch] of s.toml", "did you mean jobs", study("[launch]\njbos = 2")),
    row(SWEEP, "'jobs' in [launch] of s.toml is 0", "at least 1", study("[launch]\njobs = 0")),
    row(SWEEP, "'time' in [launch] of s.toml is 'long'", "hours:minutes:seconds", study("[launch]\ntime = 'long'")),
    row(SWEEP, "'device' in [launch] of s.toml is 'gpu'", "auto, cpu, cuda", study("[launch]\ndevice = 'gpu'")),
]

SWEEPS = [
    row(f"{SWEEP} --jobs 0", "--jobs is 0", "at least 1", study()),
    row(f"{SWEEP} --threads -1", "--threads is -1", "at least 1", study()),
    row(f"{SWEEP} --device gpu", "--device is 'gpu'", "auto, cpu, cuda", study()),
    row(f"{SWEEP} --launcher lokal", "unknown launcher 'lokal'", "did you mean local", study()),
    row(f"{SWEEP} --log nothing", "unknown logger 'nothing'", "known: tensorboard", study()),
    row(f"{SWEEP} --memory much", "--memory is 'much'", 'such as "16G"', study()),
    row(f"{SWEEP} --sbatch exclude", "--sbatch is 'exclude'", "NAME=VALUE", study()),
    row(f"{SWEEP} --confirm_above_hours nan", "--confirm_above_hours is nan", "at least 0", study()),
    row("sweep s.toml --output_dir /proc/x", ": /proc/x", "choose a folder", study()),
    row(SWEEP, "A file, not a folder: new", "choose a folder", study(), text("new")),
    row(SWEEP, "PACS needs --data_dir", "the folder that holds PACS", study(datasets='["PACS"]')),
    row(f"{SWEEP} --data_dir d", "the folder d/PACS", "--data_dir must hold it", study(datasets='["PACS"]')),
    row(
        f"{SWEEP} --data_dir d",
        "d holds no folders",
        "one folder per domain",
        study(datasets='["ImageFolder"]'),
        folder("d"),
    ),
    row("status --output_dir out", "out holds no sweep", "give the --output_dir of a sweep"),
    row("status --output_dir out --watch 0", "--watch is 0", "above 0", planned),
    row("status --output_dir out", "out/sweep-x.json is not valid JSON", "line 1", text("out/sweep-x.json", "{")),
    row(
        "status --output_dir out",
        "out/sweep-x.json is no study",
        "start the sweep again",
        text("out/sweep-x.json", "[]"),
    ),
    row("logs --output_dir out zzz", "no run is named 'zzz'", "there are, for example", planned),
    row("logs --output_dir out ERM", "'ERM' names 20 runs", "give more words, or the id", planned),
    row("logs --output_dir out --lines -1 ERM", "--lines is -1", "at least 0", planned),
    row("logs --output_dir out ERM test 0 hparams 0 trial 0", "StyledDigits ERM test 0", "has not begun", planned),
    row("retry --output_dir out", "which runs", "--failed", planned),
    row("retry --output_dir out 'ERM test 0 hparams 0'", "has not failed", "waiting", planned),
    row("cancel --output_dir out 'ERM test 0 hparams 0'", "neither running nor queued", "waiting", planned),
    row("delete-incomplete --output_dir out", "out holds no sweep", "give the --output_dir of a sweep", folder("out")),
]

TABLES = [
    row("collect --input_dir results", "results does not exist", "give the folder that holds"),
    row("collect --input_dir results", "results is a file", "give the folder that holds", text("results")),
    row("collect --input_dir results", "no records in results", "train there first", folder("results")),
    row("collect --input_dir runs/x", "runs/x is the folder of one run", "the folder above it", CNN),
    row("collect --input_dir results", "results/x/results.jsonl, line 1", "no readable record", records("{\n[]\n")),
    row("collect --input_dir results", "line 1 is cut short or broken", "no readable record", records(b"\xff\xfe\n")),
    row("collect --input_dir results --format pdf", "--format is 'pdf'", "allowed: text, latex", records()),
    row(
        "collect --input_dir results --save",
        "results/.results.txt",
        "check that path",
        records(),
        folder("results/results.txt"),
    ),
    row(f"{TOP} --dataset PACS --test_env 0", "--dataset PACS", "they hold: Debug28", records()),
    row(f"{TOP} --dataset Debug28 --test_env 5", "--test_env 5", "they hold: 0", records()),
    row("report --output_dir results", "results does not exist", "give the folder that holds"),
    row("report --output_dir results --images -1", "--images is -1", "at least 0", records()),
]

MODELS = [
    row("analyze runs", "runs is no folder", "give the folder of a finished run"),
    row("analyze runs", "runs holds no results.jsonl", "give the folder of a finished run", folder("runs/x")),
    row("analyze results --what maps", "unknown analysis 'maps' for --what", "expert-maps", records()),
    row("analyze results --images 0", "--images is 0", "at least 1", records()),
    row("analyze results --threads 0", "--threads is 0", "at least 1", records()),
    row(ANALYZE, "ERM (held out 0) has no experts", "SFMoE", CNN),
    row(f"{ANALYZE} --device gpu", "--device gpu", "allowed: auto, cpu", MOE),
    row(f"{ANALYZE} --output_dir /proc/x", ": /proc/x", "choose a folder", MOE),
    row(f"{ANALYZE} --layer top", "unknown mixture-of-experts layer 'top' for --layer", "blocks.0", MOE),
    row("analyze runs --what compare", "runs holds results of one method only", "train another", CNN),
    row(
        ANALYZE, "results.jsonl holds no record", "train it to the end", MOE, text("runs/x/results.jsonl", RECORD + "{")
    ),
    row(
        ANALYZE,
        "runs/x/model.pkl does not exist",
        "train without --skip_model_save",
        MOE,
        without("runs/x/model.pkl", TENSORS),
    ),
    row(ANALYZE, "runs/x/model.safetensors cannot be read", "train again", MOE, cut(TENSORS, 1000)),
    row(ANALYZE, "runs/x/model.pkl cannot be read", "never run", MOE, without(TENSORS), malicious("runs/x/model.pkl")),
    row(SOUP, "runs does not exist", "give the folder that holds"),
    row(f"{SOUP} --test_env 2", "test_envs [2]", "see sfmoe-dg status", CNN),
    row(f"{SOUP} --soup thick", "--soup is 'thick'", "allowed: restricted, uniform", CNN),
    row(SOUP, "runs/x is not finished", "it is left out", CNN, without("runs/x/done")),
    row(
        f"{SOUP} --soup uniform",
        "differ in shape",
        "runs of one backbone",
        CNN,
        finished("moe", "runs/y"),
        has_begun=True,
    ),
    row(f"{SOUP} --output_dir runs/x", "runs/x holds a finished run", "choose another", CNN, has_begun=True),
    row("convert-vmoe small new.safetensors", "small.index does not exist", "without .index"),
    row("convert-vmoe small new.npz", "new.npz", "must end in .safetensors"),
    row(
        "convert-vmoe small new.safetensors",
        "small.index is not the index of a V-MoE checkpoint",
        "unpack",
        text("small.index", "junk"),
    ),
    row(
        "domainbed --checkout bed -- domainbed.scripts.train", "bed does not exist", "the folder that holds domainbed/"
    ),
    row("domainbed --checkout bed", "one of DomainBed's commands", "domainbed.scripts.train", checkout),
    row("domainbed --checkout bed -- os.path", "os.path is no command", "domainbed.scripts.train", checkout),
]

TABLE = [*COMMAND_LINE, *RUN, *HPARAMS, *PLUGINS, *DATA, *IMAGES, *STUDIES, *SWEEPS, *TABLES, *MODELS]

SCRIPTS = [
    row("pacs.py", "lacks --out", "pacs.py --help"),
    row("pacs.py --oot data", "unknown flag '--oot'", "did you mean --out"),
    row("pacs.py --out data --archive mine.zip", "mine.zip is not a file", "give the copy of PACS.zip"),
    row("pacs.py --out data --sha256 abc", "--sha256 abc", "64 digits"),
    row("pacs.py --out data --verify", "data/PACS is not a folder", "--out is the folder that holds PACS"),
    row("pacs.py --out file", "file", "check that path", text("file")),
    row("cub_dg.py --out data", "--cub is needed", "except with --verify"),
    row("cub_dg.py --out data --cub birds", "birds is not CUB-200-2011", "no images.txt in it"),
]

PROCESSES = [
    # Pillow warns of its size, and torch of the protocol of a pickle: neither is a sentence of ours.
    row(
        FOLDERS, f"image {BAD} does not decode", "replace it", images(), picture_of_size(10_000, 10_000), has_begun=True
    ),
    row(ANALYZE, "runs/x/model.pkl cannot", "never run", MOE, without(TENSORS), malicious("runs/x/model.pkl")),
    row("collect --input_dir results", "results does not exist", "give the folder that holds"),
]
