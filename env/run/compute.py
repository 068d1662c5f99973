"""Starting TensorFlow: quietly, with the right threads, and off the GPU where a rank has no business on it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what native code writes to stderr, and show it only if the block fails.

    TensorFlow's libraries greet on stderr before any log level is in force; a user's one-line error would drown in it.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(saved, 2)
            held.seek(0)
            sys.stderr.write(held.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


@contextlib.contextmanager
def hidden(*packages: str) -> Iterator[None]:
    """Within the block, packages that were not imported before it seem not to be installed."""
    names = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]  # None is what the import system takes for "not there"
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


def _prepare_tensorflow() -> None:
    """What TensorFlow reads from the environment when it is imported. It uses oneDNN's convolutions and products by itself only on
    CPUs with AVX-512; on others, too, they train V twice and M 1.3 times as fast."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def _import_tensorflow() -> None:
    """Import TensorFlow, and keep it quiet."""
    _prepare_tensorflow()
    # It and Keras import these two wherever they are, for converters and galleries that nothing here uses: a quarter of the time.
    with quiet_stderr(), hidden("jax", "matplotlib"):
        import tensorflow  # noqa: F401


def start_tensorflow() -> None:
    """Import TensorFlow for training V or M: all cores, and a GPU where there is one, taking its memory as needed."""
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    _import_tensorflow()
    with quiet_stderr():
        import tensorflow as tf

        tf.zeros(())


def limit_threads(tensorflow: bool = True, gpu: bool = False) -> None:
    """Keep this process to one thread and off any GPU: each rank has one core to itself, and 64 ranks would fill a GPU.

    To be called before TensorFlow does its first operation.

    Args:
        tensorflow: whether to import it, too.
        gpu: leave it the GPU after all, taking its memory as needed.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    if gpu:
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    _prepare_tensorflow()
    import cv2

    cv2.setNumThreads(0)
    if tensorflow:
        _import_tensorflow()
        with quiet_stderr():
            import tensorflow as tf

            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)
            tf.zeros(())


def steady_sizes(size: int) -> list[int]:
    """Numbers of rows, `size` or a little more, at which a matrix product may treat all rows alike, so that what a row gives does
    not depend on its place. The rows that are left over beside the 6 that AVX2's products take at a time, or the 16 of AVX-512's, are
    computed by another code, which may round otherwise; how it is on this CPU must be tried."""
    return sorted({-(-size // rows) * rows for rows in (1, 6, 16, 48)})


def has_gpu() -> bool:
    """Whether TensorFlow finds a GPU; asked of a process of its own, for this one may have to keep off it. Takes some seconds."""
    code = "import sys, tensorflow as tf; sys.exit(not tf.config.list_physical_devices('GPU'))"
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False).returncode == 0


QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container (cgroup v2): microseconds, or max, in each period of so many


def available_cores(quota: Path = QUOTA) -> int:
    """Cores that this process may use: those it is bound to, and no more than the time that its container is given is worth."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, period = quota.read_text().split()
        return max(1, min(cores, round(int(most) / int(period))))
    except (OSError, ValueError):  # no container, or one without a limit
        return cores
