"""A folder of each kind that Hugging Face has."""

import pytest

from tests.policy import qwen_folders as folders


@pytest.fixture(scope="session", params=folders.KINDS)
def folder(request, tmp_path_factory):
    """A small random model in the real format; its name is its kind."""
    return folders.write(tmp_path_factory.mktemp("qwen") / request.param, request.param)
