"""The only process that may use the network: fetches a repository of a hub into a folder."""

import pytest

from pipeline.errors import DataError
from pipeline.external import sources
from pipeline.external.download import DownloadError
from tests.data.sources.test_huggingface import config_of


def test_a_download_that_fails(monkeypatch):
    def download(*request):
        raise DownloadError("no such thing")

    monkeypatch.setattr("pipeline.external.sources.download", download)
    match = r"could not be fetched \(no such thing\)\.\nLook at the id, data\.huggingface\.revision"
    with pytest.raises(DataError, match=match):
        sources.dataset_folder(config_of("organisation/name", allow_network=True).data)
