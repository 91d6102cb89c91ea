"""Every conf of a dataset names a loader and states each of its arguments."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest
from omegaconf import OmegaConf

CONFS = sorted((Path(__file__).resolve().parents[2] / "conf" / "data").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFS, ids=lambda path: path.stem)
def test_conf_states_exactly_the_arguments_of_its_loader(path):
    conf = OmegaConf.load(path)
    module, name = str(conf.pop("_target_")).rsplit(".", 1)
    loader = import_module(module)
    assert set(conf) == set(inspect.signature(getattr(loader, name)).parameters)
    assert isinstance(loader.VERSION, int)
    assert path.read_text().startswith("# ")
