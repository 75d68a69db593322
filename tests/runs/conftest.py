"""The store's own tests do not wait for the disk, nor for git: neither is what they are about."""

import os

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr("anm_nb.runs.provenance._git", lambda *arguments: None)
        yield
