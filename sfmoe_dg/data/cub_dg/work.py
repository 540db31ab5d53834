"""Make pictures in several processes, with one thread each; files are written atomically."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

import numpy as np
import torch

from sfmoe_dg.data.cub_dg.names import NATURAL
from sfmoe_dg.data.cub_dg.pictures import encode_jpeg, load_picture
from sfmoe_dg.data.cub_dg.plan import SourcePhoto, StyleFile
from sfmoe_dg.data.cub_dg.styles import TransformerNet, load_style, stylise
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import write_atomic


@dataclass(frozen=True)
class StyleTask:
    """One batch of photos in some domains, for one process."""

    images: Path
    folder: Path
    sources: tuple[SourcePhoto, ...]
    domains: tuple[str, ...]
    styles: tuple[StyleFile, ...]
    device: str

    @property
    def num_pictures(self) -> int:
        return len(self.sources) * len(self.domains)


def run_tasks(tasks: Sequence[StyleTask], jobs: int) -> Iterator[int]:
    """Run tasks, in this process if ``jobs`` is 1; yields each task's number of pictures when it is done.

    Raises:
        UserError: if a picture cannot be made or a process dies.
        OSError: if a file cannot be written.
    """
    if jobs == 1:
        with _one_thread():
            yield from map(_make, tasks)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_prepare_process) as pool:
        futures = [pool.submit(_make, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise UserError(
                "a process that made pictures died, most likely for lack of memory; give fewer jobs and the same "
                "command again: it continues where it stopped",
                "jobs",
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """With more threads, the last bits of sums would depend on the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _prepare_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process acts on Ctrl-C
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent is killed; otherwise it would wait for tasks for ever."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


@lru_cache(maxsize=16)
def _network(path: Path, sha256: str, device: str) -> TransformerNet:
    """Loaded once per process; ``sha256`` is part of the cache's key, in case the file is replaced."""
    return load_style(path, device).network


def _make(task: StyleTask) -> int:
    """Make the pictures of one task and return their number.

    The whole batch is computed even if some pictures are there: with a smaller batch, a GPU may round otherwise.
    """
    pictures = np.stack([load_picture(task.images / source.path, source.placement) for source in task.sources])
    styles = {style.domain: style for style in task.styles}
    for domain in task.domains:
        if domain == NATURAL:
            contents = map(partial(_natural, task), task.sources, pictures)
        else:
            style = styles[domain]
            contents = map(encode_jpeg, stylise(_network(style.path, style.sha256, task.device), pictures))
        for source, content in zip(task.sources, contents, strict=True):
            write_atomic(task.folder / source.file(domain), content)
    return task.num_pictures


def _natural(task: StyleTask, source: SourcePhoto, picture: np.ndarray) -> bytes:
    return (task.images / source.path).read_bytes() if source.is_copied else encode_jpeg(picture)
