"""Running units of work: in this process, on several processes, or on a dask cluster (joblib)."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

import joblib
import torch

from benchmark.work import Unit, measure

BACKENDS = ("loky", "dask")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """Who computes; made by `Workers.of`, which checks.

    Args:
        jobs: processes; 1 is this process. A dask cluster has its own.
        device: as torch names it; every worker of ``cuda`` has one device, in turn.
        backend: one of `BACKENDS`.
        scheduler: address of a dask scheduler.
    """

    jobs: int
    device: str
    backend: str = "loky"
    scheduler: str | None = None

    @classmethod
    def of(
        cls, jobs: int | None, device: str, backend: str = "loky", scheduler: str | None = None
    ) -> "Workers":
        """Checked settings; ``jobs`` None is one per processor, and one on accelerators.

        Raises:
            ValueError: no such device or backend, fewer than one job, dask without an address.
        """
        chosen = available_device(device)
        if jobs is not None and jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {jobs}")
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        if backend == "dask" and scheduler is None:
            raise ValueError(
                "scheduler must be the address of a dask scheduler for backend dask, got none; "
                "add --scheduler tcp://host:8786"
            )
        if backend != "dask" and scheduler is not None:
            raise ValueError(f"scheduler must come with backend dask, got {backend}")
        if backend == "dask" and find_spec("distributed") is None:
            raise ValueError(
                "backend dask must have dask.distributed installed, got none; "
                "pip install 'benchmark-of-refused-defenses[dask]'"
            )
        default = joblib.cpu_count() if chosen == "cpu" else 1
        return cls(jobs or default, chosen, backend, scheduler)

    def run(self, units: Sequence[Unit], results: Path) -> Iterator[tuple[str, int]]:
        """Compute units, in any order; each is on disk when its cell id and size come out.

        Workers of a cluster see the results and the caches in the folders that this process names.

        Raises:
            OSError: files can't be written, or a worker died.
        """
        yield from self.each(partial(measure, device=self.device, results=results), units)

    def each(self, function: Callable[[Any], Result], tasks: Iterable[Any]) -> Iterator[Result]:
        """What a function returns for each task, in any order; both must be picklable.

        Raises:
            OSError: a worker died; and whatever the function raises.
        """
        if self.backend == "loky" and self.jobs == 1:
            yield from map(function, tasks)
            return
        here = _Here(tuple(sys.path), function)
        calls = (joblib.delayed(here)(task) for task in tasks)
        with self._cluster():
            parallel = joblib.Parallel(
                n_jobs=self.jobs if self.backend == "loky" else -1,
                return_as="generator_unordered",
                batch_size=1,
                max_nbytes=None,
            )
            try:
                yield from parallel(calls)
            except BrokenExecutor as error:
                raise ChildProcessError(
                    "a worker process died, perhaps for lack of memory; everything finished is "
                    "kept: run the same command again, with fewer --jobs"
                ) from error

    @contextmanager
    def _cluster(self) -> Iterator[None]:
        """Joblib's default processes, or the dask cluster of this scheduler."""
        if self.backend == "loky":
            yield
            return
        distributed = import_module("distributed")
        with distributed.Client(self.scheduler), joblib.parallel_config(backend="dask"):
            yield


@dataclass(frozen=True)
class _Here(Generic[Result]):
    """A function for workers that look for modules in the folders where this process does.

    It is unpickled before its tasks, whose attacks may be of a module in the current folder; a
    worker that an earlier sweep left alive learns of the folder in this way.
    """

    folders: tuple[str, ...]
    function: Callable[[Any], Result]

    def __call__(self, task: Any) -> Result:
        return self.function(task)

    def __reduce__(self) -> tuple[Any, ...]:
        return _settle, (self.folders, self.function)


def _settle(folders: tuple[str, ...], function: Callable[[Any], Result]) -> "_Here[Result]":
    """Unpickle a `_Here`."""
    sys.path += [folder for folder in folders if folder not in sys.path]
    return _Here(folders, function)


def available_device(name: str) -> str:
    """``auto`` resolved, anything else checked.

    Raises:
        ValueError: this machine has no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device must be available here, got {name!r}; use cpu, or auto for the best there is"
        ) from error
    return name
