"""Keys for the ends of the control plane."""

from __future__ import annotations

import pytest

from tests.control_ends import (
    Keys,
    make_key,
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    return Keys(*(make_key(folder, name) for name in ("home", "relay", "other")))
