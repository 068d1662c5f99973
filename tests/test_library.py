"""The agent as a library: the README's lines, run as they stand."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import ROOT

from controller.library import load
from env.run.errors import UserError


def test_the_readmes_lines_run_as_they_stand():
    text = (ROOT / "controller" / "README.md").read_text()
    [lines] = re.findall(r"```python\n(from controller\.library import load\n.*?)```", text, flags=re.S)
    assert sum(bool(line.strip()) for line in lines.splitlines()) <= 12
    names: dict = {}
    exec(lines, names)
    assert names["frame"].shape == (64, 64, 3) and names["frame"].dtype == np.uint8
    assert names["mu"].shape == names["logvar"].shape == (1, 64)
    assert names["picture"].shape == (1, 64, 64, 3)
    assert names["reward"] == 1.0
    assert names["dream"].render().shape == (64, 64, 3)
    names["game"].world.close()


def test_what_is_missing_is_said():
    with pytest.raises(UserError, match="unknown task"):
        load("mario")
    with pytest.raises(UserError, match="is missing"):
        load("doom", run="no/such/run")
