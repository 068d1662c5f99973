"""Files: atomic writes, no pickles, damage found."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from env.run.errors import UserError
from env.run.files import TENSORBOARD, JsonlLog, load_arrays, read_jsonl, save_arrays, write_atomic


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomic(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("compress", [0, 1])
def test_arrays_and_meta_come_back(tmp_path, compress):
    arrays = {"a/b": np.arange(6, dtype=np.float16).reshape(2, 3), "c": np.array([True, False])}
    save_arrays(tmp_path / "x.npz", arrays, {"z_size": 3}, compress)
    back, meta = load_arrays(tmp_path / "x.npz")
    assert meta == {"z_size": 3}
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype


def test_pickles_are_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was run",))

    (tmp_path / "a.npz").write_bytes(pickle.dumps(Trap()))
    np.savez(tmp_path / "b.npz", x=np.array([Trap()], dtype=object))
    np.save(tmp_path / "c.npy", np.array([Trap()], dtype=object))
    for name, message in (("a.npz", "is a pickle"), ("b.npz", "pickled objects"), ("c.npy", "not an .npz")):
        with pytest.raises(UserError, match=message):
            load_arrays(tmp_path / name)


def test_damage_is_found(tmp_path):
    path = tmp_path / "x.npz"
    save_arrays(path, {"a": np.arange(1000)})
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for bad in (whole[: len(whole) // 2], bytes(flipped), b"", b"PK"):
        path.write_bytes(bad)
        with pytest.raises(UserError):
            load_arrays(path)
    with pytest.raises(UserError, match="missing"):
        load_arrays(tmp_path / "none.npz")


def test_a_resumed_log_drops_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "log.jsonl"
    log = JsonlLog(path)
    for step in (1, 2, 3):
        log.append({"step": step, "loss": 0.1 + step})
    path.write_text(path.read_text() + '{"step": 4, "lo')
    JsonlLog(path, keep=lambda row: row["step"] <= 2).append({"step": 3})
    assert read_jsonl(path) == [{"step": 1, "loss": 1.1}, {"step": 2, "loss": 2.1}, {"step": 3}]


def test_a_trainings_log_for_tensorboard(tmp_path, monkeypatch):
    """The same numbers, at the same steps; and nothing unless it is asked for."""
    import tensorflow as tf

    JsonlLog(tmp_path / "plain" / "log.jsonl", steps="step").append({"step": 1, "loss": 0.5})
    assert not (tmp_path / "plain" / "tensorboard").exists()
    monkeypatch.setenv(TENSORBOARD, "1")
    log = JsonlLog(tmp_path / "vae" / "log.jsonl", steps="step")
    for step in (10, 20):
        log.append({"step": step, "loss": 0.5 * step, "note": "words"})
    del log
    [events] = (tmp_path / "vae" / "tensorboard").glob("events*")
    found = [
        (event.step, value.tag, float(tf.make_ndarray(value.tensor)))
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
    ]
    assert found == [(10, "vae/loss", 5.0), (20, "vae/loss", 10.0)]
    assert len(read_jsonl(tmp_path / "vae" / "log.jsonl")) == 2
